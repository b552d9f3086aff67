"""The options of the methods: what is refused, what is derived, what is said to be useless."""

import math

import numpy as np
import pytest
import torch

from lsgd_mpi.algorithms import ALGORITHMS, VARIANTS, find_algorithm, make_options
from lsgd_mpi.algorithms.pr_sgd_varying import epoch_length
from lsgd_mpi.config import make_train_options
from lsgd_mpi.errors import UsageError
from lsgd_mpi.groups import make_topology
from lsgd_mpi.leaders import LARGEST_WINDOW
from lsgd_mpi.local_optimizer import make_local_optimizer

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
    for name, variants in VARIANTS.items():
        cls = variants[0]
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
    assert (options.global_period, options.global_pull) == (None, None)


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


WITH_PERIOD = ("pr-sgd", "easgd", "easgd-gauss-seidel", "eamsgd", "downpour")
WITH_RATES = ("easgd", "easgd-gauss-seidel", "eamsgd")


@pytest.mark.parametrize("algorithm", WITH_PERIOD)
@pytest.mark.parametrize("period", [0, -3, 2.5, True])
def test_every_methods_period_is_a_whole_number_of_at_least_one(algorithm, period):
    with pytest.raises(UsageError, match=rf"^--local-period {period}: .* at least 1"):
        make_options(algorithm, {"local_period": period})


@pytest.mark.parametrize("algorithm", WITH_RATES)
@pytest.mark.parametrize("name", ["moving_rate", "worker_moving_rate"])
@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf, -math.inf])
def test_a_moving_rate_is_finite_and_not_negative(algorithm, name, rate):
    with pytest.raises(UsageError, match=rf"^--{name.replace('_', '-')} {rate}: .* at least 0"):
        make_options(algorithm, {name: rate})


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_the_averaging_rate_of_mvasgd_is_a_weight(rate):
    with pytest.raises(UsageError, match=rf"^--averaging-rate {rate}: "):
        make_options("mvasgd", {"averaging_rate": rate})


@pytest.mark.parametrize("algorithm", ["easgd", "easgd-gauss-seidel", "eamsgd", "downpour"])
def test_what_a_method_with_a_center_evaluates_is_one_of_two(algorithm):
    assert make_options(algorithm, {}).evaluated == "center"
    with pytest.raises(UsageError, match=r"--evaluated 'average': choose from center, center-average"):
        make_options(algorithm, {"evaluated": "average"})


@pytest.mark.parametrize("algorithm", WITH_RATES)
def test_each_moving_rate_is_derived_from_the_other(algorithm):
    def rates(**given):
        options = make_options(algorithm, given).resolved(ONE_GROUP)
        return options.moving_rate, options.worker_moving_rate

    assert rates() == (0.9, 0.225)
    assert rates(moving_rate=0.4) == (0.4, 0.1)
    assert rates(worker_moving_rate=0.125) == (0.5, 0.125)
    assert rates(moving_rate=0.0) == (0.0, 0.0)
    assert rates(worker_moving_rate=0.0) == (0.0, 0.0)


@pytest.mark.parametrize("algorithm", ["easgd", "eamsgd"])
def test_moving_rates_that_disagree_are_refused_in_the_jacobi_form_alone(algorithm):
    given = {"moving_rate": 0.8, "worker_moving_rate": 0.3}
    with pytest.raises(UsageError) as refused:
        make_options(algorithm, given).resolved(TWO_GROUPS)
    for word in ("--moving-rate 0.8", "--worker-moving-rate 0.3", "4 workers", "1.2"):
        assert word in str(refused.value)
    resolved = make_options("easgd-gauss-seidel", given).resolved(TWO_GROUPS)
    assert (resolved.moving_rate, resolved.worker_moving_rate) == (0.8, 0.3)
    make_options(algorithm, {"moving_rate": 0.3, "worker_moving_rate": 0.1}).resolved(
        make_topology(3, ["node"] * 3)
    )


