"""By which broadcasts a tensor reaches ranks on several nodes, so that it enters each node once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lsgd_mpi.groups import Topology

Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Hop:
    """One broadcast among ``members``, world ranks."""

    root: int
    members: Ranks


def route(root: int, members: Ranks, hosts: Sequence[str]) -> tuple[Hop, ...]:
    """The broadcasts that take what ``root`` has to all ``members``; ``hosts[r]`` is the node of rank r.

    Each rank takes part in those that it is a member of, in this order: on root's node to the first rank
    there, from it to the first rank of each other node, and then inside the nodes. An MPI library's own
    broadcast follows the order of the ranks, which may lead out of a node and back.
    """
    parts = _by_node(members, hosts)
    if len(parts) == 1 or len(parts) == len(members):
        return (Hop(root, members),)
    own = next(part for part in parts if root in part)
    begin = () if root == own[0] else (Hop(root, own),)
    inside = [Hop(part[0], part) for part in parts if len(part) > 1 and (part is not own or root == own[0])]
    return (*begin, Hop(own[0], _first_ranks(parts)), *inside)


def process_sets(topology: Topology) -> list[Ranks]:
    """The members of every broadcast and average in the world or a group, each once, the same on all ranks.

    Without sets of one rank, which are never needed, and the world, which Horovod has by itself.
    """
    world = tuple(range(topology.world_size))
    found: dict[Ranks, None] = {}
    for members in (world, *topology.groups):
        parts = _by_node(members, topology.hosts)
        found |= dict.fromkeys([members, *parts, _first_ranks(parts)])
    return [members for members in found if len(members) > 1 and members != world]


def _by_node(members: Ranks, hosts: Sequence[str]) -> list[Ranks]:
    parts: dict[str, list[int]] = {}
    for rank in members:
        parts.setdefault(hosts[rank], []).append(rank)
    return [tuple(part) for part in parts.values()]


def _first_ranks(parts: Sequence[Ranks]) -> Ranks:
    return tuple(part[0] for part in parts)
