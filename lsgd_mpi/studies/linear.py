"""Stability of a method on a quadratic: its linear map, the map's spectral radius, where that passes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lsgd_mpi.studies import driver

Array = npt.NDArray[np.float64]

#: Steps of the bisection for a boundary: a factor of a million.
_HALVINGS = 20


def quadratic(curvature: float = 1.0) -> driver.Gradient:
    """The gradient of ``h x²/2`` in every coordinate by itself."""

    def gradient(world_rank: int, step: int, x: torch.Tensor) -> tuple[float, torch.Tensor]:  # noqa: ARG001
        return float(curvature * x.square().sum() / 2), curvature * x

    return gradient


def linear_map(
    algorithm: str, options: Mapping[str, Any], workers: int, learning_rate: float, curvature: float = 1.0
) -> Array:
    """The matrix of one step on ``h x²/2``, of the state (x¹, …, xᵖ, x̃), shape (p + 1, p + 1).

    The algorithm makes one step in p + 1 dimensions, of which dimension k starts from the k-th unit vector.
    """
    units = torch.eye(workers + 1, dtype=torch.float64)
    return _images(algorithm, options, units, learning_rate, curvature)


def mean_map(
    algorithm: str, options: Mapping[str, Any], workers: int, learning_rate: float, curvature: float = 1.0
) -> Array:
    """The same for workers that are all equal, of the state (x, x̃), shape (2, 2)."""
    units = torch.eye(2, dtype=torch.float64)
    states = torch.cat([units[:1].expand(workers, 2), units[1:]])
    images = _images(algorithm, options, states, learning_rate, curvature)
    return np.stack([images[:-1].mean(axis=0), images[-1]])


def spectral_radius(matrices: Array) -> Array:
    """The largest absolute eigenvalue of each matrix, shape (..., n, n) to (...)."""
    radii: Array = np.abs(np.linalg.eigvals(matrices)).max(axis=-1)
    return radii


def boundary(stable: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where stability ends between a stable point and an unstable one, by bisection.

    Raises `ValueError` if they are not what they are said to be.
    """
    if not stable(inside) or stable(outside):
        raise ValueError(f"no boundary between {inside} (to be stable) and {outside} (to be unstable)")
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if stable(middle):
            inside = middle
        else:
            outside = middle
    return (inside + outside) / 2


def _images(
    algorithm: str, options: Mapping[str, Any], states: torch.Tensor, learning_rate: float, curvature: float
) -> Array:
    outcome = driver.run(
        *(algorithm, options, states[:-1], quadratic(curvature), 1),
        learning_rate=learning_rate,
        center=states[-1],
    )
    assert outcome.center is not None
    images: Array = torch.cat([outcome.workers, outcome.center[None]]).numpy()
    return images
