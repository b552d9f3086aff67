"""Hostfiles: read from any launcher, written for any other.

The syntaxes are those of Open MPI's parser (PRRTE's ``hostfile.c``), of MPICH's (hydra), of horovodrun's
(``horovod.runner.common.util.hosts``), and the list that they take after ``--host``, ``-hosts`` and ``-H``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lsgd_mpi.errors import SetupError, UsageError
from lsgd_mpi.hosts.host import Host, is_ipv6, short
from lsgd_mpi.names import unknown_name

#: Each syntax with a line as it stands in it.
EXAMPLES = {
    "openmpi": "node1 slots=4",
    "mpich": "node1:4",
    "horovodrun": "node1 slots=4",
    "list": "node1:4,node2:4",
}
SYNTAXES = tuple(EXAMPLES)

_OPENMPI_OPTION = re.compile(r"([^\s=]+)\s*=\s*(\S*)\s*")
_HOROVODRUN_LINE = re.compile(r"(\S+)\s+slots=(\S+)")

#: What is larger is no hostfile, and would fill the memory.
_MOST_BYTES = 2**24


@dataclass(frozen=True)
class _Line:
    """A line without its comment and outer blanks, and where it stands."""

    source: str
    number: int
    text: str

    def refusal(self, problem: str) -> SetupError:
        return SetupError(f"{self.source}, line {self.number}: {problem}")

    def host(self, name: str, slots: str | None) -> Host:
        try:
            return Host(name, None if slots is None else _slot_count(slots))
        except SetupError as error:
            raise self.refusal(str(error)) from None


def read_hosts(path: str | Path, syntax: str | None = None) -> tuple[Host, ...]:
    """Read the hostfile at ``path``; see `parse_hosts`. Raises `SetupError` too if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SetupError(f"cannot read the hostfile {path}: {error.strerror}") from None
    return parse_hosts(decode_hosts(raw, str(path)), syntax, str(path))


