"""How a tensor gets to ranks on several nodes."""

import itertools

import pytest

from lsgd_mpi.comm.route import Hop, process_sets, route
from lsgd_mpi.groups import make_topology

BY_SLOT = "aaabbc"
BY_NODE = "abcaba"


def carried(hops, root):
    """Who has the tensor in the end, if each rank takes part in its hops in order."""
    have = {root}
    for hop in hops:
        assert hop.root in have, f"{hop} comes before its root has anything"
        have |= set(hop.members)
    return have


@pytest.mark.parametrize("hosts", [BY_SLOT, BY_NODE, "abc", "aaa", "a", "abab", "abba"])
def test_everybody_is_reached_and_every_node_entered_once(hosts):
    members = tuple(range(len(hosts)))
    for root in members:
        hops = route(root, members, hosts)
        assert carried(hops, root) == set(members)
        between = [hop for hop in hops if len({hosts[rank] for rank in hop.members}) > 1]
        # One broadcast between nodes, in which each node has one rank.
        assert len(between) == (len(set(hosts)) > 1)
        for hop in between:
            assert sorted(hosts[rank] for rank in hop.members) == sorted(set(hosts))


def test_on_one_node_and_with_a_rank_a_node_it_is_one_broadcast():
    assert route(2, (0, 1, 2), "aaa") == (Hop(2, (0, 1, 2)),)
    assert route(1, (0, 1, 2), "abc") == (Hop(1, (0, 1, 2)),)


def test_a_rank_that_is_not_the_first_of_its_node_hands_over_there():
    assert route(3, (0, 1, 2, 3), "aabb") == (Hop(3, (2, 3)), Hop(2, (0, 2)), Hop(0, (0, 1)))
    assert route(2, (0, 1, 2, 3), "aabb") == (Hop(2, (0, 2)), Hop(0, (0, 1)), Hop(2, (2, 3)))


@pytest.mark.parametrize("hosts", ["aabb", "abab", BY_SLOT, BY_NODE, "aaaa", "abcd"])
@pytest.mark.parametrize("spec", ["node", 1, 2, [[0, 2], [1, 3]]])
def test_there_is_a_process_set_for_whatever_is_sent(hosts, spec):
    if isinstance(spec, list):
        spec = [*spec, *([[4, 5]] if len(hosts) > 4 else [])]
    topology = make_topology(spec, hosts)
    sets = process_sets(topology)
    world = tuple(range(len(hosts)))
    # Horovod takes none twice, and not the world again.
    assert len(set(sets)) == len(sets)
    assert world not in sets
    assert all(len(members) > 1 for members in sets)
    for members in (world, *topology.groups):
        hops = itertools.chain.from_iterable(route(root, members, hosts) for root in members)
        assert {hop.members for hop in hops if len(hop.members) > 1} <= {world, *sets}


def test_groups_that_are_nodes_need_one_set_more():
    assert set(process_sets(make_topology("node", "aabb"))) == {(0, 1), (2, 3), (0, 2)}
    assert process_sets(make_topology("node", "aaaa")) == []
    assert process_sets(make_topology("node", "abcd")) == []
