"""A host and its slots, checked; a *slot* is a place for one rank."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from lsgd_mpi.errors import SetupError

_LABEL = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_DOTTED_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)+")


@dataclass(frozen=True)
class Host:
    """A host and the number of ranks it has room for."""

    name: str
    #: None where nobody said; Open MPI then takes the host's cores.
    slots: int | None

    def __post_init__(self) -> None:
        if _DOTTED_NUMBERS.fullmatch(self.name) and not _is_address(self.name, ipaddress.IPv4Address):
            raise SetupError(f"{self.name!r} is no IPv4 address: it has four numbers from 0 to 255")
        if not _NAME.fullmatch(self.name) and not is_ipv6(self.name):
            raise SetupError(
                f"{short(self.name)} is no host name: between its dots there are 1 to 63 letters, digits, "
                "'-' and '_', and no '-' at the beginning"
            )
        if self.slots is not None and self.slots < 1:
            raise SetupError(f"{self.name!r} has {self.slots} slots: give it 1 or more, or delete the host")


def is_ipv6(text: str) -> bool:
    """Whether ``text`` is an IPv6 address."""
    return ":" in text and _is_address(text, ipaddress.IPv6Address)


def _is_address(text: str, kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def short(text: str, most: int = 60) -> str:
    """``text`` in quotes, cut to what fits into a sentence."""
    return repr(text if len(text) <= most else f"{text[:most]}...")
