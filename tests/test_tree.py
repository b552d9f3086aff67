import pytest

from lsgd_mpi.errors import UsageError
from lsgd_mpi.groups import make_topology
from lsgd_mpi.tree import make_tree


def tree_of(size, degree, groups="node"):
    return make_tree(make_topology(groups, ["here"] * size), degree)


@pytest.mark.parametrize(
    ("size", "degree", "depth"), [(1, 2, 0), (3, 2, 1), (7, 2, 2), (5, 4, 1), (13, 3, 2), (4, 1, 3)]
)
def test_every_rank_has_one_place_one_parent_and_its_children(size, degree, depth):
    tree = tree_of(size, degree)
    assert tree.depth == depth
    assert sorted(tree.ranks) == list(range(size))
    assert tree.root == 0
    assert tree.parent(0) is None
    for rank in range(size):
        assert len(tree.children(rank)) == (0 if rank in tree.leaves else degree)
        for child in tree.children(rank):
            assert tree.parent(child) == rank
    assert len(tree.leaves) == degree**depth
    for leaf in tree.leaves:
        above, levels = leaf, 0
        while (above := tree.parent(above)) is not None:
            levels += 1
        assert levels == depth


def test_a_tree_of_one_rank_is_its_root_and_its_only_leaf():
    tree = tree_of(1, 3)
    assert tree.leaves == (0,)
    assert tree.children(0) == ()


@pytest.mark.parametrize(
    ("size", "degree", "told"),
    [
        (4, 2, "3, 7, 15 or 31"),
        (2, 2, "3, 7, 15 or 31"),
        (8, 3, "4, 13, 40 or 121"),
        (100, 2, "3, 7, 15, 31, 63 or 127"),
    ],
)
def test_a_number_of_ranks_that_makes_no_tree_is_told_with_those_that_do(size, degree, told):
    with pytest.raises(
        UsageError, match=rf"--degree {degree}: {size} ranks make no full tree; it has {told} ranks"
    ):
        tree_of(size, degree)


@pytest.mark.parametrize(
    ("groups", "split"),
    [
        ([[0, 1, 2, 3], [4, 5, 6]], 0),
        ([[0, 4, 5, 6], [1, 2, 3]], 0),
        ([[1, 2, 3], [0, 4, 5, 6]], 0),
        # The second family's parent is with the root, its leaves together.
        ([[0, 1, 2], [3, 4, 5, 6]], 0),
        ([[0], [1, 2, 3], [4, 5, 6]], 0),
        ([[0, 1], [2, 3], [4, 5], [6]], 0),
        ([[0], [1], [2], [3], [4], [5], [6]], 2),
        ([[0, 1, 2, 3, 4, 5, 6]], 0),
    ],
)
def test_leaves_of_a_parent_share_its_group_where_the_groups_allow_it(groups, split):
    topology = make_topology(groups, ["here"] * 7)
    tree = make_tree(topology, 2)
    assert len(tree.split_families(topology)) == split
    assert sorted(tree.ranks) == list(range(7))
    whole = [group for group in groups if len([rank for rank in group if rank != 0]) >= 3]
    together = [
        parent
        for parent in {tree.parent(leaf) for leaf in tree.leaves}
        if len({topology.group_of(rank) for rank in (parent, *tree.children(parent))}) == 1
    ]
    assert len(together) >= min(2, len(whole))
