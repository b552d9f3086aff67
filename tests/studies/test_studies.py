"""Each study's known answer, at a size of seconds."""

import math

import numpy as np
import pytest
import torch

from lsgd_mpi.errors import UsageError
from lsgd_mpi.studies import (
    admm_stability,
    double_well,
    easgd_stability,
    matrix_completion,
    round_robin,
    toy,
    unification,
)
from lsgd_mpi.studies.linear import boundary, linear_map, spectral_radius

PERCENT = 0.01


# toy


def test_lgd_reaches_the_global_minimum_of_the_toy():
    outcome = toy.trajectories("LGD", 150)
    assert [round(toy.objective(worker), 4) for worker in outcome.workers] == [-0.2172] * 4


def test_eagd_stays_at_a_local_minimum_of_the_toy():
    outcome = toy.trajectories("EAGD", 150)
    # The paper prints -0.0912; the minimum of that ring is -0.091325.
    assert toy.recovered(outcome) == pytest.approx(-0.0913, abs=1e-4)
    assert float(outcome.center.norm()) == pytest.approx(3.4709, abs=1e-3)


def test_the_toy_s_gradient_is_that_of_its_objective():
    x = torch.tensor([0.7, -1.9], dtype=torch.float64, requires_grad=True)
    angle = math.pi * x.norm()
    (expected,) = torch.autograd.grad(torch.sin(angle) / angle, x)
    value, slope = toy.gradient(0, 0, x.detach())
    assert value == pytest.approx((torch.sin(angle) / angle).item(), rel=1e-14)
    torch.testing.assert_close(slope, expected)


# matrix completion

SMALL = matrix_completion.Scale(dimension=60, learning_rate=8e-3, ranks=(2,), trials=1, steps=200)


def test_lgd_completes_a_matrix_where_eagd_stalls():
    problem = matrix_completion.Problem(SMALL.dimension, 2, seed=1)
    lgd, eagd = (matrix_completion.best_worker(name, problem, SMALL) for name in ("LGD", "EAGD"))
    assert float(lgd[0]) == float(eagd[0]) > 100
    assert matrix_completion.steps_to(lgd, 1e-20) < 150
    assert matrix_completion.steps_to(eagd, matrix_completion.STALLED) is None
    assert matrix_completion.steps_to(eagd, 100.0) < 50


def test_the_objective_and_gradient_are_those_of_the_whole_matrix():
    problem = matrix_completion.Problem(20, 3, seed=0)
    x = problem.starts[4]
    residual = x @ x.T - problem.factor @ problem.factor.T
    value, slope = problem.gradient(0, 0, x)
    assert value == pytest.approx(float(residual.square().sum()) / 4, rel=1e-12)
    torch.testing.assert_close(slope, residual @ x, rtol=1e-10, atol=1e-10)


def test_a_rank_that_is_too_large_is_refused():
    with pytest.raises(UsageError, match="--ranks 11"):
        matrix_completion.Problem(20, 11, seed=0)


# stability of EASGD


def test_the_linear_map_is_that_of_the_equations():
    rate, alpha = 0.3, 0.1
    matrix = linear_map("easgd", {"local_period": 1, "worker_moving_rate": alpha}, 2, rate, curvature=2.0)
    kept = 1 - 2.0 * rate - alpha
    expected = [[kept, 0, alpha], [0, kept, alpha], [alpha, alpha, 1 - 2 * alpha]]
    np.testing.assert_allclose(matrix, expected, atol=1e-15)


@pytest.mark.parametrize("workers", [1, 3, 8])
@pytest.mark.parametrize("rate", [0.2, 1.0, 1.8])
def test_synchronous_easgd_is_stable_as_the_lemma_says(workers, rate):
    found = easgd_stability.synchronous_boundary(rate, workers)
    assert found == pytest.approx(easgd_stability.synchronous_limit(rate, workers), rel=PERCENT)
    # The limit is where one of the lemma's two conditions, written out here, ceases to hold.
    holds = [
        (2 - rate) * (2 - workers * alpha) > 2 * alpha and (2 - rate) + (2 - workers * alpha) > alpha
        for alpha in (found * (1 - PERCENT), found * (1 + PERCENT))
    ]
    assert holds == [True, False]


