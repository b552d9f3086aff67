"""What one rank trains: its model, on its device, with its share of the data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from lsgd_mpi import comm
from lsgd_mpi.config import TrainOptions
from lsgd_mpi.data import (
    BatchLoader,
    Dataset,
    Processing,
    load,
    prepare,
    processing_for,
    recalibration_batches,
    test_batches,
)
from lsgd_mpi.local_optimizer import make_local_optimizer
from lsgd_mpi.models import build
from lsgd_mpi.placement import choose_device, use_threads

_EVALUATION_BATCH = 500

Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Task:
    """A model with its local optimizer, and the batches of one rank, all on ``device``.

    ``threads`` compute on a CPU.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    training: BatchLoader
    dataset: Dataset
    processing: Processing
    batch_size: int
    share: dict[str, Any]
    threads: int

    @property
    def device(self) -> torch.device:
        """Where the model and its batches are."""
        device: torch.device = self.share["device"]
        return device

    def test_batches(self) -> Batches:
        """The rank's share of the test set."""
        return test_batches(self.dataset.test, self.processing, batch_size=_EVALUATION_BATCH, **self.share)

    def recalibration_batches(self, count: int) -> Batches:
        """At most ``count`` training batches, the same at every evaluation, for batch-norm statistics."""
        loader = recalibration_batches(
            self.dataset.train, self.processing, batch_size=self.batch_size, **self.share
        )
        return itertools.islice(loader.epoch(0), count)


def make_task(options: TrainOptions, communicator: comm.Communicator) -> Task:
    """The task that ``options`` describe. Collective: what fails on one rank is raised on all.

    Raises `DataError`, `UsageError` (a model that cannot take the images) and `SetupError` (a device that is
    not there).
    """
    threads = use_threads(options.threads, communicator)
    device = choose_device(options.device, communicator)
    # One rank downloads, then each reads.
    comm.on_rank_zero(lambda: prepare(options.dataset, options.data_dir, options.download), for_long=True)
    dataset = comm.together(
        lambda: load(options.dataset, options.data_dir, limit=options.limit), "the loading of the data"
    )
    # Once on the device, for training and for recalibration.
    dataset = replace(dataset, train=dataset.train.to(device))
    processing = processing_for(dataset, options.model)
    torch.manual_seed(options.seed)
    model = comm.together(lambda: _build_model(options.model, dataset, processing))
    share: dict[str, Any] = {
        "rank": communicator.world_rank,
        "ranks": communicator.world_size,
        "device": device,
    }
    training = comm.together(lambda: _training_batches(options, communicator, dataset, processing, device))
    model.to(device)
    optimizer = make_local_optimizer(model.parameters(), options)
    return Task(model, optimizer, training, dataset, processing, options.batch_size, share, threads)


def _training_batches(
    options: TrainOptions,
    communicator: comm.Communicator,
    dataset: Dataset,
    processing: Processing,
    device: torch.device,
) -> BatchLoader:
    """The share of this rank among those that train; of one that does not, nobody asks for them."""
    topology, me = communicator.topology, communicator.world_rank
    trainers = options.method.resolved(topology).trainers(topology)
    return BatchLoader(
        dataset.train,
        processing,
        batch_size=options.batch_size,
        seed=options.seed,
        rank=trainers.index(me) if me in trainers else 0,
        ranks=len(trainers),
        device=device,
    )


def _build_model(name: str, dataset: Dataset, processing: Processing) -> torch.nn.Module:
    height, width = processing.size(dataset.train.height, dataset.train.width)
    return build(name, channels=dataset.train.channels, height=height, width=width, classes=dataset.classes)
