"""Which rank is in which group: a frozen value, the same on every rank, made without MPI.

The words are MPI's: a *world rank* numbers a process among all, a *group rank* among the members of
its group, a *local rank* among the processes of its node.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lsgd_mpi.errors import UsageError

#: What a user may ask for: "node", the size of a group, or lists of world ranks.
GroupSpec = str | int | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Topology:
    """The groups of a run.

    ``groups[g]`` holds the world ranks of group ``g`` in ascending order; ``hosts[r]`` is the name of the
    node on which world rank ``r`` runs. Every world rank is in exactly one group.
    """

    groups: tuple[tuple[int, ...], ...]
    hosts: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_partition(self.groups, len(self.hosts))

    @property
    def world_size(self) -> int:
        """Number of ranks in the run."""
        return len(self.hosts)

    def group_of(self, world_rank: int) -> int:
        """Index of the group that ``world_rank`` is in."""
        return next(index for index, members in enumerate(self.groups) if world_rank in members)

    def members_of(self, world_rank: int) -> tuple[int, ...]:
        """World ranks of the group that ``world_rank`` is in, itself included."""
        return self.groups[self.group_of(world_rank)]

    def group_rank(self, world_rank: int) -> int:
        """Position of ``world_rank`` in its group."""
        return self.members_of(world_rank).index(world_rank)

    def neighbours_on_node(self, world_rank: int) -> tuple[int, ...]:
        """World ranks on the node of ``world_rank``, itself included."""
        host = self.hosts[world_rank]
        return tuple(rank for rank, name in enumerate(self.hosts) if name == host)

    def local_rank(self, world_rank: int) -> int:
        """Position of ``world_rank`` among the ranks of its node."""
        return self.neighbours_on_node(world_rank).index(world_rank)

    def describe(self) -> str:
        """One line for a log: how many groups, and their world ranks."""
        ranks = "1 rank" if self.world_size == 1 else f"{self.world_size} ranks"
        shape = "1 group" if len(self.groups) == 1 else f"{len(self.groups)} groups"
        return f"{ranks} in {shape}: {format_groups(self.groups).rstrip(';')}"


def make_topology(spec: GroupSpec, hosts: Sequence[str]) -> Topology:
    """Build the topology that ``spec`` asks for, ``hosts[r]`` being the node name of world rank ``r``.

    ``spec`` is ``"node"`` (one group a node, ranks of a node need not be contiguous), an integer ``l``
    (consecutive world ranks, ``l`` a group), or a list of lists of world ranks. Raises `UsageError` if the
    groups do not hold every rank exactly once.
    """
    world_size = len(hosts)
    if spec == "node":
        by_host: dict[str, list[int]] = {}
        for rank, host in enumerate(hosts):
            by_host.setdefault(host, []).append(rank)
        groups = list(by_host.values())
    elif isinstance(spec, (bool, str)):
        raise UsageError(f"groups={spec!r}: use 'node', a group size, or lists of world ranks (--groups)")
    elif isinstance(spec, int):
        groups = _groups_of_size(spec, world_size)
    else:
        groups = [sorted(members) for members in spec]
        _check_partition(groups, world_size)
    return Topology(tuple(tuple(members) for members in groups), tuple(hosts))


def parse_groups(text: str) -> GroupSpec:
    """Read the value of ``--groups``: ``node``, ``4``, or ``0-3;4,6;5,7``. Raises `UsageError`."""
    text = text.strip()
    if text == "node":
        return text
    if re.fullmatch(r"\d+", text):
        return int(text)
    groups = []
    for part in text.rstrip(";").split(";"):
        members: list[int] = []
        for item in part.split(","):
            match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", item)
            if match is None:
                raise UsageError(
                    f"--groups {text!r}: cannot read {item.strip()!r}; write 'node', the size of a group "
                    "such as 4, or world ranks such as '0-3;4,6;5,7'"
                )
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise UsageError(f"--groups {text!r}: the range {item.strip()!r} runs backwards")
            members.extend(range(first, last + 1))
        groups.append(members)
    return groups


def format_groups(groups: Sequence[Sequence[int]]) -> str:
    """Write groups in the notation that `parse_groups` reads."""
    text = ";".join(",".join(_runs(members)) for members in groups)
    # A lone number would be read as the size of a group.
    return f"{text};" if text.isdigit() else text


def _runs(members: Sequence[int]) -> list[str]:
    runs: list[list[int]] = []
    for rank in sorted(members):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def _groups_of_size(size: int, world_size: int) -> list[list[int]]:
    if size < 1:
        raise UsageError(f"--groups {size}: a group has at least one rank")
    if size > world_size:
        raise UsageError(f"--groups {size}: there are only {world_size} ranks")
    groups = [list(range(start, min(start + size, world_size))) for start in range(0, world_size, size)]
    if world_size % size:
        raise UsageError(
            f"--groups {size}: {world_size} ranks do not divide into groups of {size}; "
            f"to have a smaller last group, list them: --groups '{format_groups(groups)}'"
        )
    return groups


def _check_partition(groups: Sequence[Sequence[int]], world_size: int) -> None:
    given = f"--groups '{format_groups(groups)}'"
    if not all(groups):
        raise UsageError(f"{given}: a group has at least one rank")
    seen: set[int] = set()
    for members in groups:
        for rank in members:
            if rank >= world_size or rank < 0:
                raise UsageError(
                    f"{given}: there is no world rank {rank} among {world_size} (0 to {world_size - 1})"
                )
            if rank in seen:
                raise UsageError(f"{given}: world rank {rank} stands in the groups twice")
            seen.add(rank)
    left_out = sorted(set(range(world_size)) - seen)
    if left_out:
        raise UsageError(
            f"{given}: world rank(s) {','.join(_runs(left_out))} of {world_size} are in no group; "
            "add them, or start fewer ranks"
        )
