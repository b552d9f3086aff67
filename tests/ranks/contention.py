"""All ranks hammer one center: what was lost or doubled of it."""

import numpy as np
import torch


def contend(communicator, exchanges, length):
    """Let every rank exchange with a center of so many float64 as fast as it can; collective."""
    center = communicator.center(torch.zeros(length, dtype=torch.float64))
    chance = np.random.default_rng(communicator.world_rank)
    x = torch.zeros(length, dtype=torch.float64)
    given = torch.zeros(length, dtype=torch.float64)
    numbers = []

    def move(visit, part, vector):  # noqa: ARG001
        d = 0.1 * (x[part] - vector)
        x[part] -= d
        vector += d
        given[part] += d

    for _ in range(exchanges):
        x.add_(torch.from_numpy(chance.normal(size=length)))
        numbers.append(center.exchange(move))
    total = sum(communicator.gather(given))
    everyone = sorted(number for each in communicator.gather(numbers) for number in each)
    end = torch.empty_like(x)
    visits = center.read([end])
    # Not relative to each element: one may happen to be next to zero.
    scale = float(end.abs().mean())
    communicator.barrier()
    return {
        "visits": visits,
        "each_number_once": everyone == list(range(1, exchanges * communicator.world_size + 1)),
        "moved": scale,
        "relative_error": float((end - total).abs().max()) / scale,
    }
