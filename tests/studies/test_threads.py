"""The communicator among threads: what its collectives compute, and that it never hangs."""

import math

import pytest
import torch

from lsgd_mpi.errors import CommunicationError, NumericalError, UsageError
from lsgd_mpi.groups import make_topology
from lsgd_mpi.leaders import Leader
from lsgd_mpi.studies import driver
from lsgd_mpi.studies.threads import run_workers

pytestmark = pytest.mark.timeout(20)


def topology(groups, p):
    return make_topology(groups, ["here"] * p)


def test_an_average_is_the_mean_in_the_order_of_the_ranks():
    # Summed in another order, 1e16 would swallow the ones.
    values = [1.0, 1.0, 1e16, -1e16]

    def work(communicator):
        flat = torch.tensor([values[communicator.world_rank]], dtype=torch.float64)
        communicator.average(flat, "global")
        return float(flat)

    for _ in range(5):
        assert run_workers(topology(4, 4), work) == [(((1.0 + 1.0) + 1e16) - 1e16) / 4] * 4


def test_unequal_groups_average_and_elect_by_themselves():
    def work(communicator):
        rank = communicator.world_rank
        flat = torch.tensor([float(rank)])
        communicator.average(flat, "local")
        leader = communicator.elect([5.0, 4.0, 3.0, 3.0, 9.0][rank])
        best = communicator.elect_among_leaders(leader)
        return communicator.group, float(flat), leader, best

    outcomes = run_workers(topology([[0, 4], [1, 2, 3]], 5), work)
    first, second = (0, 2.0, Leader(5.0, 0), Leader(3.0, 2)), (1, 2.0, Leader(3.0, 2), Leader(3.0, 2))
    assert outcomes == [first, second, second, second, first]


def test_a_loss_that_is_not_finite_leads_nobody():
    assert run_workers(topology(2, 2), lambda c: c.elect([math.nan, 7.0][c.world_rank])) == [
        Leader(7.0, 1),
        Leader(7.0, 1),
    ]


def test_a_broadcast_takes_the_root_s_values_also_if_it_changes_them_at_once():
    def work(communicator):
        flat = torch.full((1000,), float(communicator.world_rank))
        communicator.broadcast(flat, 2, "global")
        seen = flat.clone()
        flat += 100.0
        return seen.unique().tolist()

    assert run_workers(topology(4, 4), work) == [[2.0]] * 4


def test_a_broadcast_from_another_group_is_refused():
    with pytest.raises(UsageError, match="world rank 0 cannot broadcast"):
        run_workers(topology(1, 2), lambda c: c.broadcast(torch.zeros(1), 0, "local"))


def test_a_maximum_is_element_wise():
    def work(communicator):
        counts = torch.tensor([communicator.world_rank, -communicator.world_rank])
        communicator.maximum(counts, "global")
        return counts.tolist()

    assert run_workers(topology(3, 3), work) == [[2, 0]] * 3


def test_an_error_in_one_worker_ends_all_and_is_raised():
    def work(communicator):
        if communicator.world_rank == 1:
            raise ZeroDivisionError("mine")
        communicator.average(torch.zeros(1), "global")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run_workers(topology(3, 3), work)


def test_a_worker_that_ends_early_hangs_nobody():
    def work(communicator):
        if communicator.world_rank:
            communicator.average(torch.zeros(1), "global")

    with pytest.raises(CommunicationError, match="wait for each other"):
        run_workers(topology(3, 3), work)


def test_workers_that_wait_in_different_places_hang_nobody():
    def work(communicator):
        scope = "global" if communicator.world_rank == 0 else "local"
        communicator.average(torch.zeros(1), scope)

    with pytest.raises(CommunicationError, match="wait for each other"):
        run_workers(topology([[0, 1], [2, 3]], 4), work)


def test_different_operations_are_an_error():
    def work(communicator):
        if communicator.world_rank:
            return communicator.elect(1.0)
        return communicator.average(torch.zeros(1), "local")

    with pytest.raises(CommunicationError, match="different operations: average, elect"):
        run_workers(topology(2, 2), work)


def test_torch_keeps_its_threads():
    before = torch.get_num_threads()
    run_workers(topology(2, 2), lambda _: None)
    assert torch.get_num_threads() == before


def test_gradient_averaging_is_refused():
    starts = torch.zeros((2, 1), dtype=torch.float64)
    with pytest.raises(UsageError, match="averaged by Horovod"):
        driver.run("allreduce", {}, starts, lambda *_: (0.0, starts[0]), 1, learning_rate=0.1)


def test_a_divergence_is_raised_as_in_training():
    starts = torch.zeros((2, 1), dtype=torch.float64)
    options = {"local_period": 1}
    with pytest.raises(NumericalError, match="finite training loss"):
        driver.run("lsgd", options, starts, lambda *_: (math.nan, starts[0]), 1, learning_rate=0.1)


def test_leaders_of_two_groups_pull_in_local_and_global_rounds():
    # No gradient; the loss is the rank. λ = 1 onto the group's first, then λ_G = 1/2 onto worker 0.
    starts = torch.tensor([[0.0], [1.0], [8.0], [9.0]], dtype=torch.float64)
    options = {"local_period": 1, "global_period": 2, "local_pull": 1.0, "global_pull": 0.5}
    outcome = driver.run(
        *("lsgd", options, starts, lambda rank, _, x: (float(rank), torch.zeros_like(x)), 2),
        learning_rate=0.1,
        groups=2,
        keep_paths=True,
    )
    assert outcome.paths[:, :, 0].tolist() == [[0, 1, 8, 9], [0, 0, 8, 8], [0, 0, 4, 4]]
    assert outcome.center is None
