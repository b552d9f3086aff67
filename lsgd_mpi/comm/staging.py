"""Tensors of GPUs that Horovod cannot send from there: by way of pinned host memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch


def why_staged(gpus: Sequence[tuple[str, str] | None], has_nccl: bool) -> str | None:
    """Why tensors go through host memory, or None; of each rank its (host, GPU), or None on a CPU."""
    used = [gpu for gpu in gpus if gpu is not None]
    if not used:
        return None
    if not has_nccl:
        return "Horovod was built without NCCL (build it again with bin/setup --nccl yes)"
    if len(set(used)) < len(used):
        return "ranks share a GPU, and NCCL takes one rank a GPU (start fewer ranks on each host)"
    if len(used) < len(gpus):
        return "some ranks train on CPUs (see --device)"
    return None


def gpu_of(device: torch.device) -> str:
    """A name of a GPU that no other has, whatever numbers processes give to the ones that they see."""
    return str(torch.cuda.get_device_properties(device).uuid)


class Staging:
    """Lends a tensor's bytes to a collective: the tensor itself, or a copy in host memory.

    Keeps one pinned buffer of the largest tensor's size, once it was needed.
    """

    def __init__(self) -> None:
        #: Why tensors of a GPU take the way through host memory, or None.
        self.reason: str | None = None
        self._pinned = torch.empty(0, dtype=torch.uint8)

    @contextmanager
    def lent(
        self, tensor: torch.Tensor, *, sends: bool = True, receives: bool = True
    ) -> Iterator[torch.Tensor]:
        """What a collective is to work on; afterwards ``tensor`` has what that holds then.

        ``sends`` and ``receives`` say whether this rank's values are used, and overwritten.
        """
        if self.reason is None or tensor.device.type == "cpu":
            yield tensor
            return
        host = self._like(tensor)
        if sends:
            # Waits for the GPU, as the collective would.
            host.copy_(tensor)
        yield host
        if receives:
            tensor.copy_(host)

    def _like(self, tensor: torch.Tensor) -> torch.Tensor:
        nbytes = tensor.numel() * tensor.element_size()
        if self._pinned.numel() < nbytes:
            self._pinned = torch.empty(nbytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        return self._pinned[:nbytes].view(tensor.dtype).view(tensor.shape)
