"""What to say about a name that is not in a registry."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from lsgd_mpi.errors import UsageError


def unknown_name(kind: str, name: str, known: Sequence[str]) -> UsageError:
    """The error for an unknown ``name`` of a ``kind`` ("model", "data set"), with the names that exist.

    Names that look like ``name`` come first, as a question.
    """
    near = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}known are {', '.join(known)}")
