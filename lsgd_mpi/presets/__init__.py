"""The papers' experiments as files of options: one YAML file a preset, its header says what it is.

Reading them needs no torch. `lsgd_mpi.config.read_config` reads their options.
"""

from __future__ import annotations

from pathlib import Path

from lsgd_mpi.errors import UsageError
from lsgd_mpi.names import did_you_mean

__all__ = ["describe_preset", "preset_names", "preset_path", "preset_text"]

_FOLDER = Path(__file__).parent
#: Near names that a refusal of an unknown one tells.
_NEAR = 3


def preset_names() -> tuple[str, ...]:
    """The names of all presets, in alphabetical order."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def preset_path(name: str) -> Path:
    """The file of the preset ``name``. Raises `UsageError` with near names for an unknown one."""
    known = preset_names()
    # A lookup, not a path made of what was given: "../x" is as unknown as any other name.
    if name not in known:
        hint = did_you_mean(name, known, _NEAR)
        raise UsageError(
            f"unknown preset {name!r}: {hint}{' ' if hint else ''}'lsgd-mpi presets' lists all {len(known)}"
        )
    return _FOLDER / f"{name}.yaml"


def preset_text(name: str) -> str:
    """The file of the preset ``name`` as it stands, header and options. Raises `UsageError`."""
    return preset_path(name).read_text(encoding="utf-8")


def describe_preset(name: str) -> str:
    """One line on the preset ``name``: the first of its header. Raises `UsageError`."""
    return preset_text(name).partition("\n")[0].removeprefix("#").strip()
