"""LARS against its equations written in NumPy, and where they say nothing: zeros, biases, no gradient."""

import copy
import math

import numpy as np
import pytest
import torch

from lsgd_mpi import LARS
from lsgd_mpi.errors import UsageError

SETTINGS = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.05, "trust": 0.02}


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def parameter_of(tensor):
    return torch.nn.Parameter(tensor.clone())


def one_step(weight, gradient, **settings):
    parameter = parameter_of(weight)
    parameter.grad = gradient.clone()
    LARS([parameter], **{**SETTINGS, **settings}).step()
    return parameter.detach()


def norm(array):
    return math.sqrt((array**2).sum())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_steps_are_those_of_a_plain_loop_with_a_changing_rate(momentum, weight_decay):
    shapes = [(3, 4), (2, 3, 2, 2), (4,)]
    parameters = [parameter_of(each) for each in tensors(*shapes)]
    optimizer = LARS(parameters, **{**SETTINGS, "momentum": momentum, "weight_decay": weight_decay})
    weights = [each.detach().numpy().copy() for each in parameters]
    velocities = [np.zeros(shape) for shape in shapes]
    for step in range(8):
        rate = 0.3 / (step + 1)
        optimizer.param_groups[0]["lr"] = rate
        gradients = tensors(*shapes, seed=step + 1)
        for place, gradient in enumerate(gradients):
            parameters[place].grad = gradient
            w, g = weights[place], gradient.numpy()
            ratio, decay = 1.0, 0.0
            if w.ndim > 1:
                ratio, decay = 0.02 * norm(w) / (norm(g) + weight_decay * norm(w)), weight_decay
            velocities[place] = momentum * velocities[place] + rate * ratio * (g + decay * w)
            weights[place] = w - velocities[place]
        optimizer.step()
        for parameter, weight in zip(parameters, weights, strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-13, atol=1e-15)


def test_without_decay_a_first_step_has_the_length_that_trust_says():
    weight, gradient = tensors((5, 4), (5, 4))
    for scale in (1e-6, 1.0, 1e6):
        moved = one_step(weight, scale * gradient, weight_decay=0.0) - weight
        assert moved.norm().item() == pytest.approx(0.3 * 0.02 * weight.norm().item(), rel=1e-12)


def test_a_zero_gradient_decays_the_weight_at_the_plain_rate():
    (weight,) = tensors((5, 4))
    moved = one_step(weight, torch.zeros_like(weight))
    torch.testing.assert_close(moved, weight * (1 - 0.3 * 0.05), rtol=1e-14, atol=0)


def test_a_zero_weight_moves_by_the_plain_gradient():
    (gradient,) = tensors((5, 4))
    torch.testing.assert_close(
        one_step(torch.zeros_like(gradient), gradient), -0.3 * gradient, rtol=1e-14, atol=0
    )


def test_zero_weights_with_zero_gradients_stay():
    zeros = torch.zeros(5, 4, dtype=torch.float64)
    assert torch.equal(one_step(zeros, zeros), zeros)


@pytest.mark.parametrize("shape", [(7,), ()])
def test_biases_have_neither_scale_nor_decay(shape):
    weight, gradient = tensors(shape, shape)
    torch.testing.assert_close(
        one_step(weight, gradient, weight_decay=10.0), weight - 0.3 * gradient, rtol=1e-14, atol=0
    )


def test_a_parameter_without_a_gradient_is_left_alone():
    parameter = parameter_of(torch.ones(2, 2))
    optimizer = LARS([parameter], **SETTINGS)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(2, 2))
    assert not optimizer.state


def test_a_closure_is_called_once_with_gradients_on_and_its_loss_returned():
    weight, twin = (parameter_of(*tensors((3, 2))) for _ in range(2))
    optimizer, calls = LARS([weight], **SETTINGS), []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    before = weight.detach().square().sum()
    assert optimizer.step(closure).item() == before.item()
    assert calls == [True]
    twin.grad = 2 * twin.detach()
    LARS([twin], **SETTINGS).step()
    assert torch.equal(weight, twin)
    assert optimizer.step() is None


def test_groups_have_settings_of_their_own():
    first, second = (parameter_of(each) for each in tensors((3, 2), (3, 2)))
    start = [each.detach().clone() for each in (first, second)]
    gradients = tensors((3, 2), (3, 2), seed=4)
    first.grad, second.grad = gradients
    LARS([{"params": [first], "lr": 0.1, "trust": 0.5}, {"params": [second]}], **SETTINGS).step()
    assert torch.equal(first, one_step(start[0], gradients[0], lr=0.1, trust=0.5))
    assert torch.equal(second, one_step(start[1], gradients[1]))


def test_a_saved_state_continues_bit_for_bit():
    whole = parameter_of(*tensors((3, 2)))
    optimizer = LARS([whole], **SETTINGS)

    def run(parameter, stepper, first, last):
        for step in range(first, last):
            (parameter.grad,) = tensors((3, 2), seed=step)
            stepper.step()

    run(whole, optimizer, 1, 4)
    saved, again = copy.deepcopy(optimizer.state_dict()), parameter_of(whole.detach())
    run(whole, optimizer, 4, 8)
    second = LARS([again], lr=1.0)
    second.load_state_dict(saved)
    run(again, second, 4, 8)
    assert torch.equal(again, whole)


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay", "trust"])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_negative_settings_are_refused(name, value):
    with pytest.raises(UsageError, match=f"LARS: {name} {value}"):
        LARS([parameter_of(torch.ones(2, 2))], **{name: value})
