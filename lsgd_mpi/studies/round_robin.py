"""EASGD and ADMM with one worker active a step (thesis, Section 3.3); they exist for the studies only.

Arrays may have any shape behind the workers' axis, and rates any that goes with it, so that one call
steps many systems at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class EASGDState(NamedTuple):
    """Workers ``xⁱ``, shape (p, ...), and the center ``x̃``, shape (...)."""

    workers: Array
    center: Array


class ADMMState(NamedTuple):
    """Multipliers ``λⁱ`` and workers ``xⁱ``, shape (p, ...), and the center ``x̃``, shape (...)."""

    multipliers: Array
    workers: Array
    center: Array


def easgd_step(
    state: EASGDState, active: int, gradient: Array, learning_rate: Array | float, rate: Array | float
) -> EASGDState:
    """Equations 3.55 and 3.56: worker ``active`` and the center move, from the old values of both.

    ``gradient`` is that of the active worker's loss, ``rate`` is α.
    """
    x, center = state.workers[active], state.center
    workers = state.workers.copy()
    workers[active] = x - learning_rate * gradient - rate * (x - center)
    return EASGDState(workers, center + rate * (x - center))


def admm_step(
    state: ADMMState, active: int, gradient: Array, learning_rate: Array | float, penalty: Array | float
) -> ADMMState:
    """Equations 3.52 to 3.54: multiplier, then worker ``active``, then the center, each from the newest.

    ``gradient`` is that of the active worker's loss, ``penalty`` is ρ.
    """
    multipliers, workers = state.multipliers.copy(), state.workers.copy()
    x, weight = workers[active], learning_rate * penalty
    multipliers[active] = multipliers[active] - (x - state.center)
    workers[active] = (x - learning_rate * gradient + weight * (multipliers[active] + state.center)) / (
        1 + weight
    )
    return ADMMState(multipliers, workers, (workers - multipliers).mean(axis=0))


def easgd_cycle_map(workers: int, learning_rate: Array | float, rate: Array | float) -> Array:
    """The matrix of p steps, one of each worker, on ``x²/2``: shape (..., p + 1, p + 1) for rates (...)."""
    rates = [np.asarray(each, dtype=np.float64)[..., None] for each in (learning_rate, rate)]
    units = _units(workers + 1, np.broadcast_shapes(*(each.shape[:-1] for each in rates)))
    state = EASGDState(units[:-1], units[-1])
    for active in range(workers):
        state = easgd_step(state, active, state.workers[active], *rates)
    return np.moveaxis(np.concatenate([state.workers, state.center[None]]), 0, -2)


def admm_cycle_map(workers: int, learning_rate: Array | float, penalty: Array | float) -> Array:
    """The same for ADMM, of the state (λ¹, …, λᵖ, x¹, …, xᵖ, x̃): shape (..., 2 p + 1, 2 p + 1)."""
    rates = [np.asarray(each, dtype=np.float64)[..., None] for each in (learning_rate, penalty)]
    units = _units(2 * workers + 1, np.broadcast_shapes(*(each.shape[:-1] for each in rates)))
    state = ADMMState(units[:workers], units[workers:-1], units[-1])
    for active in range(workers):
        state = admm_step(state, active, state.workers[active], *rates)
    return np.moveaxis(np.concatenate([state.multipliers, state.workers, state.center[None]]), 0, -2)


def _units(size: int, shape: tuple[int, ...]) -> Array:
    # Component i of the k-th unit vector stands at [i, ..., k].
    between = np.eye(size).reshape(size, *(1 for _ in shape), size)
    units: Array = np.broadcast_to(between, (size, *shape, size)).copy()
    return units
