"""What to say about a name that is not in a registry."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from lsgd_mpi.errors import UsageError


def did_you_mean(name: str, known: Collection[str], most: int = 1) -> str:
    """A question with at most so many of the ``known`` names that look like ``name``, or nothing."""
    begun = sorted(each for each in known if name and each.startswith(name))
    alike = difflib.get_close_matches(name.lower(), known, n=most, cutoff=0.5)
    near = list(dict.fromkeys([*begun, *alike]))[:most]
    return f"did you mean {' or '.join(near)}?" if near else ""


def unknown_name(kind: str, name: str, known: Collection[str]) -> UsageError:
    """The error for an unknown ``name`` of a ``kind`` ("model", "data set"), with the names that exist.

    Names that look like ``name`` come first, as a question.
    """
    hint = did_you_mean(name, known, most=2)
    return UsageError(f"unknown {kind} {name!r}: {hint}{' ' if hint else ''}known are {', '.join(known)}")
