"""The options of a training run: from a YAML file and the command line to one checked, frozen value."""

from __future__ import annotations

import argparse
import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lsgd_mpi.algorithms import ALGORITHMS, VARIANTS, Algorithm, Options, find_algorithm, flag, make_options
from lsgd_mpi.clock import CLOCKS
from lsgd_mpi.data import DATASETS, WITHOUT_FILES
from lsgd_mpi.errors import UsageError
from lsgd_mpi.groups import GroupSpec, format_groups, parse_groups
from lsgd_mpi.models import MODELS
from lsgd_mpi.names import did_you_mean

#: torch's generators take 64 bits, of which the ranks need some for themselves.
_LARGEST_SEED = 2**32 - 1
_LARGEST_COUNT = 2**31 - 1

OPTIMIZERS = ("sgd", "adam", "adamw", "lars")

_WITH_MOMENTUM = ("sgd", "lars")
_DEFAULT_MOMENTUM = 0.9

#: Factor of the learning rate at a milestone.
DEFAULT_LR_DECAY = 0.1


def _option(default: Any, help_text: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": help_text, "choices": choices})


@dataclass(frozen=True)
class TrainOptions:
    """What to train and how; the options of the algorithm itself stand in ``method``."""

    algorithm: str = _option("lsgd", "method by which the ranks cooperate", ALGORITHMS)
    clock: str | None = _option(
        None,
        "what drives the rounds: the step that all make together, the shared count of all iterations, each "
        "worker's own count, or wall-clock time (default: step, where the method has it)",
        CLOCKS,
    )
    groups: GroupSpec = _option(
        "node", "'node' (one group a node), the size of a group (4), or world ranks ('0-3;4,6;5,7')"
    )
    model: str = _option("cnn7", "network", MODELS)
    dataset: str = _option("fashion-mnist", "data set", DATASETS)
    data_dir: Path | None = _option(None, "where the data set's files are (default: the user's cache)")
    download: bool = _option(True, "download a data set that is not there")
    limit: int | None = _option(None, "keep only the first so many training and test images")
    batch_size: int = _option(128, "images a mini-batch of one rank")
    epochs: float | None = _option(
        None, "stop after so many passes over the data (default: 10, without --steps or --minutes)"
    )
    steps: int | None = _option(None, "stop after so many iterations of each rank")
    minutes: float | None = _option(None, "stop after so many minutes of training")
    optimizer: str = _option("sgd", "optimizer that each worker runs by itself", OPTIMIZERS)
    lr: float = _option(0.05, "learning rate η")
    lr_milestones: tuple[float, ...] = _option(
        (), "epochs at which the learning rate drops, such as 30,60,90"
    )
    lr_decay: float | None = _option(None, "factor by which it drops (default: 0.1, with --lr-milestones)")
    momentum: float | None = _option(
        None, "momentum δ of sgd and lars (default: 0.9, or 0 for methods whose paper has none)"
    )
    nesterov: bool | None = _option(
        None, "Nesterov's form of sgd's momentum (default: for eamsgd and msgd alone)"
    )
    weight_decay: float = _option(1e-4, "l2 regularisation")
    seed: int = _option(0, "seed of the initialisation and of the data's order")
    device: str = _option("auto", "where to compute", ("auto", "cpu", "cuda"))
    threads: int | None = _option(None, "threads a rank computes with (default: the node's cores shared out)")
    eval_every: int | None = _option(None, "iterations between two evaluations (default: one epoch)")
    recalibrate: int = _option(
        20, "training batches a rank re-estimates batch-norm statistics with before it evaluates"
    )
    log_every: int = _option(50, "iterations between two rows of a rank's own table")
    slow_rank: tuple[tuple[int, float], ...] = _option(
        (), "slow world ranks down on purpose, such as 2=3.0 (three times as long a step) or 0=1.5,2=3"
    )
    stall_timeout: float = _option(
        120.0, "seconds that a rank waits for the others in one exchange before it ends the job (0: for ever)"
    )
    run_dir: Path | None = _option(
        None, "where the run is written (default: runs/<algorithm>-<model>-<dataset>-<UTC time>)"
    )
    method: Options = field(default_factory=Options, metadata={"help": "the algorithm's own options"})

    def __post_init__(self) -> None:
        _check(self)

    def as_dict(self) -> dict[str, Any]:
        """Every option with its value, flat, for config.yaml, which `--config` reads again."""
        values = {each.name: getattr(self, each.name) for each in _fields()}
        if not isinstance(self.groups, str | int):
            values["groups"] = format_groups(self.groups)
        values["slow_rank"] = ",".join(f"{world_rank}={factor!r}" for world_rank, factor in self.slow_rank)
        return {**values, **dataclasses.asdict(self.method)}


def make_train_options(given: Mapping[str, Any]) -> TrainOptions:
    """Options from names and values; what is not given has its default. Raises `UsageError`."""
    own = {each.name for each in _fields()}
    methods = {each.name for each, _ in _method_fields()}
    for name in given:
        if name not in own | methods:
            hint = did_you_mean(name, own | methods)
            raise UsageError(f"unknown option {name!r}{hint and f'; {hint}'}")
    algorithm = given.get("algorithm", TrainOptions.algorithm)
    clock = given.get("clock")
    method = make_options(algorithm, {name: value for name, value in given.items() if name not in own}, clock)
    training = {name: value for name, value in given.items() if name in own}
    return TrainOptions(**_with_defaults(algorithm, training), method=method)


def _with_defaults(algorithm: str, given: dict[str, Any]) -> dict[str, Any]:
    """With what the method's paper takes where nothing is given."""
    optimizer = given.get("optimizer", TrainOptions.optimizer)
    cls = find_algorithm(algorithm, given.get("clock"))
    defaults: dict[str, Any] = {"clock": cls.clocks[0]}
    if optimizer in _WITH_MOMENTUM:
        defaults["momentum"] = _DEFAULT_MOMENTUM
    if optimizer == "sgd":
        defaults["nesterov"] = False
    for name, value in cls.training_defaults.items():
        if name in defaults:
            defaults[name] = value
    if given.get("momentum") == 0 and optimizer == "sgd":
        defaults["nesterov"] = False
    return {**defaults, **{name: value for name, value in given.items() if value is not None}}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add every option of training, each left out of the namespace unless the user gives it."""
    group = parser.add_argument_group("training")
    for each in _fields():
        _add_option(group, each, _readers()[each.name])
    added: set[str] = set()
    readers = _method_readers()
    for name, variants in VARIANTS.items():
        # Methods may share an option; it stands where it comes first.
        new = {
            each.name: each
            for cls in variants
            for each in dataclasses.fields(cls.options_class)
            if each.name not in added
        }
        if new:
            method = parser.add_argument_group(f"options of --algorithm {name}")
            for each in new.values():
                _add_option(method, each, readers[each.name])
            added |= new.keys()


def read_config(path: Path) -> dict[str, Any]:
    """Names and values from a YAML file. Raises `UsageError` if it is not one flat mapping of options."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise UsageError(f"--config {path}: no valid YAML{line}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise UsageError(f"--config {path}: write one 'option: value' a line")
    readers, defaults = {**_readers(), **_method_readers()}, _defaults()
    given = {}
    for key, value in loaded.items():
        name = key.replace("-", "_")
        try:
            given[name] = _from_yaml(value, readers[name], defaults[name]) if name in readers else value
        except (ValueError, TypeError) as error:
            raise UsageError(f"--config {path}: {key}: {value!r} cannot be used ({error})") from error
    return given


def _from_yaml(value: Any, reader: Callable[[str], Any], default: Any) -> Any:
    if value is None:
        if default is not None:
            raise ValueError("it needs a value")
        return None
    if isinstance(value, bool) != (reader is bool):
        raise ValueError("write true or false" if reader is bool else "true and false are no values of it")
    if reader is bool:
        return value
    if isinstance(value, list) and reader in (parse_groups, *_LISTS.values()):
        if reader is parse_groups and value and all(isinstance(members, list) for members in value):
            return reader(";".join(",".join(map(str, members)) for members in value))
        return reader(",".join(map(str, value)))
    if isinstance(value, list | dict):
        raise ValueError("write one value")
    return reader(str(value))


def _fields() -> list[dataclasses.Field[Any]]:
    return [each for each in dataclasses.fields(TrainOptions) if each.name != "method"]


def _method_fields() -> list[tuple[dataclasses.Field[Any], type[Algorithm]]]:
    """Every option of every method, with a class that has it."""
    return [
        (each, cls)
        for variants in VARIANTS.values()
        for cls in variants
        for each in dataclasses.fields(cls.options_class)
    ]


def _readers() -> dict[str, Callable[[str], Any]]:
    types = typing.get_type_hints(TrainOptions)
    special: dict[str, Callable[[str], Any]] = {"groups": parse_groups, **_LISTS}
    return {each.name: special.get(each.name) or _reader(types[each.name]) for each in _fields()}


def _method_readers() -> dict[str, Callable[[str], Any]]:
    return {
        each.name: _reader(typing.get_type_hints(cls.options_class)[each.name])
        for each, cls in _method_fields()
    }


def _defaults() -> dict[str, Any]:
    methods = [each for each, _ in _method_fields()]
    return {each.name: each.default for each in (*methods, *_fields())}


def _reader(annotation: Any) -> Callable[[str], Any]:
    # "int | None" is read as int.
    kinds = [kind for kind in typing.get_args(annotation) or (annotation,) if kind is not type(None)]
    return typing.cast("Callable[[str], Any]", kinds[0])


def _milestones(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(item) for item in text.split(",") if item.strip())
    except ValueError as error:
        raise UsageError(f"--lr-milestones {text!r}: write epochs such as 30,60,90") from error


def _slow_ranks(text: str) -> tuple[tuple[int, float], ...]:
    try:
        pairs = [item.split("=") for item in text.split(",") if item.strip()]
        slow = tuple((int(world_rank), float(factor)) for world_rank, factor in pairs)
    except ValueError as error:
        raise UsageError(
            f"--slow-rank {text!r}: write a world rank and how many times slower: 2=3.0"
        ) from error
    if len(dict(slow)) < len(slow):
        raise UsageError(f"--slow-rank {text!r} names a world rank twice")
    return slow


#: Options that are lists, with what reads them.
_LISTS: dict[str, Callable[[str], Any]] = {"lr_milestones": _milestones, "slow_rank": _slow_ranks}


def _argument(name: str, reader: Callable[[str], Any]) -> Callable[[str], Any]:
    if reader not in (parse_groups, *_LISTS.values()):
        return reader

    def read(text: str) -> Any:
        try:
            return reader(text)
        except UsageError as error:
            # argparse replaces the sentence of a ValueError, and puts the flag before this one's.
            raise argparse.ArgumentTypeError(str(error).removeprefix(f"{flag(name)} ")) from error

    return read


def _add_option(
    group: argparse._ArgumentGroup, each: dataclasses.Field[Any], reader: Callable[[str], Any]
) -> None:
    help_text = each.metadata["help"]
    if each.default not in (None, ()):
        help_text += f" (default: {each.default})"
    if symbol := each.metadata.get("symbol"):
        help_text = f"{symbol}: {help_text}"
    settings: dict[str, Any] = {"dest": each.name, "default": argparse.SUPPRESS, "help": help_text}
    if reader is bool:
        settings["action"] = argparse.BooleanOptionalAction
    else:
        settings.update(type=_argument(each.name, reader), metavar=each.name.split("_")[-1].upper())
    if choices := each.metadata["choices"]:
        settings["metavar"] = "{" + ",".join(choices) + "}"
    group.add_argument(flag(each.name), **settings)


def _check(options: TrainOptions) -> None:
    for each in _fields():
        value, choices = getattr(options, each.name), each.metadata["choices"]
        if choices and value not in choices:
            hint = did_you_mean(str(value), choices)
            raise UsageError(
                f"{flag(each.name)} {value!r}: choose from {', '.join(choices)}{hint and f'; {hint}'}"
            )
    for name in ("batch_size", "log_every", "eval_every", "recalibrate", "steps", "threads", "limit"):
        value = getattr(options, name)
        if value is not None and not 1 <= value <= _LARGEST_COUNT:
            raise UsageError(f"{flag(name)} {value}: a whole number from 1 to {_LARGEST_COUNT}")
    for name in ("epochs", "minutes", "lr", "lr_decay"):
        value = getattr(options, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UsageError(f"{flag(name)} {value}: a finite number above 0")
    for name in ("weight_decay", "stall_timeout"):
        value = getattr(options, name)
        if not (value >= 0 and math.isfinite(value)):
            raise UsageError(f"{flag(name)} {value}: a finite number, at least 0")
    if not 0 <= options.seed <= _LARGEST_SEED:
        raise UsageError(f"--seed {options.seed}: a whole number from 0 to {_LARGEST_SEED}")
    for world_rank, factor in options.slow_rank:
        if world_rank < 0 or not (factor >= 1 and math.isfinite(factor)):
            raise UsageError(
                f"--slow-rank {world_rank}={factor:g}: a world rank from 0, and a finite factor of at least 1"
            )
    for epoch in options.lr_milestones:
        if not (epoch > 0 and math.isfinite(epoch)):
            raise UsageError(f"--lr-milestones {epoch}: a finite number of epochs above 0")
    if options.momentum is not None and not 0 <= options.momentum < 1:
        raise UsageError(f"--momentum {options.momentum}: at least 0 and below 1")
    if options.momentum is not None and options.optimizer not in _WITH_MOMENTUM:
        raise UsageError(f"--momentum {options.momentum} has no effect with --optimizer {options.optimizer}")
    if options.nesterov and options.optimizer != "sgd":
        raise UsageError(f"--nesterov has no effect with --optimizer {options.optimizer}")
    if options.lr_milestones and find_algorithm(options.algorithm).sets_learning_rate:
        raise UsageError(f"--lr-milestones: {options.algorithm} itself sets the learning rate")
    if options.lr_decay is not None and not options.lr_milestones:
        raise UsageError(f"--lr-decay {options.lr_decay} has no effect without --lr-milestones")
    if options.data_dir is not None and options.dataset in WITHOUT_FILES:
        raise UsageError(f"--data-dir {options.data_dir} has no effect: {options.dataset} has no files")
    if options.nesterov and not options.momentum:
        raise UsageError("--nesterov has no effect with --momentum 0: give a momentum or leave it out")