def test_the_curvature_counts_with_the_rate():
    found = easgd_stability.synchronous_boundary(0.25, 3, curvature=4.0)
    assert found == pytest.approx(easgd_stability.synchronous_limit(1.0, 3), rel=PERCENT)


@pytest.mark.parametrize("rate", [0.1, 1.0, 1.9])
@pytest.mark.parametrize("workers", [1, 3, 5])
def test_round_robin_easgd_is_stable_as_the_thesis_says(rate, workers):
    found = easgd_stability.round_robin_boundary(rate, workers)
    assert found == pytest.approx((4 - 2 * rate) / (4 - rate), rel=PERCENT)


def test_an_even_round_of_workers_is_stable_a_little_further():
    # The thesis' condition makes each worker's own step stable; two of them in turn bear more.
    limit = easgd_stability.round_robin_limit(1.0)
    assert limit == pytest.approx(2 / 3)
    assert easgd_stability.round_robin_boundary(1.0, 2) == pytest.approx(math.sqrt(0.5), rel=1e-4)
    assert limit < easgd_stability.round_robin_boundary(1.0, 8) < 1.01 * limit


def test_a_boundary_needs_two_different_ends():
    with pytest.raises(ValueError, match="no boundary"):
        boundary(lambda _: True, 0.0, 1.0)


# ADMM


def test_the_maps_of_admm_are_the_thesis():
    rate, penalty = 0.2, 3.0
    weight = rate * penalty
    # States (λ¹, x¹, λ², x², x̃), as the thesis orders them, for p = 2.
    product = np.eye(5)
    for worker in (0, 2):
        dual, local, center = np.eye(5), np.eye(5), np.eye(5)
        dual[worker, worker + 1], dual[worker, 4] = -1, 1
        local[worker + 1, [worker, worker + 1, 4]] = np.array([weight, 1 - rate, weight]) / (1 + weight)
        center[4] = [-0.5, 0.5, -0.5, 0.5, 0]
        product = center @ local @ dual @ product
    ours = round_robin.admm_cycle_map(2, rate, penalty)
    order = [0, 2, 1, 3, 4]
    np.testing.assert_allclose(ours, product[np.ix_(order, order)], atol=1e-14)


def test_the_maps_of_round_robin_easgd_are_the_thesis():
    rate, alpha = 0.3, 0.2
    first = [[1 - rate - alpha, 0, alpha], [0, 1, 0], [alpha, 0, 1 - alpha]]
    second = [[1, 0, 0], [0, 1 - rate - alpha, alpha], [0, alpha, 1 - alpha]]
    ours = round_robin.easgd_cycle_map(2, rate, alpha)
    np.testing.assert_allclose(ours, np.array(second) @ np.array(first), atol=1e-14)


@pytest.mark.parametrize("workers", [3, 8])
def test_admm_is_unstable_in_a_part_of_the_plane_and_easgd_nowhere(workers):
    rates, penalties, admm, easgd = admm_stability.radii(workers, 20)
    assert (admm > 1 + 1e-6).any()
    assert (admm < 1 - 1e-6).any()
    assert float(easgd.max()) < 1
    assert rates[-1] < 0.01
    assert penalties[-1] < 10


def test_admm_diverges_from_the_thesis_start_and_easgd_does_not():
    admm, easgd = admm_stability.trajectories(60_000)
    assert admm[0] == easgd[0] == 1000.0
    assert np.abs(admm[-5000:]).max() > 1e6
    assert np.abs(easgd).max() == 1000.0
    assert abs(easgd[-1]) < 1.0
    # It grows as the largest eigenvalue says, a cycle being three steps.
    growth = np.abs(admm[-5000:]).max() / np.abs(admm[-35_000:-30_000]).max()
    radius = float(spectral_radius(round_robin.admm_cycle_map(3, 0.001, 2.5)))
    assert math.log(growth) == pytest.approx(10_000 * math.log(radius), rel=0.05)


# double well


def test_the_split_point_is_a_minimum_up_to_two_thirds():
    assert double_well.limit() == pytest.approx(2 / 3, abs=1e-5)
    signs = [double_well.smallest_eigenvalue(rho) > 0 for rho in (1e-4, 0.3, 0.66, 0.67, 0.99)]
    assert signs == [True, True, True, False, False]


