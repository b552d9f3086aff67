"""Loss and error of a model over a test set that the ranks share, and batch-norm statistics for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from lsgd_mpi.comm import Communicator

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy loss an image, and share of wrong answers in percent, over all ranks' images."""

    loss: float
    error_pct: float
    images: int


@torch.no_grad()
def evaluate(model: torch.nn.Module, batches: Batches, communicator: Communicator) -> Evaluation:
    """Test ``model`` on this rank's ``batches`` (data, target); sums over all ranks. Collective.

    The model is in evaluation mode meanwhile, and each of its modules in its own mode again after it.
    """
    modes = _modes(model)
    model.eval()
    loss = wrong = None
    images = 0
    for data, target in batches:
        output = model(data)
        # Sums stay on the device: reading one would wait for it.
        batch_loss = torch.nn.functional.cross_entropy(output, target, reduction="sum").double()
        batch_wrong = (output.argmax(dim=1) != target).sum()
        loss = batch_loss if loss is None else loss + batch_loss
        wrong = batch_wrong if wrong is None else wrong + batch_wrong
        images += len(target)
    _restore_modes(modes)
    mine = [0.0 if loss is None else float(loss), 0.0 if wrong is None else float(wrong), float(images)]
    total_loss, total_wrong, total_images = communicator.sum(mine)
    return Evaluation(total_loss / total_images, 100.0 * total_wrong / total_images, int(total_images))


@contextmanager
def recalibrated(model: torch.nn.Module, batches: Batches, communicator: Communicator) -> Iterator[None]:
    """Inside the context batch-norm statistics are estimated anew, for the parameters the model shows now.

    An average of parameters has no statistics of its own, so a pass over training ``batches`` (the same
    number on every rank) gives them: the mean over the batches of all ranks (LSGD supplement, Section
    9.2). After it the model's own statistics are back, bit for bit. Collective at its start; for models
    without batch normalisation it does nothing.
    """
    norms = [each for each in model.modules() if isinstance(each, _BatchNorm) and each.track_running_stats]
    if not norms:
        yield
        return
    saved = [(norm, norm.momentum, [buffer.clone() for buffer in norm.buffers()]) for norm in norms]
    modes = _modes(model)
    try:
        _estimate(model, norms, batches, communicator)
        yield
    finally:
        for norm, momentum, buffers in saved:
            norm.momentum = momentum
            for buffer, before in zip(norm.buffers(), buffers, strict=True):
                buffer.copy_(before)
        _restore_modes(modes)


@torch.no_grad()
def _estimate(
    model: torch.nn.Module, norms: list[_BatchNorm], batches: Batches, communicator: Communicator
) -> None:
    # Only the norms are in training mode: dropout would draw from the generator that training uses.
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    for data, _ in batches:
        model(data)
    statistics = [buffer for norm in norms for buffer in norm.buffers() if buffer.is_floating_point()]
    together = torch.cat([each.reshape(-1) for each in statistics])
    communicator.average(together, "global")
    start = 0
    for each in statistics:
        each.copy_(together[start : start + each.numel()].reshape(each.shape))
        start += each.numel()
    for norm in norms:
        norm.eval()


def _modes(model: torch.nn.Module) -> list[tuple[torch.nn.Module, bool]]:
    return [(each, each.training) for each in model.modules()]


def _restore_modes(modes: list[tuple[torch.nn.Module, bool]]) -> None:
    # Not model.train(): a layer that the user froze stays frozen.
    for module, training in modes:
        module.training = training
