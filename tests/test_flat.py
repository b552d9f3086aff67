"""A model's tensors as views of one flat tensor."""

import pytest
import torch
from torch import nn

from lsgd_mpi.errors import UsageError
from lsgd_mpi.flat import FlatTensors, trainable_parameters


def parameter(*shape, dtype=torch.float32):
    count = torch.Size(shape).numel()
    return nn.Parameter(torch.arange(1, count + 1, dtype=dtype).reshape(shape))


def flatten(**named):
    return FlatTensors(list(named.items()))


def tied_model():
    first, last = nn.Linear(3, 5), nn.Linear(3, 5)
    last.weight = first.weight
    return nn.ModuleDict({"first": first, "last": last})


def test_tensors_keep_identity_values_and_shape():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    before = [(id(each), each.detach().clone()) for each in model.parameters()]
    FlatTensors(trainable_parameters(model))
    after = list(model.parameters())
    assert [id(each) for each in after] == [identity for identity, _ in before]
    for each, (_, value) in zip(after, before, strict=True):
        assert torch.equal(each, value)
        assert each.requires_grad


def test_the_tensors_are_the_flat_tensor():
    a, b = parameter(3), parameter(2, 2)
    flat = flatten(a=a, b=b)
    flat.flat.mul_(10)
    assert a.tolist() == [10, 20, 30]
    assert b.tolist() == [[10, 20], [30, 40]]
    with torch.no_grad():
        b[1, 1] = -7
    assert -7 in flat.flat.tolist()


def test_an_optimizer_made_before_still_steps_and_keeps_its_momentum():
    model, twin = nn.Linear(3, 2), nn.Linear(3, 2)
    twin.load_state_dict(model.state_dict())
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9) for each in (model, twin)]
    flat = None
    for step in range(4):
        if step == 2:
            flat = FlatTensors(trainable_parameters(model))
        for each, optimizer in zip((model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            each(torch.full((1, 3), step + 1.0)).square().sum().backward()
            optimizer.step()
    assert flat is not None
    for each, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(each, other)
    flat.check()
    assert torch.equal(flat.views(flat.flat)[0], twin.weight)


def test_gradients_reach_the_tensors_and_not_the_flat_one():
    a = parameter(3)
    flat = flatten(a=a)
    (2 * a).sum().backward()
    assert a.grad is not None
    assert a.grad.tolist() == [2, 2, 2]
    assert not flat.flat.requires_grad


def test_tied_weights_lie_there_once():
    model = tied_model()
    named = trainable_parameters(model)
    assert [name for name, _ in named] == ["first.weight", "first.bias", "last.bias"]
    flat = FlatTensors(named)
    flat.flat.fill_(3.0)
    assert model["last"].weight is model["first"].weight
    assert torch.equal(model["last"].weight, torch.full((5, 3), 3.0))


def test_frozen_parameters_are_not_exchanged():
    model = nn.Linear(3, 5)
    model.bias.requires_grad_(False)
    before = model.bias.data_ptr()
    named = trainable_parameters(model)
    FlatTensors(named)
    assert [name for name, _ in named] == ["weight"]
    assert model.bias.data_ptr() == before


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=lambda dtype: str(dtype)
)
def test_each_tensor_starts_at_a_multiple_of_16_bytes_and_gaps_hold_zeros(dtype):
    tensors = [parameter(count, dtype=dtype) for count in (1, 3, 7, 8, 9, 5)]
    flat = flatten(**{f"t{index}": each for index, each in enumerate(tensors)})
    for each in tensors:
        assert (each.data_ptr() - flat.flat.data_ptr()) % 16 == 0
    assert flat.nbytes % 16 == 0
    assert flat.nbytes == flat.flat.numel() * flat.flat.element_size()
    assert flat.flat.dtype == dtype
    # Every byte is a value of a tensor or a zero of a gap: the sums agree.
    assert flat.flat.double().sum() == sum(each.double().sum() for each in tensors)
    values = sum(each.numel() for each in tensors)
    assert (flat.flat == 0).sum() == flat.flat.numel() - values


def test_no_two_tensors_overlap():
    tensors = [parameter(count) for count in (3, 4, 5, 1)]
    flat = flatten(**{f"t{index}": each for index, each in enumerate(tensors)})
    for index, each in enumerate(tensors):
        each.data.fill_(index + 1.0)
    assert [int(each.unique()) for each in tensors] == [1, 2, 3, 4]
    flat.check()


def test_transposed_tensors_keep_their_dense_strides():
    a = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
    value = a.detach().clone()
    flatten(a=a)
    assert torch.equal(a, value)
    assert a.shape == (3, 2)
    assert a.stride() == (1, 3)


def test_channels_last_weights_stay_channels_last():
    weight = nn.Parameter(torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last))
    value, strides = weight.detach().clone(), weight.stride()
    flat = flatten(weight=weight, bias=parameter(4))
    assert torch.equal(weight, value)
    assert weight.stride() == strides
    assert weight.is_contiguous(memory_format=torch.channels_last)
    flat.check()


