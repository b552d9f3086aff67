"""A model's tensors as views into one contiguous tensor, so that a pull moves each byte once.

The leader broadcasts the flat tensor itself; the others receive into one spare tensor and interpolate in
place. Nothing is packed or unpacked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch

from lsgd_mpi.errors import UsageError

Named = Sequence[tuple[str, torch.Tensor]]

#: Each tensor starts at a multiple of this many bytes, as vectorised kernels want it; the gaps hold zeros.
_ALIGNMENT_BYTES = 16

#: MPI counts in 32 bits.
_MOST_ELEMENTS = 2**31 - 1


class FlatTensors:
    """Tensors of one dtype on one device, re-pointed to views of ``flat``, shape ``(length,)``.

    The tensors keep their identity, values, shapes and (when dense) strides; an optimizer that holds them
    need not know. Making one moves the values and frees the old storage. Views of another flat tensor of
    the same length can be swapped in for a while (`showing`).

    With ``model``, whose parameters the tensors are by these names, `check` also notices a parameter that the
    model has replaced by another.

    Raises `UsageError` for mixed dtypes or devices, and for tensors that share memory without being the
    same tensor.
    """

    def __init__(self, named: Named, model: torch.nn.Module | None = None) -> None:
        self.named = tuple(named)
        self._model = model
        dtype, device = _common_kind(self.named)
        _refuse_overlap(self.named)
        step = max(1, _ALIGNMENT_BYTES // torch.empty((), dtype=dtype).element_size())
        self._offsets, length = [], 0
        for _, tensor in self.named:
            self._offsets.append(length)
            length += -(-tensor.numel() // step) * step
        if length > _MOST_ELEMENTS:
            raise UsageError(f"{length:,} parameters: at most {_MOST_ELEMENTS:,} can be exchanged")
        self._strides = [_dense_strides(tensor) for _, tensor in self.named]
        self.flat = torch.zeros(length, dtype=dtype, device=device)
        for (_, tensor), view in zip(self.named, self.views(self.flat), strict=True):
            view.copy_(tensor.detach())
        self._point_to(self.flat)
        self._shown = self.flat

    @property
    def nbytes(self) -> int:
        """Size of the flat tensor in bytes."""
        return self.flat.numel() * self.flat.element_size()

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The tensors as they lie in ``flat``, which has the shape and dtype of ``self.flat``."""
        return [
            flat.as_strided(tensor.shape, strides, flat.storage_offset() + offset)
            for (_, tensor), strides, offset in zip(self.named, self._strides, self._offsets, strict=True)
        ]

    def check(self) -> None:
        """Raise `UsageError` if a tensor no longer lies in the flat tensor that it should show.

        That happens when a model is moved, cast, or loaded with ``assign=True`` after it was wrapped;
        what training changes would then never be sent.
        """
        start, size = self._shown.data_ptr(), self._shown.element_size()
        current = dict(self.named if self._model is None else self._model.named_parameters())
        for (name, tensor), offset in zip(self.named, self._offsets, strict=True):
            moved = tensor.data_ptr() != start + offset * size and tensor.numel()
            if moved or current.get(name) is not tensor:
                raise UsageError(
                    f"'{name}' was given other memory after DistributedOptimizer was made; move, cast or "
                    "load the model (model.to, load_state_dict(assign=True)) before that"
                )
        known = dict(self.named)
        for name, tensor in current.items():
            if name not in known and tensor.requires_grad:
                raise UsageError(
                    f"'{name}' became trainable after DistributedOptimizer was made, so it would never be "
                    "exchanged: make another DistributedOptimizer"
                )

    def check_own(self) -> None:
        """Raise `UsageError` if the tensors show another flat tensor's values now."""
        if self._shown is not self.flat:
            raise UsageError(
                "inside evaluated_parameters() the model holds what is evaluated: train outside it"
            )

    @contextmanager
    def showing(self, flat: torch.Tensor) -> Iterator[None]:
        """Let the tensors show the values of ``flat`` inside the context, and their own again after it."""
        self.check_own()
        self.check()
        self._point_to(flat)
        self._shown = flat
        try:
            yield
        finally:
            self._point_to(self.flat)
            self._shown = self.flat

    def _point_to(self, flat: torch.Tensor) -> None:
        for (_, tensor), view in zip(self.named, self.views(flat), strict=True):
            tensor.data = view


def trainable_parameters(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The parameters that methods exchange: trainable, tied ones once, in the model's order."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _dense_strides(tensor: torch.Tensor) -> tuple[int, ...]:
    # empty_like keeps the strides of a dense tensor (channels-last weights, say) and makes others dense.
    return torch.empty_like(tensor, device="meta", memory_format=torch.preserve_format).stride()


def _common_kind(named: Named) -> tuple[torch.dtype, torch.device]:
    if not named:
        raise UsageError("the model has no trainable parameters: nothing to train or exchange")
    first_name, first = named[0]
    for name, tensor in named:
        if tensor.layout != torch.strided:
            raise UsageError(f"'{name}' has layout {tensor.layout}; only dense tensors can be exchanged")
        if not tensor.is_floating_point():
            raise UsageError(f"'{name}' is {tensor.dtype}; only real floating-point tensors can be exchanged")
        if tensor.dtype != first.dtype:
            raise UsageError(
                f"'{name}' is {tensor.dtype} but '{first_name}' is {first.dtype}; cast the model to one dtype"
            )
        if tensor.device != first.device:
            raise UsageError(
                f"'{name}' is on {tensor.device} but '{first_name}' is on {first.device}; "
                "a rank's model lives on one device"
            )
    return first.dtype, first.device


def _refuse_overlap(named: Named) -> None:
    spans = sorted(
        (tensor.data_ptr(), tensor.data_ptr() + _extent_bytes(tensor), name)
        for name, tensor in named
        if tensor.numel()
    )
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise UsageError(
                f"'{name}' and '{other}' share memory but are two parameters; tie weights by assigning one "
                "parameter to both modules"
            )


def _extent_bytes(tensor: torch.Tensor) -> int:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()
