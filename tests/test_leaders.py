"""Who leads: the election's rule, the loss a worker offers, and what a round remembers."""

import math
from dataclasses import replace

import pytest
import torch

from lsgd_mpi.errors import UsageError
from lsgd_mpi.leaders import Leader, LossWindow, Round, elect, offered_loss

NOT_FINITE = [math.nan, math.inf, -math.inf]


def winner(*losses):
    return elect(Leader(loss, world_rank) for world_rank, loss in enumerate(losses))


def test_the_lowest_loss_leads():
    assert winner(3.0, 1.0, 2.0) == Leader(1.0, 1)
    assert winner(3.0, -1.0, 2.0) == Leader(-1.0, 1)


def test_ties_go_to_the_lowest_rank_in_any_order_of_offers():
    assert winner(2.0, 1.0, 1.0).world_rank == 1
    assert elect([Leader(1.0, 3), Leader(1.0, 2), Leader(1.0, 5)]).world_rank == 2


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("place", range(3))
def test_a_loss_that_is_not_finite_never_leads(bad, place):
    losses = [1e300, 1e301, 1e302]
    losses[place] = bad
    best = min((loss, rank) for rank, loss in enumerate(losses) if rank != place)
    assert winner(*losses) == Leader(*best)


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_an_election_without_a_finite_loss_has_no_valid_leader(bad):
    nobody = winner(bad, math.inf, bad)
    assert not nobody.is_valid
    assert nobody == Leader(math.inf, 0)
    assert winner(0.0).is_valid


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_offers_that_are_not_finite_are_infinity(bad):
    assert offered_loss(bad) == math.inf
    assert offered_loss(-2.5) == -2.5


def test_a_round_switched_when_somebody_else_led_before():
    first = Round(1, "local", 0, 16, 64, 0.5, Leader(1.0, 2), previous_world_rank=None)
    assert not first.switched
    assert not replace(first, previous_world_rank=2).switched
    assert replace(first, previous_world_rank=0).switched


def filled(size, losses):
    window = LossWindow(size)
    for loss in losses:
        window.push(loss)
    return window


def test_nothing_seen_is_an_infinite_offer():
    assert LossWindow(3).mean() == math.inf


@pytest.mark.parametrize(
    ("losses", "mean"),
    [
        ([4.0], 4.0),
        ([4.0, 8.0], 6.0),
        ([4.0, 8.0, 3.0], 5.0),
        ([4.0, 8.0, 3.0, 1.0], 4.0),
        ([4.0, 8.0, 3.0, 1.0, 2.0, 9.0, 4.0], 5.0),
    ],
    ids=["one of three", "two of three", "exactly three", "wrapped once", "wrapped twice"],
)
def test_the_mean_is_over_the_last_losses_fewer_if_fewer_were_seen(losses, mean):
    assert filled(3, losses).mean() == mean


def test_a_window_of_one_is_the_last_loss():
    assert filled(1, [4.0, 8.0, 3.0]).mean() == 3.0


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_bad_loss_leaves_the_window_after_as_many_more(bad):
    window = filled(3, [1.0, bad])
    means = []
    for loss in (2.0, 4.0, 6.0):
        window.push(loss)
        means.append(window.mean())
    assert means == [math.inf, math.inf, 4.0]


def test_losses_may_be_tensors_of_one_element_and_keep_no_graph():
    window = LossWindow(4)
    weight = torch.tensor(2.0, requires_grad=True)
    window.push(3 * weight)
    window.push((4 * weight).reshape(1))
    window.push((5 * weight).reshape(1, 1).double())
    assert window.mean() == 8.0
    losses = window.state_dict()["losses"]
    assert isinstance(losses, torch.Tensor)
    assert not losses.requires_grad


def test_a_remembered_loss_does_not_change_when_its_tensor_does():
    window, loss = LossWindow(2), torch.tensor(1.0)
    window.push(loss)
    loss.fill_(100.0)
    assert window.mean() == 1.0


def test_half_precision_losses_are_averaged_in_single_precision():
    # In float16 the sum of these overflows.
    assert filled(2, [torch.tensor(60000.0, dtype=torch.float16)] * 2).mean() == 60000.0


@pytest.mark.parametrize("seen", [0, 2, 3, 4])
def test_a_window_continues_from_its_state(seen):
    losses = [5.0, 1.0, 7.0, 2.0, 9.0, 4.0]
    window = filled(3, losses[:seen])
    copy = LossWindow(3)
    copy.load_state_dict(window.state_dict())
    assert copy.mean() == window.mean()
    for loss in losses[seen:]:
        window.push(loss)
        copy.push(loss)
        assert copy.mean() == window.mean()


def test_a_saved_state_is_a_copy_on_both_ways():
    window = filled(2, [1.0, 2.0])
    state = window.state_dict()
    copy = LossWindow(2)
    copy.load_state_dict(state)
    window.push(100.0)
    copy.push(3.0)
    assert copy.mean() == 2.5
    again = LossWindow(2)
    again.load_state_dict(state)
    assert again.mean() == 1.5


def test_a_window_of_another_size_is_refused():
    with pytest.raises(UsageError, match="2 entries, --loss-window 3"):
        LossWindow(3).load_state_dict(filled(2, [1.0]).state_dict())


@pytest.mark.parametrize("size", [0, -1])
def test_an_empty_window_is_refused(size):
    with pytest.raises(UsageError, match=f"--loss-window {size}"):
        LossWindow(size)