def test_expanded_tensors_get_memory_of_their_own():
    a = nn.Parameter(torch.tensor([[1.0], [2.0]]).expand(2, 3))
    b = parameter(2)
    flatten(a=a, b=b)
    with torch.no_grad():
        a[0, 1] = 9
    assert a.tolist() == [[1, 9, 1], [2, 2, 2]]
    assert b.tolist() == [1, 2]


def test_every_second_element_of_a_tensor_becomes_dense():
    whole = torch.arange(10.0)
    a = nn.Parameter(whole[::2])
    flat = flatten(a=a)
    assert a.tolist() == [0, 2, 4, 6, 8]
    assert a.is_contiguous()
    flat.flat.fill_(-1)
    assert whole.tolist() == list(range(10))


def test_scalars_and_empty_tensors_are_tensors():
    scalar, empty, last = nn.Parameter(torch.tensor(3.0)), parameter(0, 4), parameter(2)
    flat = flatten(scalar=scalar, empty=empty, last=last)
    flat.check()
    assert scalar.item() == 3.0
    assert scalar.shape == ()
    assert empty.shape == (0, 4)
    flat.flat.mul_(2)
    assert scalar.item() == 6.0
    assert last.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({}, ["no trainable parameters"]),
        ({"a": parameter(2), "b": parameter(2, dtype=torch.float64)}, ["'b' is torch.float64", "'a' is"]),
        ({"count": torch.zeros(2, dtype=torch.int64)}, ["'count' is torch.int64"]),
        ({"mask": torch.zeros(2, dtype=torch.bool)}, ["'mask' is torch.bool"]),
        ({"wave": torch.zeros(2, dtype=torch.complex64)}, ["'wave' is torch.complex64"]),
        ({"sparse": torch.eye(2).to_sparse()}, ["'sparse' has layout"]),
        ({"a": parameter(2), "b": torch.zeros(2, device="meta")}, ["'b' is on meta", "'a' is on cpu"]),
    ],
    ids=["nothing", "two dtypes", "integers", "booleans", "complex", "sparse", "two devices"],
)
def test_tensors_that_cannot_be_exchanged_are_refused_by_name(named, words):
    with pytest.raises(UsageError) as refused:
        flatten(**named)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    "slices",
    [(slice(0, 4), slice(0, 4)), (slice(0, 4), slice(3, 6)), (slice(0, 6), slice(2, 3))],
    ids=["the same memory", "partly", "one inside the other"],
)
def test_two_parameters_that_share_memory_are_refused(slices):
    memory = torch.zeros(6)
    a, b = (nn.Parameter(memory[each]) for each in slices)
    with pytest.raises(UsageError, match=r"'(a' and 'b|b' and 'a)' share memory"):
        flatten(a=a, b=b)


def test_neighbours_in_one_storage_do_not_share_memory():
    memory = torch.arange(6.0)
    a, b = nn.Parameter(memory[:3]), nn.Parameter(memory[3:])
    flatten(a=a, b=b)
    assert a.tolist() == [0, 1, 2]
    assert b.tolist() == [3, 4, 5]


def test_a_refusal_leaves_the_tensors_as_they_were():
    a, b = parameter(2), parameter(2, dtype=torch.float64)
    before = a.data_ptr()
    with pytest.raises(UsageError):
        flatten(a=a, b=b)
    assert a.data_ptr() == before


