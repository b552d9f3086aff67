"""``lsgd-mpi train``: train a network on the ranks that the launcher started."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lsgd_mpi.config import TrainOptions, add_options, make_train_options, read_config
from lsgd_mpi.launcher import promise
from lsgd_mpi.presets import preset_path

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_EPILOG = """Start it with a launcher, one process a rank:
  lsgd-mpi launch -np 4 -- train --groups 2
  mpirun -np 4 lsgd-mpi train --groups 2
  horovodrun -np 4 lsgd-mpi train --groups 2
Without one it is a single worker. Exit codes: 0 done, 1 unexpected error, 2 bad usage, 3 environment,
4 data, 5 run directory, 6 numerical failure, 7 communication failure."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand ``train``; its ``arguments.run`` is `run`."""
    parser = subparsers.add_parser(
        "train",
        help="train a network",
        description="Train a network on the ranks that the launcher started.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--preset", help="options of a paper's experiment ('lsgd-mpi presets'), which --config overrides"
    )
    parser.add_argument(
        "--config", type=Path, help="YAML file with options, which the command line overrides"
    )
    parser.add_argument("--print-config", action="store_true", help="print all options and stop")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train; return the exit code 0. Errors are raised on all ranks together where all can know them."""
    from lsgd_mpi import comm, runtime

    runtime.watch_start()
    given = dict(vars(arguments))
    del given["run"]
    printing = given.pop("print_config", False)
    options = comm.together(lambda: _options(given))
    if printing:
        promised = promise()
        if promised is None or promised.rank == 0:
            print(yaml.safe_dump(_plain(options), sort_keys=False, allow_unicode=True), end="")
        return 0
    return _train(options)


def _options(given: dict[str, object]) -> TrainOptions:
    preset, path = given.pop("preset", None), given.pop("config", None)
    from_preset = {} if preset is None else read_config(preset_path(str(preset)))
    from_file = read_config(Path(str(path))) if path else {}
    return make_train_options({**from_preset, **from_file, **given})


def _train(options: TrainOptions) -> int:
    import lsgd_mpi
    from lsgd_mpi import comm
    from lsgd_mpi.algorithms import find_algorithm
    from lsgd_mpi.progress import ConsoleHandler
    from lsgd_mpi.trainer import train

    comm.check_equal("options", _plain(options))
    method = find_algorithm(options.algorithm, options.clock)
    lsgd_mpi.init(
        options.groups,
        stall_timeout_s=options.stall_timeout,
        horovod_gives_way=(options.clock or method.clocks[0]) == "step" and method.pattern != "gradients",
    )
    logger = logging.getLogger("lsgd_mpi")
    logger.setLevel(logging.INFO)
    logger.addHandler(ConsoleHandler(logging.INFO if lsgd_mpi.rank() == 0 else logging.ERROR))
    run_dir = train(options)
    if lsgd_mpi.rank() == 0:
        led = method.elects_leaders
        print(f"done: who led, with 'lsgd-mpi leaders {run_dir}'" if led else f"done: {run_dir}", flush=True)
    lsgd_mpi.shutdown()
    return 0


def _plain(options: TrainOptions) -> dict[str, object]:
    values = options.as_dict()
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }
