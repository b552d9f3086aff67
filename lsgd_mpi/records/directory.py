"""Naming, claiming and describing a run directory."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from numbers import Integral, Real
from pathlib import Path, PurePath

from lsgd_mpi.errors import RunDirectoryError
from lsgd_mpi.records.columns import CONFIG_FILE, ENVIRONMENT_FILE, RANKS_FOLDER

_ADVICE = "choose another one with --run-dir"


def default_run_dir(algorithm: str, model: str, dataset: str, now: datetime) -> Path:
    """Return ``runs/<algorithm>-<model>-<dataset>-<UTC time>``, below the working directory.

    Only one rank may call it: clocks of two ranks differ.

    Args:
        algorithm: registered name; this and the next two become one word each of the folder's name.
        model: the model's name.
        dataset: the data set's name.
        now: the start time with its time zone; the name has its seconds, in UTC.

    Raises:
        ValueError: ``now`` has no time zone, so that UTC cannot be told from it.

    """
    if now.tzinfo is None:
        raise ValueError("now must carry its time zone, for example datetime.now(timezone.utc)")
    words = [re.sub(r"[^\w.]+", "_", word, flags=re.ASCII) for word in (algorithm, model, dataset)]
    time = now.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return Path("runs") / "-".join([*words, time])


def claim_run_directory(path: Path) -> None:
    """Make ``path`` this run's directory, with ``ranks/`` in it, before anything starts.

    World rank 0 calls it. A refusal leaves nothing behind, not even the parents it had to make.

    Raises:
        RunDirectoryError: ``path`` is a file or a non-empty directory, another run claims it at this
            moment, or it cannot be written.

    """
    with contextlib.ExitStack() as undo:
        try:
            for folder in (*reversed(path.parents), path):
                _make_folder(folder, undo)
            if any(path.iterdir()):
                raise RunDirectoryError(f"run directory {path} is not empty: {_ADVICE}")
            # Of two runs that find the directory empty, only one can make this folder.
            (path / RANKS_FOLDER).mkdir()
            undo.callback(_remove_folder, path / RANKS_FOLDER)
            _try_writing(path / RANKS_FOLDER)
        except FileExistsError as error:
            raise RunDirectoryError(f"another run just took run directory {path}: {_ADVICE}") from error
        except NotADirectoryError as error:
            raise RunDirectoryError(
                f"run directory {path} cannot be made, a file is in the way: {_ADVICE}"
            ) from error
        except OSError as error:
            raise RunDirectoryError(
                f"cannot write run directory {path}, {error.strerror}: {_ADVICE}"
            ) from error
        undo.pop_all()


def write_config(run_dir: Path, options: Mapping[str, object]) -> None:
    """Write every resolved option to ``config.yaml``, in the order given.

    Raises:
        RunDirectoryError: the file cannot be written.
        TypeError: an option is no plain value; the message names it.

    """
    # Here and not above, because it costs readers of a run a tenth of a second.
    import yaml

    _write_whole(run_dir / CONFIG_FILE, yaml.safe_dump(_plain(options, "config"), sort_keys=False))


def write_environment(run_dir: Path, environment: Mapping[str, object]) -> None:
    """Write what the run ran on, usually from `collect_environment`, to ``environment.json``.

    Raises:
        RunDirectoryError: the file cannot be written.
        TypeError: a value is no plain value; the message names it.
        ValueError: a number is not finite, which JSON cannot hold.

    """
    text = json.dumps(_plain(environment, "environment"), indent=2, allow_nan=False)
    _write_whole(run_dir / ENVIRONMENT_FILE, text + "\n")


def _make_folder(folder: Path, undo: contextlib.ExitStack) -> None:
    if folder.is_dir():
        return
    try:
        folder.mkdir()
    except FileExistsError:
        if folder.is_dir():
            return
        raise NotADirectoryError(f"{folder} is not a directory") from None
    undo.callback(_remove_folder, folder)


def _remove_folder(folder: Path) -> None:
    # Someone else may have put something there meanwhile: theirs stays.
    with contextlib.suppress(OSError):
        folder.rmdir()


def _try_writing(folder: Path) -> None:
    probe = folder / ".probe"
    try:
        with probe.open("xb", buffering=0) as file:
            file.write(b"a full disk lets a file be made, but not be filled\n")
    finally:
        probe.unlink(missing_ok=True)


def _write_whole(path: Path, text: str) -> None:
    """Put ``text`` in place in one move, so that nobody ever reads half of it."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        try:
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, path)  # noqa: PTH105 -- the word says that an earlier file gives way
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {path}: {error.strerror}") from error


def _plain(value: object, name: str) -> object:
    """Return ``value`` in the types that YAML and JSON share; ``name`` says where it came from."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_plain(item, name) for item in value]
    raise TypeError(f"{name} is a {type(value).__name__}, which the run directory cannot record")