def move_by_double(model):
    model.double()


def move_one_by_data(model):
    model.bias.data = torch.zeros(2)


@pytest.mark.parametrize("move", [move_by_double, move_one_by_data])
def test_a_model_that_was_moved_after_wrapping_is_noticed(move):
    model = nn.Linear(3, 2)
    flat = FlatTensors(trainable_parameters(model))
    flat.check()
    move(model)
    with pytest.raises(UsageError, match="was given other memory"):
        flat.check()


def test_parameters_that_the_model_replaced_are_noticed_by_one_that_knows_the_model():
    model = tied_model()
    flat = FlatTensors(trainable_parameters(model), model)
    flat.check()
    model.load_state_dict({name: each.clone() for name, each in model.state_dict().items()}, assign=True)
    with pytest.raises(UsageError, match=r"'first.weight' was given other memory"):
        flat.check()


def test_loading_values_in_place_is_allowed():
    model = nn.Linear(3, 2)
    flat = FlatTensors(trainable_parameters(model), model)
    model.load_state_dict({name: torch.ones_like(each) for name, each in model.state_dict().items()})
    flat.check()
    assert flat.flat.sum() == 8


def test_showing_swaps_values_in_and_restores_the_own_bits():
    a, b = parameter(3), parameter(2, 2)
    flat = flatten(a=a, b=b)
    own, address = flat.flat.clone(), a.data_ptr()
    other = torch.full_like(flat.flat, 8.0)
    with flat.showing(other):
        assert a.data_ptr() == other.data_ptr()
        assert a.tolist() == [8, 8, 8]
        assert b.tolist() == [[8, 8], [8, 8]]
        flat.check()
    assert a.data_ptr() == address
    assert torch.equal(flat.flat, own)
    assert a.tolist() == [1, 2, 3]
    flat.check()


def test_showing_restores_after_an_exception():
    a = parameter(3)
    flat = flatten(a=a)
    with pytest.raises(ZeroDivisionError), flat.showing(torch.zeros_like(flat.flat)):
        _ = 1 / 0
    assert a.tolist() == [1, 2, 3]
    flat.check()


def test_what_is_written_while_showing_is_written_there():
    a = parameter(3)
    flat = flatten(a=a)
    other = torch.zeros_like(flat.flat)
    with flat.showing(other), torch.no_grad():
        a.fill_(5.0)
    assert a.tolist() == [1, 2, 3]
    assert other[:3].tolist() == [5, 5, 5]


def test_a_moved_model_cannot_be_shown():
    model = nn.Linear(3, 2)
    flat = FlatTensors(trainable_parameters(model))
    move_by_double(model)
    with pytest.raises(UsageError), flat.showing(torch.zeros_like(flat.flat)):
        pass


def test_views_of_another_flat_tensor_have_the_same_shapes_and_strides():
    a, b = parameter(3), nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
    flat = flatten(a=a, b=b)
    big = torch.zeros(2 * flat.flat.numel())
    views = flat.views(big[flat.flat.numel() :])
    assert [view.shape for view in views] == [a.shape, b.shape]
    assert [view.stride() for view in views] == [a.stride(), b.stride()]
    for view in views:
        view.fill_(1)
    assert big[: flat.flat.numel()].sum() == 0
    assert big.sum() == 9


def test_a_flat_tensor_can_be_made_of_the_views_of_another():
    # A second optimizer around the same model, one after the other.
    model = nn.Linear(3, 2)
    first = FlatTensors(trainable_parameters(model))
    value = model.weight.detach().clone()
    second = FlatTensors(trainable_parameters(model))
    first.flat.fill_(0)
    second.check()
    assert torch.equal(model.weight, value)
    with pytest.raises(UsageError):
        first.check()


def test_a_parameter_that_becomes_trainable_later_is_noticed():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    flat = FlatTensors(trainable_parameters(model), model)
    flat.check()
    model[0].bias.requires_grad_(True)
    with pytest.raises(UsageError, match=r"'0.bias' became trainable after DistributedOptimizer was made"):
        flat.check()