def test_the_hessian_is_the_thesis():
    rho = 0.4
    well = 3 * (1 - rho) - 1 + rho
    hessian = np.array([[well, 0, -rho], [0, well, -rho], [-rho, -rho, 2 * rho]])
    assert double_well.smallest_eigenvalue(rho) == pytest.approx(float(np.linalg.eigvalsh(hessian)[0]))


def test_easgd_stays_split_inside_and_comes_together_outside():
    inside, outside = double_well.trajectory(0.5, 600).workers, double_well.trajectory(0.85, 600).workers
    torch.testing.assert_close(inside[:, 0].tolist(), [math.sqrt(0.5), -math.sqrt(0.5)], rtol=0, atol=1e-6)
    torch.testing.assert_close(outside[:, 0].tolist(), [1.0, 1.0], rtol=0, atol=1e-3)


# DOWNPOUR and EASGD


def test_the_gauss_seidel_form_with_alpha_1_and_beta_p_is_downpour():
    noise = torch.randn((40, 3, 2), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    downpour = unification.trajectory("downpour", {}, noise)
    same = unification.trajectory(
        "easgd-gauss-seidel", {"worker_moving_rate": 1.0, "moving_rate": 3.0}, noise
    )
    other = unification.trajectory(
        "easgd-gauss-seidel", {"worker_moving_rate": 0.9, "moving_rate": 3.0}, noise
    )
    torch.testing.assert_close(same.centers, downpour.centers, rtol=0, atol=1e-13)
    assert float((other.centers - downpour.centers).abs().max()) > 0.01


@pytest.mark.parametrize(
    ("eta", "beta"),
    [(0.5, 0.25), (0.5, 1.5), (0.5, 4.0), (0.1, 16.0), (1.5, 0.5), (1.5, 1.5), (3.0, 0.5), (5.0, 0.4)],
)
def test_the_gauss_seidel_form_is_stable_as_the_theorem_says(eta, beta):
    low, high = unification.theorem_interval(eta, beta)
    middle = (low + high) / 2

    def stable(alpha):
        return unification.radius(eta, alpha, beta) < 1

    assert boundary(stable, middle, high + 1) == pytest.approx(high, rel=PERCENT)
    if low > 0:
        # Rates are not negative, and at none of them the method is stable.
        assert boundary(stable, middle, 0.0) == pytest.approx(low, rel=PERCENT)


@pytest.mark.parametrize(("eta", "beta"), [(0.5, 8.5), (1.5, 2.5), (3.0, 1.5), (5.0, 0.9)])
def test_where_the_theorem_gives_no_rate_none_is_stable(eta, beta):
    assert unification.theorem_interval(eta, beta) is None
    assert all(unification.radius(eta, alpha, beta) >= 1 for alpha in np.linspace(0.05, 4, 30))


def test_the_theorem_s_cases_are_its_short_form():
    for eta in np.linspace(0.05, 6.0, 25):
        for beta in np.linspace(0.03, 9.0, 37):
            interval = unification.theorem_interval(float(eta), float(beta)) or (0.0, 0.0)
            for alpha in np.linspace(0.01, 8.0, 53):
                c = (1 - eta) * (1 - alpha) * (1 - beta)
                assert (interval[0] < alpha < interval[1]) == (-1 < c < 1 and beta * eta < 2 * (c + 1))


def test_sixteen_workers_of_downpour_bear_an_eighth():
    assert unification.downpour_limit(16.0) == pytest.approx(1 / 8, rel=PERCENT)
    # α = 0.9 with β = 16 is stable at no η.
    assert min(unification.radius(eta, 0.9, 16.0) for eta in np.linspace(0.005, 1.0, 60)) >= 1


def test_every_end_of_stability_on_the_study_s_grid_is_found():
    alphas = np.linspace(0.02, 6.0, 41)
    for beta, edges in ((0.25, ["ends"]), (1.75, ["ends"]), (3.25, ["begins", "ends"]), (0.75, [])):
        radii = np.array([unification.radius(0.5, float(alpha), beta) for alpha in alphas])
        found = unification.crossings(0.5, beta, alphas, radii)
        assert [crossing.edge for crossing in found] == edges
        assert all(crossing.departure < PERCENT for crossing in found)
