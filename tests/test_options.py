"""The options of the methods: what is refused, what is derived, what is said to be useless."""

import math

import pytest

from lsgd_mpi.algorithms import ALGORITHMS, find_algorithm, make_options
from lsgd_mpi.errors import UsageError
from lsgd_mpi.groups import make_topology
from lsgd_mpi.leaders import LARGEST_WINDOW

ONE_GROUP = make_topology(4, ["node"] * 4)
TWO_GROUPS = make_topology(2, ["node"] * 4)


@pytest.mark.parametrize("name", ["local_period", "global_period"])
@pytest.mark.parametrize("period", [0, -3, 2.5, 4.0, True, "4"])
def test_a_period_is_a_whole_number_of_at_least_one(name, period):
    with pytest.raises(UsageError) as refused:
        make_options("lsgd", {name: period})
    assert f"--{name.replace('_', '-')} {period}" in str(refused.value)
    assert "at least 1" in str(refused.value)


@pytest.mark.parametrize("name", ["local_pull", "global_pull"])
@pytest.mark.parametrize("pull", [-0.1, 1.001, math.nan, math.inf, -math.inf])
def test_a_pull_lies_between_none_and_onto_the_leader(name, pull):
    with pytest.raises(UsageError) as refused:
        make_options("lsgd", {name: pull})
    assert f"--{name.replace('_', '-')} {pull}" in str(refused.value)


@pytest.mark.parametrize("window", [0, -1, 2.0, True, LARGEST_WINDOW + 1])
def test_a_loss_window_holds_at_least_one_batch_and_not_too_many(window):
    with pytest.raises(UsageError, match="--loss-window"):
        make_options("lsgd", {"loss_window": window})


@pytest.mark.parametrize(
    ("name", "value", "choices"),
    [("pull", "twice", "once, every-step"), ("bn", "global", "local, average, leader")],
)
def test_a_choice_is_one_of_those_named(name, value, choices):
    with pytest.raises(UsageError) as refused:
        make_options("lsgd", {name: value})
    assert f"--{name} '{value}'" in str(refused.value)
    assert choices in str(refused.value)


def test_the_limits_themselves_are_allowed():
    options = make_options(
        "lsgd",
        {"local_period": 1, "global_period": 1, "local_pull": 0.0, "global_pull": 1.0, "loss_window": 1},
    )
    assert (options.local_period, options.local_pull, options.global_pull) == (1, 0.0, 1.0)
    assert make_options("lsgd", {"local_pull": 1, "global_pull": 0}).local_pull == 1


def test_an_unknown_option_is_refused_with_the_known_ones():
    with pytest.raises(UsageError) as refused:
        make_options("lsgd", {"local_periods": 4})
    for word in ("--local-periods", "lsgd", "--local-period", "--loss-window"):
        assert word in str(refused.value)
    with pytest.raises(UsageError, match="--local-period is no option of allreduce"):
        make_options("allreduce", {"local_period": 4})


def test_an_unknown_algorithm_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"'lsdg'.*did you mean lsgd\?"):
        find_algorithm("lsdg")
    with pytest.raises(UsageError) as refused:
        find_algorithm("zzz")
    assert "did you mean" not in str(refused.value)
    for name in ALGORITHMS:
        assert name in str(refused.value)


def test_every_algorithm_is_found_by_its_own_name():
    assert {"lsgd", "allreduce"} <= set(ALGORITHMS)
    for name, cls in ALGORITHMS.items():
        assert find_algorithm(name) is cls
        assert cls.name == name
        make_options(name, {})


def test_global_options_are_derived_from_the_local_ones_with_several_groups():
    options = make_options("lsgd", {"local_period": 5, "local_pull": 0.3}).resolved(TWO_GROUPS)
    assert (options.global_period, options.global_pull) == (20, 0.3)


def test_given_global_options_are_kept_also_a_pull_of_zero():
    given = {"local_period": 5, "local_pull": 0.3, "global_period": 7, "global_pull": 0.0}
    options = make_options("lsgd", given).resolved(TWO_GROUPS)
    assert (options.global_period, options.global_pull) == (7, 0.0)


def test_one_group_has_no_global_round():
    options = make_options("lsgd", {"global_period": 7, "global_pull": 0.5}).resolved(ONE_GROUP)
    assert (options.global_period, options.global_pull) == (None, 0.0)


def test_global_options_with_one_group_are_said_to_be_useless():
    sentences = make_options("lsgd", {"global_period": 7, "global_pull": 0.5}).useless(ONE_GROUP)
    assert len(sentences) == 2
    assert sentences[0].startswith("--global-period 7: there is only one group")
    assert sentences[1].startswith("--global-pull 0.5: there is only one group")


def test_useful_options_and_single_leader_lsgd_as_the_paper_writes_it_are_no_warning():
    assert make_options("lsgd", {"global_period": 7, "global_pull": 0.5}).useless(TWO_GROUPS) == []
    assert make_options("lsgd", {"global_pull": 0.0}).useless(ONE_GROUP) == []
    assert make_options("lsgd", {}).useless(ONE_GROUP) == []


def test_options_cannot_be_changed_after_they_were_checked():
    with pytest.raises(AttributeError):
        make_options("lsgd", {}).local_period = 0