def doubts(algorithm, workers, **given):
    topology = make_topology(workers, ["node"] * workers)
    return make_options(algorithm, given).resolved(topology).doubts(topology)


@pytest.mark.parametrize(
    ("groups", "hosts", "doubtful"),
    [
        (2, "aabb", False),
        (2, "abab", True),
        ("node", "abab", False),
        # Whoever is alone on a node can only have a group with others.
        (2, "abcd", False),
        ([[0, 1, 2], [3]], "aabb", True),
    ],
)
def test_groups_across_nodes_are_doubted_where_nodes_could_be_groups(groups, hosts, doubtful):
    topology = make_topology(groups, list(hosts))
    told = make_options("lsgd", {}).resolved(topology).doubts(topology)
    assert [("--groups node" in sentence) for sentence in told] == [True] * doubtful


@pytest.mark.parametrize("workers", [1, 2, 4, 16])
def test_the_edge_of_stability_of_easgd(workers):
    edge = 2 * workers / (workers + 1)
    for algorithm in ("easgd", "eamsgd"):
        assert doubts(algorithm, workers, moving_rate=edge - 1e-3) == []
        (sentence,) = doubts(algorithm, workers, moving_rate=edge + 1e-3)
        assert "α + β < 2" in sentence
        assert f"β < {edge:.3g} " in sentence
        assert doubts(algorithm, workers) == []


@pytest.mark.parametrize("workers", [1, 2, 4, 16])
def test_downpours_rates_are_stable_in_the_gauss_seidel_form_and_others_not(workers):
    downpour = {"moving_rate": float(workers), "worker_moving_rate": 1.0}
    for given in (downpour, {}):
        assert doubts("easgd-gauss-seidel", workers, **given) == []
    for alpha, beta in ((2.0, 1.0), (0.5, 3.5), (1.5, 3.5), (2.5, 1.0)):
        (sentence,) = doubts("easgd-gauss-seidel", workers, moving_rate=beta, worker_moving_rate=alpha)
        assert f"α = {alpha:g}, β = {beta:g}" in sentence
        assert "α < 2 and |(1 − α)(1 − β)| < 1" in sentence


def spectral_radius(algorithm, workers, alpha, beta, step=1e-4):
    """Of one round on h x²/2 with ``η h = step``: the largest absolute eigenvalue of (x¹, ..., xᵖ, x̃)."""
    eye, ones = np.eye(workers), np.ones((workers, 1))
    pull = np.block([[(1 - alpha) * eye, alpha * ones], [0 * ones.T, np.ones((1, 1))]])
    descend = np.block([[(1 - step) * eye, 0 * ones], [0 * ones.T, np.ones((1, 1))]])
    gather = np.block([[eye, 0 * ones], [beta / workers * ones.T, np.array([[1 - beta]])]])
    if algorithm == "easgd-gauss-seidel":
        whole = gather @ descend @ pull
    else:
        # All right-hand sides at the same time: the changes add up.
        whole = pull + descend + gather - 2 * np.eye(workers + 1)
    return abs(np.linalg.eigvals(whole)).max()


@pytest.mark.parametrize("algorithm", WITH_RATES)
@pytest.mark.parametrize("workers", [2, 4])
def test_doubts_are_said_where_a_round_with_small_steps_diverges_and_only_there(algorithm, workers):
    verdicts = set()
    for alpha in (0.05, 0.22, 0.37, 0.41, 0.64, 0.68, 0.99, 1.7, 1.99, 2.01):
        betas = [workers * alpha] if algorithm != "easgd-gauss-seidel" else [0.1, 0.9, 1.9, 2.4, 3.3, 4.1]
        for beta in betas:
            diverges = bool(spectral_radius(algorithm, workers, alpha, beta) > 1)
            told = doubts(algorithm, workers, moving_rate=beta, worker_moving_rate=alpha)
            assert bool(told) == diverges, (alpha, beta)
            verdicts.add(diverges)
    assert verdicts == {True, False}


