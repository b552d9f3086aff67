"""A worker that descends a bowl of its own, and its numbers for plain loops in NumPy."""

import numpy as np
import torch
from harness import Tiny, start_of, values, write

import lsgd_mpi

PLACES = np.arange(18)

#: The flat tensor of `harness.Tiny`: 15 and 3 float64, each padded to 16 bytes.
FLAT_BYTES = (16 + 4) * 8

RATE = 0.1


class Bowl:
    """A worker's loss, mean(h (x − b)²) / 2 + noise · x, of numbers that float64 holds exactly."""

    def __init__(self, rank):
        self._rank = rank
        self._curvature = (2 + (7 * PLACES + 3 * rank) % 11) / 8
        self._bottom = ((5 * PLACES + 2 * rank) % 7 - 3) / 4

    def _noise(self, step):
        return ((13 * step + 5 * PLACES + 3 * self._rank) % 17 - 8) / 16

    def loss(self, x, step):
        bowl = (self._curvature * (x - self._bottom) ** 2).mean() / 2
        return float(bowl + (self._noise(step) * x).mean())

    def gradient(self, x, step):
        return self._curvature * (x - self._bottom) + self._noise(step)


def sgd(**settings):
    """What makes a worker's own optimizer; with momentum as torch has it."""
    return lambda parameters: torch.optim.SGD(parameters, **{"lr": RATE, **settings})


class Descent:
    """A rank that trains `harness.Tiny` on its bowl by a method; ``path`` holds its parameters by step."""

    def __init__(self, ranks, algorithm, make=None, *, equal_start=False, shift=0, **options):
        self.model = Tiny()
        write(self.model, start_of(ranks.rank + shift))
        self.inner = (make or sgd())(self.model.parameters())
        if len(ranks.groups) == 1:
            options = {name: value for name, value in options.items() if not name.startswith("global_")}
        self.optimizer = lsgd_mpi.DistributedOptimizer(
            self.inner, self.model, algorithm, equal_start=equal_start, **options
        )
        self._bowl = Bowl(ranks.rank)
        self.steps = 0
        self.path = []

    def run(self, steps, *, still=False):
        """Make so many steps; ``still`` ones have no gradient, so that only the method moves anything."""
        for _ in range(steps):
            x = self.values.numpy()
            gradient = np.zeros(18) if still else self._bowl.gradient(x, self.steps)
            self.optimizer.zero_grad()
            # Through backward(), whose hooks Horovod needs; the gradient arrives with these very bits.
            parts = torch.from_numpy(gradient).split([15, 3])
            pairs = zip(self.model.parameters(), parts, strict=True)
            sum((each.reshape(-1) * part).sum() for each, part in pairs).backward()
            self.optimizer.step(self._bowl.loss(x, self.steps))
            self.steps += 1
            self.path.append(self.values.numpy())
        return np.array(self.path)

    @property
    def values(self):
        return values(self.model)

    def evaluated(self):
        """What the method shows for evaluation."""
        with self.optimizer.evaluated_parameters():
            return self.values


def starts(size, *, equal=False):
    """Where all workers start, shape (size, 18)."""
    return np.array([start_of(0 if equal else rank).numpy() for rank in range(size)])


def gradients(x, step):
    """All workers' gradients at ``x``, shape (size, 18)."""
    return np.array([Bowl(rank).gradient(each, step) for rank, each in enumerate(x)])


def assert_path(actual, expected, tolerance=1e-12):
    """Equal to roundings of float64 that a few dozen steps gather."""
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def assert_equal_on_all(ranks, tensor):
    """The same bits on every rank."""
    everyone = ranks.gather(tensor.numpy().tobytes())
    assert everyone == [everyone[0]] * ranks.size


def methods(ranks):
    """{description: (name, optimizer, options)}: every method of `ALGORITHMS` that these ranks can run."""
    nesterov = sgd(momentum=0.9, nesterov=True, lr=0.02)
    lsgd = {"local_period": 2, "local_pull": 0.2, "global_period": 3, "loss_window": 3}
    together = {
        "lsgd": ("lsgd", sgd(momentum=0.9, lr=0.02), lsgd),
        "allreduce": ("allreduce", nesterov, {}),
        "pr-sgd": ("pr-sgd", nesterov, {"local_period": 3}),
        "pr-sgd-varying": ("pr-sgd-varying", sgd(), {}),
        "easgd": ("easgd", sgd(), {"local_period": 3}),
        "easgd with Adam": ("easgd", lambda each: torch.optim.Adam(each, lr=0.05), {"local_period": 3}),
        "easgd-gauss-seidel": ("easgd-gauss-seidel", sgd(), {"local_period": 3, "moving_rate": 0.5}),
        "eamsgd": ("eamsgd", nesterov, {"local_period": 3}),
        "eamsgd, heavy ball": ("eamsgd", sgd(momentum=0.9, lr=0.02), {"local_period": 3}),
        "downpour": ("downpour", sgd(lr=0.03), {"local_period": 3}),
    }
    for name in ("easgd", "easgd-gauss-seidel", "eamsgd", "downpour"):
        algorithm, make, options = together[name]
        together[f"{name}, averaged"] = (algorithm, make, {**options, "evaluated": "center-average"})
    alone = {
        "sgd": ("sgd", sgd(), {}),
        "msgd": ("msgd", nesterov, {}),
        "asgd": ("asgd", sgd(), {}),
        "mvasgd": ("mvasgd", sgd(), {"averaging_rate": 0.1}),
    }
    return {**together, **(alone if ranks.size == 1 else {})}
