"""A d-ary tree of ranks, with the leaves of one parent in one group: pure, the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass

from lsgd_mpi.errors import UsageError
from lsgd_mpi.groups import Topology

#: Sizes of trees that an error message lists.
_EXAMPLES = 4


@dataclass(frozen=True)
class Tree:
    """A full tree: every inner node has ``degree`` children, all leaves are ``depth`` levels below the root.

    ``ranks`` has the world rank at each place, level by level from the root, so that the children of place i
    are the places ``degree i + 1`` to ``degree i + degree``.
    """

    degree: int
    depth: int
    ranks: tuple[int, ...]

    def parent(self, world_rank: int) -> int | None:
        """The world rank of the parent; None for the root."""
        place = self.ranks.index(world_rank)
        return None if place == 0 else self.ranks[(place - 1) // self.degree]

    def children(self, world_rank: int) -> tuple[int, ...]:
        """The world ranks of the children; none for a leaf."""
        first = self.degree * self.ranks.index(world_rank) + 1
        return self.ranks[first : first + self.degree]

    @property
    def root(self) -> int:
        """The world rank of the root."""
        return self.ranks[0]

    @property
    def leaves(self) -> tuple[int, ...]:
        """The world ranks of the leaves, in order."""
        return tuple(sorted(self.ranks[len(self.ranks) - self.degree**self.depth :]))

    def split_families(self, topology: Topology) -> list[tuple[int, ...]]:
        """The leaves of each parent whose leaves are not all in one group."""
        families = {
            self.children(parent) for leaf in self.leaves if (parent := self.parent(leaf)) is not None
        }
        return sorted(each for each in families if len({topology.group_of(rank) for rank in each}) > 1)


def make_tree(topology: Topology, degree: int) -> Tree:
    """The tree of all ranks: world rank 0 is the root, the leaves of a parent share its group where they can.

    Raises `UsageError` for a number of ranks that no full tree of this degree has.
    """
    size, sizes = topology.world_size, [1]
    while sizes[-1] < size:
        sizes.append(degree * sizes[-1] + 1)
    if sizes[-1] != size:
        examples = [1]
        while len(examples) <= _EXAMPLES or examples[-1] < size:
            examples.append(degree * examples[-1] + 1)
        raise UsageError(
            f"--degree {degree}: {size} ranks make no full tree; it has "
            f"{', '.join(map(str, examples[1:-1]))} or {examples[-1]} ranks, and so on"
        )
    depth = len(sizes) - 1
    free = {group: list(members) for group, members in enumerate(topology.groups)}
    if depth > 0:
        free[topology.group_of(0)].remove(0)
    places: list[int | None] = [None] * size
    places[0] = 0
    parents = range(sizes[-2] - degree ** (depth - 1), sizes[-2]) if depth > 0 else range(0)
    for parent in parents:
        # A group that holds the whole family, or else all its leaves, or else as many as possible.
        needs_parent = places[parent] is None
        group = max(
            free,
            key=lambda each: (
                len(free[each]) >= degree + needs_parent,
                len(free[each]) >= degree,
                len(free[each]),
                -each,
            ),
        )
        if needs_parent and len(free[group]) > degree:
            # Unless that would part a family that is still to come.
            after = sum(len(each) // degree for each in free.values()) - len(free[group]) // degree
            after += (len(free[group]) - 1) // degree
            if after >= len(parents) - parents.index(parent):
                places[parent] = free[group].pop(0)
        for place in range(degree * parent + 1, degree * parent + degree + 1):
            if not free[group]:
                group = max(free, key=lambda each: len(free[each]))
            places[place] = free[group].pop(0)
    left = sorted(rank for members in free.values() for rank in members)
    return Tree(degree, depth, tuple(left.pop(0) if rank is None else rank for rank in places))
