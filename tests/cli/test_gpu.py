"""Training on a GPU: one rank, and several that share it."""

import os

import pytest
import torch
from launching import run_ranks
from runs import LSGD_MPI, SMALL, column, rows

pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"), pytest.mark.timeout(300)]

#: One of those that this process may use.
GPU = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}
TRAIN = ("train", *SMALL, "--epochs", 2)


def train(run, ranks, *words):
    done = run_ranks(ranks, [*LSGD_MPI, *TRAIN, *words, "--run-dir", run], timeout_s=200, environment=GPU)
    assert (done.returncode, done.left_behind) == (0, []), done.printed
    return column(rows(run / "metrics.csv"), "test_loss"), done


@pytest.mark.parametrize("ranks", [1, 4])
def test_ranks_learn_on_one_gpu_what_they_learn_on_the_cpu(tmp_path, ranks):
    often = ("--local-period", 4)
    on_gpu, done = train(tmp_path / "gpu", ranks, *often, "--device", "cuda")
    on_cpu, _ = train(tmp_path / "cpu", ranks, *often, "--device", "cpu")
    # Sums are in another order there.
    assert on_gpu == pytest.approx(on_cpu, rel=0.05)
    # Whatever Horovod was built with, ranks that share a GPU go through host memory, and are told why.
    assert ("through host memory" in done.printed) == (ranks > 1)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        (2, ("--algorithm", "pr-sgd")),
        (2, ("--algorithm", "easgd", "--clock", "own")),
        (2, ("--algorithm", "eamsgd", "--clock", "own", "--exchange", "overlapped")),
        (
            3,
            (
                "--algorithm",
                "easgd-tree",
            ),
        ),
        (2, ("--algorithm", "lsgd", "--clock", "shared")),
    ],
)
def test_methods_with_other_collectives_train_on_a_shared_gpu(tmp_path, ranks, words):
    train(tmp_path / "run", ranks, "--device", "cuda", *words)


def test_gradients_are_not_averaged_over_a_shared_gpu(tmp_path):
    words = [*TRAIN, "--algorithm", "allreduce", "--device", "cuda", "--run-dir", tmp_path / "run"]
    done = run_ranks(2, [*LSGD_MPI, *words], timeout_s=100, environment=GPU)
    assert done.returncode == 3, done.printed
    assert "gradients cannot be averaged over these GPUs" in done.printed


def test_doctor_tells_the_devices_and_the_way_between_them():
    done = run_ranks(2, [*LSGD_MPI, "doctor"], timeout_s=100, environment=GPU)
    assert done.returncode == 0, done.printed
    assert "rank 0 cuda:0, rank 1 cuda:0" in done.stdout
    assert "through host memory: " in done.stdout


def test_nothing_waits_for_the_gpu_between_rounds(tmp_path):
    program = tmp_path / "quiet.py"
    program.write_text(
        "import torch, lsgd_mpi\n"
        "lsgd_mpi.init()\n"
        "model = torch.nn.Linear(100, 10).cuda()\n"
        "inner = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)\n"
        "optimizer = lsgd_mpi.DistributedOptimizer(inner, model, 'lsgd', local_period=50)\n"
        "data = torch.randn(32, 100, device='cuda')\n"
        "for step in range(1, 50):\n"
        "    torch.cuda.set_sync_debug_mode('error' if step > 2 else 'default')\n"
        "    optimizer.zero_grad()\n"
        "    loss = model(data).square().mean()\n"
        "    loss.backward()\n"
        "    optimizer.step(loss.detach())\n"
        "torch.cuda.set_sync_debug_mode('default')\n"
        "print('49 steps')\n"
        "lsgd_mpi.shutdown()\n"
    )
    done = run_ranks(2, [program], timeout_s=100, environment=GPU)
    assert done.returncode == 0, done.printed
    assert done.stdout.count("49 steps") == 2