def decode_hosts(raw: bytes, name: str = "hostfile") -> str:
    """The text of a hostfile's bytes, ``name`` saying in errors what was read. Raises `SetupError`."""
    if len(raw) > _MOST_BYTES:
        raise SetupError(f"{name} is no hostfile: it has more than {_MOST_BYTES // 2**20} MiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = raw[: error.start].count(b"\n") + 1
        raise SetupError(f"{name}, line {number}: this is no text in UTF-8, so no hostfile") from None


def parse_hosts(text: str, syntax: str | None = None, name: str = "hostfile") -> tuple[Host, ...]:
    """Read the hosts in ``text``, in the order of their first lines.

    Without a ``syntax`` the lines tell it. A name alone is one slot in ``mpich`` and ``list``; in ``openmpi``
    it has none if it stands there once, and as many as lines that name it (as in $PBS_NODEFILE) otherwise.
    Open MPI's ``max_slots`` is checked and, where there are no ``slots``, is their number, as for Open MPI.
    A text without comments and blank lines is all that ``horovodrun`` reads.

    Raises:
        SetupError: a line cannot be read, or a host has slots twice; it tells ``name`` and line.
        UsageError: there is no such syntax.

    """
    if syntax is not None:
        _check_syntax(syntax)
    contents = enumerate(text.removesuffix("\n").split("\n"), start=1)
    lines = [_Line(name, number, content.strip()) for number, content in contents]
    if syntax != "horovodrun":
        lines = [dataclasses.replace(line, text=line.text.partition("#")[0].rstrip()) for line in lines]
        lines = [line for line in lines if line.text]
    if not any(line.text for line in lines):
        raise SetupError(f"{name} names no host: write one, for example '{EXAMPLES[syntax or 'openmpi']}'")
    syntax = syntax or _told_syntax(lines)
    if syntax == "list" and len(lines) > 1:
        raise lines[1].refusal(
            f"a list such as '{EXAMPLES['list']}' is one line: join them, or write no commas"
        )
    entries = [(line, host) for line in lines for host in _READERS[syntax](line)]
    return _joined(entries, alone=1 if syntax in ("mpich", "list") else None)


def fill_slots(hosts: Sequence[Host], slots: int) -> tuple[Host, ...]:
    """The same hosts, with ``slots`` for those that have no number."""
    return tuple(dataclasses.replace(host, slots=slots) if host.slots is None else host for host in hosts)


def format_hosts(hosts: Sequence[Host], syntax: str) -> str:
    """Write ``hosts`` as a file in ``syntax``, which `parse_hosts` and that launcher read.

    Raises:
        UsageError: there is no such syntax; it needs a number of slots that a host lacks, or has no way to
            write an IPv6 address.

    """
    _check_syntax(syntax)
    if syntax == "openmpi":
        return "".join(f"{_openmpi_line(host)}\n" for host in hosts)
    for host in hosts:
        if is_ipv6(host.name):
            raise UsageError(
                f"{host.name!r} cannot be written for {syntax}, which reads no IPv6 addresses: use the "
                "host's name or IPv4 address, or --to openmpi"
            )
    lacking = [host.name for host in hosts if host.slots is None]
    if lacking:
        who = (
            f"{lacking[0]!r} has" if len(lacking) == 1 else f"{lacking[0]!r} and {len(lacking) - 1} more have"
        )
        raise UsageError(f"{who} no number of slots, which {syntax} needs: add --slots N")
    if syntax == "horovodrun":
        return "".join(f"{_openmpi_line(host)}\n" for host in hosts)
    return ("," if syntax == "list" else "\n").join(f"{host.name}:{host.slots}" for host in hosts) + "\n"


def _check_syntax(syntax: str) -> None:
    if syntax not in SYNTAXES:
        raise unknown_name("syntax", syntax, SYNTAXES)


def _told_syntax(lines: Sequence[_Line]) -> str:
    """The syntax in which ``lines`` are written; Open MPI's where all are names alone."""
    told: tuple[str, _Line] | None = None
    for line in lines:
        first, *more = line.text.split()
        if "," in first:
            syntax = "list"
        elif ":" in first and first[0] not in "^+" and not is_ipv6(first):
            syntax = "mpich"
        elif more or ":" in first:
            syntax = "openmpi"
        else:
            continue
        if told is None:
            told = syntax, line
        elif told[0] != syntax:
            raise line.refusal(
                f"{short(line.text)} is written for {syntax}, but line {told[1].number} for {told[0]}: "
                f"write all lines as {EXAMPLES[syntax]!r} or all as {EXAMPLES[told[0]]!r}"
            )
    return "openmpi" if told is None else told[0]


def _read_openmpi(line: _Line) -> Iterator[Host]:
    first, *rest = line.text.split(maxsplit=1)
    if "@" in first:
        raise line.refusal(f"{short(first)}: write the host alone, and its user into ~/.ssh/config")
    if first.startswith("^"):
        raise line.refusal(f"{short(first)}: hosts cannot be excluded here; delete the host's own line")
    if first.startswith("+"):
        raise line.refusal(f"{short(first)}: relative nodes are not read; write the host's name")
    if ":" in first and not is_ipv6(first):
        raise line.refusal(
            f"{short(first)} is written for mpich: write {EXAMPLES['openmpi']!r}, or --from mpich"
        )
    options: dict[str, str] = {}
    at, text = 0, rest[0] if rest else ""
    while at < len(text):
        match = _OPENMPI_OPTION.match(text, at)
        if match is None:
            raise line.refusal(f"cannot read {short(text[at:])}: write {EXAMPLES['openmpi']!r}")
        key = match[1].replace("-", "_")
        if key not in ("slots", "max_slots"):
            raise line.refusal(
                f"{short(match[1] + '=')} is not read: a host has 'slots=' and 'max_slots=' only"
            )
        if key in options:
            raise line.refusal(f"'{key}=' stands there twice: delete one")
        options[key] = match[2]
        at = match.end()
    slots, most = options.get("slots"), options.get("max_slots")
    host = line.host(first, most if slots is None else slots)
    limit = line.host(first, most).slots
    if host.slots is not None and limit is not None and limit < host.slots:
        raise line.refusal(f"max_slots={most} is less than slots={slots}: raise it, or delete it")
    yield host


def _read_mpich(line: _Line) -> Iterator[Host]:
    first, *more = line.text.split(maxsplit=1)
    if more:
        raise line.refusal(
            f"cannot read {short(more[0])} after the host ('binding=' and 'user=' are not read): "
            f"write {EXAMPLES['mpich']!r} and nothing else"
        )
    yield _name_and_count(line, first)


def _read_list(line: _Line) -> Iterator[Host]:
    for item in line.text.split(","):
        if not item.strip():
            raise line.refusal(f"the list has a comma too many: write {EXAMPLES['list']!r}")
        yield _name_and_count(line, item.strip())


def _read_horovodrun(line: _Line) -> Iterator[Host]:
    if not line.text:
        raise line.refusal("horovodrun fails on a blank line: delete it")
    if "#" in line.text:
        raise line.refusal("horovodrun reads no comments: delete it, or use --from openmpi")
    match = _HOROVODRUN_LINE.fullmatch(line.text)
    if match is None:
        raise line.refusal(
            f"cannot read {short(line.text)}: horovodrun takes {EXAMPLES['horovodrun']!r} and nothing else"
        )
    _refuse_ipv6(line, match[1])
    yield line.host(match[1], match[2])


_READERS: dict[str, Callable[[_Line], Iterator[Host]]] = {
    "openmpi": _read_openmpi,
    "mpich": _read_mpich,
    "horovodrun": _read_horovodrun,
    "list": _read_list,
}


def _name_and_count(line: _Line, text: str) -> Host:
    _refuse_ipv6(line, text)
    name, colon, slots = text.partition(":")
    return line.host(name, slots if colon else None)


def _refuse_ipv6(line: _Line, text: str) -> None:
    if is_ipv6(text):
        raise line.refusal(
            f"{text!r}: only Open MPI reads IPv6 addresses; use the host's name or IPv4 address"
        )


def _joined(entries: Sequence[tuple[_Line, Host]], alone: int | None) -> tuple[Host, ...]:
    """Each host once: ``alone`` is the slots of a name that stands once without any."""
    found: dict[str, list[tuple[_Line, Host]]] = {}
    for line, host in entries:
        same = found.setdefault(host.name, [])
        if same and (host.slots is not None or same[0][1].slots is not None):
            first = same[0][0].number
            where = "twice" if first == line.number else f"in line {first} too"
            raise line.refusal(
                f"{host.name!r} is named {where}: with slots a host is named once, so join them"
            )
        same.append((line, host))
    return tuple(
        same[0][1] if same[0][1].slots is not None else Host(name, len(same) if len(same) > 1 else alone)
        for name, same in found.items()
    )


def _openmpi_line(host: Host) -> str:
    return host.name if host.slots is None else f"{host.name} slots={host.slots}"


def _slot_count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise SetupError(f"{short(text)} is no number of slots: write a whole number from 1 to 999999999")
    return int(text)