@pytest.mark.parametrize("algorithm", ["sgd", "msgd", "asgd", "mvasgd"])
def test_sequential_methods_are_refused_on_several_ranks(algorithm):
    make_options(algorithm, {}).resolved(make_topology(1, ["node"]))
    with pytest.raises(UsageError, match="are sequential: start them on one rank, not 4"):
        make_options(algorithm, {}).resolved(TWO_GROUPS)


def test_epochs_of_pr_sgd_varying_are_the_rounded_up_cube_root_shared_out():
    for workers in (1, 2, 3, 8):
        for epoch in (*range(1, 400), 10**6, 10**6 + 1, 10**15, 10**15 + 1):
            length = epoch_length(epoch, workers)
            assert length >= 1
            assert (length * workers) ** 3 >= epoch > ((length - 1) * workers) ** 3
    assert [epoch_length(epoch, 1) for epoch in (1, 2, 8, 9, 27, 28)] == [1, 2, 2, 3, 3, 4]


def optimizer_of(algorithm, **given):
    """Check the optimizer that these options of a training make against the method."""
    options = make_train_options({"algorithm": algorithm, **given})
    optimizer = make_local_optimizer([torch.nn.Parameter(torch.ones(2, 2))], options)
    find_algorithm(algorithm).check_optimizer(optimizer)
    return optimizer


@pytest.mark.parametrize(
    ("algorithm", "given", "told"),
    [
        ("downpour", {"momentum": 0.9}, "downpour has no momentum"),
        ("downpour", {"momentum": 0.9, "nesterov": True}, "downpour has no momentum"),
        ("downpour", {"optimizer": "adam"}, "downpour has no momentum"),
        ("downpour", {"optimizer": "adamw"}, "downpour has no momentum"),
        ("downpour", {"optimizer": "lars", "momentum": 0.9}, "downpour has no momentum"),
        ("eamsgd", {"optimizer": "adam"}, "not of Adam"),
        ("eamsgd", {"optimizer": "lars"}, "not of LARS"),
        ("msgd", {"nesterov": False}, "Nesterov's momentum: use --optimizer sgd --nesterov"),
        ("msgd", {"optimizer": "adam"}, "Nesterov's momentum: use --optimizer sgd --nesterov"),
        ("sgd", {"momentum": 0.9}, "sgd has no momentum: use --momentum 0, or msgd"),
        ("asgd", {"momentum": 0.9}, "asgd has no momentum"),
        ("mvasgd", {"momentum": 0.9}, "mvasgd has no momentum"),
    ],
)
def test_an_optimizer_that_the_method_excludes_is_refused(algorithm, given, told):
    with pytest.raises(UsageError) as refused:
        optimizer_of(algorithm, **given)
    assert told in str(refused.value)


def test_momentum_of_a_single_group_is_enough_to_be_refused():
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [{"params": [first]}, {"params": [second], "momentum": 0.5}]
    for algorithm in ("downpour", "sgd"):
        with pytest.raises(UsageError, match="momentum"):
            find_algorithm(algorithm).check_optimizer(torch.optim.SGD(groups, lr=0.1))
    groups = [{"params": [first]}, {"params": [second], "dampening": 0.5}]
    with pytest.raises(UsageError, match="dampening"):
        find_algorithm("eamsgd").check_optimizer(torch.optim.SGD(groups, lr=0.1, momentum=0.9))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_method_takes_the_optimizer_of_its_own_defaults(algorithm):
    group = optimizer_of(algorithm).param_groups[0]
    with_momentum = {"lsgd", "allreduce", "eamsgd", "msgd", "mdownpour"}
    assert group["momentum"] == (0.9 if algorithm in with_momentum else 0.0)
    assert group["nesterov"] == (algorithm in {"eamsgd", "msgd", "mdownpour"})
