"""Which rank is in which group."""

import pytest

from lsgd_mpi.errors import UsageError
from lsgd_mpi.groups import Topology, format_groups, make_topology, parse_groups

#: Two nodes that a launcher filled in turns, so that the ranks of a node are not contiguous.
BY_TURNS = ("red", "blue", "red", "blue", "red")


def one_node(size):
    return ("node",) * size


def test_node_groups_hold_the_ranks_of_a_host_even_when_they_are_not_contiguous():
    topology = make_topology("node", BY_TURNS)
    assert topology.groups == ((0, 2, 4), (1, 3))
    assert topology.world_size == 5


def test_node_groups_are_in_the_order_of_their_lowest_rank():
    assert make_topology("node", ("b", "a", "b")).groups == ((0, 2), (1,))


def test_a_size_makes_groups_of_consecutive_ranks_whatever_their_hosts():
    assert make_topology(2, ("a", "b", "a", "b")).groups == ((0, 1), (2, 3))
    assert make_topology(1, one_node(3)).groups == ((0,), (1,), (2,))
    assert make_topology(3, one_node(3)).groups == ((0, 1, 2),)


def test_lists_keep_their_order_and_sort_their_ranks():
    assert make_topology([[3, 1], [2, 0]], one_node(4)).groups == ((1, 3), (0, 2))
    assert make_topology(((0,), (2, 1)), one_node(3)).groups == ((0,), (1, 2))


def test_ranks_know_their_place_in_group_and_node():
    topology = make_topology([[0, 3, 4], [1, 2]], BY_TURNS)
    assert [topology.group_of(rank) for rank in range(5)] == [0, 1, 1, 0, 0]
    assert [topology.group_rank(rank) for rank in range(5)] == [0, 0, 1, 1, 2]
    assert [topology.local_rank(rank) for rank in range(5)] == [0, 0, 1, 1, 2]
    assert topology.members_of(4) == (0, 3, 4)
    assert topology.neighbours_on_node(3) == (1, 3)


def test_describe_says_how_many_groups_and_which():
    assert make_topology([[0, 1, 2], [3]], one_node(4)).describe() == "4 ranks in 2 groups: 0-2;3"
    assert make_topology("node", one_node(2)).describe() == "2 ranks in 1 group: 0-1"
    assert make_topology("node", one_node(1)).describe() == "1 rank in 1 group: 0"


@pytest.mark.parametrize(
    ("groups", "size", "words"),
    [
        ([[0, 1], [1, 2]], 3, ["rank 1", "twice"]),
        ([[0, 0], [1]], 2, ["rank 0", "twice"]),
        ([[0], [2]], 3, ["rank(s) 1 of 3", "in no group"]),
        ([[0]], 4, ["rank(s) 1-3 of 4", "in no group"]),
        ([[0, 1], [2, 7]], 3, ["no world rank 7", "0 to 2"]),
        ([[0, -1]], 2, ["no world rank -1"]),
        ([[0, 1], []], 2, ["at least one rank"]),
        ([], 1, ["rank(s) 0 of 1", "in no group"]),
        (2, 3, ["3 ranks do not divide into groups of 2", "--groups '0-1;2'"]),
        (5, 4, ["--groups 5", "only 4 ranks"]),
        (0, 4, ["--groups 0", "at least one rank"]),
        (-2, 4, ["--groups -2", "at least one rank"]),
        (True, 1, ["True", "--groups"]),
        ("nodes", 2, ["'nodes'", "'node'", "--groups"]),
    ],
)
def test_groups_that_cannot_be_are_refused_with_what_to_change(groups, size, words):
    with pytest.raises(UsageError) as refused:
        make_topology(groups, one_node(size))
    for word in words:
        assert word in str(refused.value)


def test_the_groups_that_a_refusal_proposes_are_accepted():
    with pytest.raises(UsageError) as refused:
        make_topology(3, one_node(8))
    proposed = str(refused.value).rpartition("--groups '")[2].rstrip("'")
    assert make_topology(parse_groups(proposed), one_node(8)).groups == ((0, 1, 2), (3, 4, 5), (6, 7))


def test_a_topology_checks_itself():
    with pytest.raises(UsageError):
        Topology(groups=((0,),), hosts=one_node(2))


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("node", "node"),
        (" node ", "node"),
        ("4", 4),
        ("0", 0),
        ("0-3;4,6;5,7", [[0, 1, 2, 3], [4, 6], [5, 7]]),
        ("0,1;", [[0, 1]]),
        (" 0 - 1 , 3 ; 2 ", [[0, 1, 3], [2]]),
        ("0;1;2", [[0], [1], [2]]),
        ("2-2,0", [[2, 0]]),
    ],
)
def test_parse_groups_reads_the_three_notations(text, groups):
    assert parse_groups(text) == groups


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nodes", "nodes"),
        ("", "cannot read ''"),
        ("0,,1", "cannot read ''"),
        ("0;;1", "cannot read ''"),
        ("0-1-2", "0-1-2"),
        ("-4", "-4"),
        ("2.5", "2.5"),
        ("0,x;1", "'x'"),
        ("3-1", "backwards"),
        ("[[0,1],[2]]", "[[0"),
    ],
)
def test_garbage_is_refused_by_naming_it(text, word):
    with pytest.raises(UsageError, match="--groups") as refused:
        parse_groups(text)
    assert word in str(refused.value)


@pytest.mark.parametrize(
    ("groups", "text"),
    [
        ([[0, 1, 2, 3], [4, 6], [5, 7]], "0-3;4,6;5,7"),
        ([[0], [1]], "0;1"),
        ([[0, 1, 3, 4, 6], [2, 5]], "0-1,3-4,6;2,5"),
    ],
)
def test_format_groups_writes_what_parse_groups_reads(groups, text):
    assert format_groups(groups) == text
    assert parse_groups(text) == groups


def test_one_group_of_one_rank_survives_a_round_trip():
    # '0' alone would be a size, and no group has the size 0.
    topology = make_topology([[0]], one_node(1))
    assert make_topology(parse_groups(format_groups(topology.groups)), one_node(1)) == topology
