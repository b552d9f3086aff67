"""Layer-wise adaptive rate scaling, an optimizer for large batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lsgd_mpi.errors import UsageError


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step for each tensor is scaled by the tensor's own norm.

    You, Gitman and Ginsburg, "Large batch training of convolutional networks" (2017), Algorithm 1, for each
    parameter tensor w with gradient g: ``λ = trust · ‖w‖ / (‖g‖ + β ‖w‖)``, ``v ← δ v + η λ (g + β w)``,
    ``w ← w − v``, with weight decay β (``weight_decay``) and momentum δ. Tensors of one dimension (biases,
    batch-norm weights), and any whose weight or gradient is zero, have λ = 1; the former no weight decay.

    Unlike torch's SGD the velocity holds the learning rate, as the paper has it.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.001,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        for name, value in (
            ("lr", lr),
            ("momentum", momentum),
            ("weight_decay", weight_decay),
            ("trust", trust),
        ):
            if not value >= 0.0:
                raise UsageError(f"LARS: {name} {value}: at least 0")
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One iteration over all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        gradient, decay = parameter.grad, group["weight_decay"]
        assert gradient is not None
        scaled = gradient.clone()
        if parameter.dim() > 1:
            weight_norm, gradient_norm = parameter.norm(), gradient.norm()
            scaled.add_(parameter, alpha=decay)
            ratio = group["trust"] * weight_norm / (gradient_norm + decay * weight_norm)
            # On the device: reading a norm would wait for it.
            scaled.mul_(torch.where((weight_norm > 0) & (gradient_norm > 0), ratio, torch.ones_like(ratio)))
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(scaled, alpha=group["lr"])
        parameter.sub_(velocity)
