"""Which rank sees which image when: training epochs and the test set, shared among ranks."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import torch

from lsgd_mpi.data.images import Images
from lsgd_mpi.data.processing import Processing
from lsgd_mpi.errors import DataError, UsageError


class _Stream(IntEnum):
    """Independent sources of chance from one seed; a number once given stays."""

    ORDER = 0
    AUGMENTATION = 1
    RECALIBRATION_ORDER = 2
    RECALIBRATION_AUGMENTATION = 3


class BatchLoader:
    """One rank's training batches.

    Every epoch puts all images in one random order, the same on every rank, and cuts it into steps of
    ``ranks`` batches; in each step rank r takes the r-th. So ranks never share an image within an epoch,
    all make the same number of steps, and together they see in each step what one rank with ``ranks``
    times the batch size would. What is left at the end, less than one step, is dropped; another epoch's
    order leaves out other images (LSGD supplement, Section 9.2).

    The order depends on (seed, epoch), crops and flips on (seed, epoch, rank), nothing on torch's global
    generator: the same seed and number of ranks give the same batches, bit for bit.

    torch's DistributedSampler would do the sharing, but it seeds with seed + epoch, so that one run's
    epochs are another's shifted by one, and it keeps the order as a list of Python integers.

    ``images`` are moved to ``device`` once and batches are made there. Raises DataError when there are
    fewer images than one step needs.
    """

    _order = _Stream.ORDER
    _augmentation = _Stream.AUGMENTATION

    def __init__(
        self,
        images: Images,
        processing: Processing,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        ranks: int,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_share(batch_size, rank, ranks)
        if seed < 0:
            raise UsageError(f"the seed is 0 or more, not {seed}")
        if len(images) < batch_size * ranks:
            raise DataError(
                f"{len(images)} training images are fewer than one batch of {batch_size} for each of {ranks} "
                f"ranks ({batch_size * ranks}): choose a smaller batch size, fewer ranks or more data"
            )
        self._images = images.to(device)
        self._processing = processing
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._ranks = ranks

    def __len__(self) -> int:
        """Steps an epoch, equal on all ranks."""
        return len(self._images) // (self._batch_size * self._ranks)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of ``epoch`` (0, 1, ...) from step ``start`` on, which costs no more than from 0.

        Each is (data, target): float32 (batch_size, c, h, w), int64 (batch_size,), on the device, new
        tensors each time.
        """
        if epoch < 0 or not 0 <= start <= len(self):
            raise ValueError(f"epoch {epoch}, step {start}: of epochs from 0 and steps from 0 to {len(self)}")
        return self._batches(epoch, start)

    def indices(self, epoch: int) -> torch.Tensor:
        """The rank's images in ``epoch``: int64 (steps, batch_size), places in the data set, on the CPU."""
        generator = _generator(self._seed, self._order, epoch)
        order = torch.randperm(len(self._images), generator=generator)
        steps = order[: len(self) * self._ranks * self._batch_size]
        return steps.view(len(self), self._ranks, self._batch_size)[:, self._rank]

    def _batches(self, epoch: int, start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images, labels = self._images.images, self._images.labels
        # A whole epoch's chance at once: few large draws, and a start at any step.
        indices = self.indices(epoch).to(images.device)
        generator = _generator(self._seed, self._augmentation, epoch, self._rank)
        size = (self._images.height, self._images.width)
        draws = self._processing.draw(indices.numel(), *size, generator).to(images.device)
        for step in range(start, len(self)):
            chosen = indices[step]
            batch = slice(step * self._batch_size, (step + 1) * self._batch_size)
            data = self._processing.train(images.index_select(0, chosen), draws[batch])
            yield data, labels.index_select(0, chosen)


class _RecalibrationLoader(BatchLoader):
    _order = _Stream.RECALIBRATION_ORDER
    _augmentation = _Stream.RECALIBRATION_AUGMENTATION


def recalibration_batches(
    images: Images,
    processing: Processing,
    *,
    batch_size: int,
    rank: int,
    ranks: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> BatchLoader:
    """Training batches for re-estimating batch-norm statistics, as a ``BatchLoader``.

    Their order, crops and flips are fixed and come from other sources of chance than training's, whatever
    its seed, so that evaluating never changes what training sees.
    """
    return _RecalibrationLoader(
        images, processing, batch_size=batch_size, seed=seed, rank=rank, ranks=ranks, device=device
    )


def test_batches(
    images: Images,
    processing: Processing,
    *,
    batch_size: int,
    rank: int,
    ranks: int,
    device: torch.device | str = "cpu",  # noqa: PT028
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The rank's contiguous share of the test set, in order, with test processing.

    Shares differ by at most one image, and a rank may have none when there are more ranks than images.
    Batches are (data, target) as in training, the last one as small as it comes.
    """
    _check_share(batch_size, rank, ranks)
    first, end = (len(images) * r // ranks for r in (rank, rank + 1))
    return _in_order(images, processing, range(first, end, batch_size), end, torch.device(device))


test_batches.__test__ = False  # type: ignore[attr-defined]  # pytest takes the name for a test


def _in_order(
    images: Images, processing: Processing, starts: range, end: int, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in starts:
        batch = slice(start, min(start + starts.step, end))
        yield processing.test(images.images[batch].to(device)), images.labels[batch].to(device)


def _generator(*key: int) -> torch.Generator:
    # SeedSequence mixes the key: neighbouring seeds, epochs and ranks share nothing.
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def _check_share(batch_size: int, rank: int, ranks: int) -> None:
    if batch_size < 1:
        raise UsageError(f"a batch has 1 or more images, not {batch_size}")
    if not 0 <= rank < ranks:
        raise ValueError(f"rank {rank} is not one of {ranks} ranks")
