"""How tensors of GPUs are sent: the decision, which needs no GPU, and the way through host memory."""

import pytest
import torch

from lsgd_mpi.comm.staging import Staging, gpu_of, why_staged

A, B = ("node1", "GPU-a"), ("node1", "GPU-b")


@pytest.mark.parametrize(
    ("gpus", "has_nccl", "why"),
    [
        ([None, None], False, None),
        ([None, None], True, None),
        ([A, B], True, None),
        # The same number on another node is another GPU.
        ([A, ("node2", "GPU-a")], True, None),
        ([A, B], False, "without NCCL"),
        ([A, B, A], True, "ranks share a GPU"),
        ([A, None], True, "some ranks train on CPUs"),
    ],
)
def test_host_memory_is_the_way_where_nccl_cannot_be(gpus, has_nccl, why):
    reason = why_staged(gpus, has_nccl)
    assert reason is None if why is None else why in reason


def test_a_tensor_of_the_cpu_is_lent_itself():
    staging = Staging()
    staging.reason = "no NCCL"
    tensor = torch.arange(6.0)
    with staging.lent(tensor) as lent:
        assert lent is tensor


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
class TestOnAGPU:
    def test_a_tensor_is_lent_as_a_pinned_copy_and_gets_what_came(self):
        staging = Staging()
        tensor = torch.arange(6.0, device="cuda").view(2, 3)
        with staging.lent(tensor) as lent:
            assert lent is tensor
        staging.reason = "no NCCL"
        with staging.lent(tensor) as lent:
            assert lent.is_pinned()
            assert torch.equal(lent, tensor.cpu())
            lent.add_(1)
        assert torch.equal(tensor.cpu(), torch.arange(6.0).view(2, 3) + 1)
        with staging.lent(tensor, receives=False) as lent:
            lent.zero_()
        assert tensor.cpu().sum() != 0

    def test_gpus_have_names_of_their_own(self):
        names = {gpu_of(torch.device("cuda", index)) for index in range(torch.cuda.device_count())}
        assert len(names) == torch.cuda.device_count()
