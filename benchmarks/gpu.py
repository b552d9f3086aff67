"""Leader SGD on one GPU, by one rank and by four that share it: images a second with and without rounds.

python benchmarks/gpu.py [--device cpu] [--iterations N] [MODEL ...]

On a CPU it shows that the program works, and nothing of GPUs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch
from common import Spread, environment_lines
from ranks import on_ranks
from throughput import make_model

#: name: (input shape, images a rank and iteration)
MODELS = {"resnet20": ((3, 32, 32), 128), "resnet50": ((3, 224, 224), 32)}
RANKS = (1, 4)
LOCAL_PERIOD, GLOBAL_PERIOD = 16, 64
TURNS, ITERATIONS = 5, 64
LIMIT_S = 1200.0


def main() -> None:
    if sys.argv[1:2] == ["worker"]:
        worker(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=[*MODELS])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU: --device cpu tries the program without one")
    where = torch.cuda.get_device_name() if asked.device == "cuda" else "no GPU: the CPU"
    lines = [
        "# Training on a GPU",
        "",
        *environment_lines(("torch", "mpi4py", "horovod")),
        f"- {where}; float32; the same synthetic batch again and again",
        f"- {TURNS} turns of {asked.iterations} iterations without and with the rounds of leader SGD in one",
        f"  job (local period {LOCAL_PERIOD}; 4 ranks in 2 groups with global period",
        f"  {GLOBAL_PERIOD}), sum of the ranks' rates, the median; range: of the turns' ratios",
        "- rounds: share of the time in elections and broadcasts, the mean of the ranks",
        "",
        "| model | ranks | exchange | without rounds, images/s | with, images/s | ratio | range | rounds |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    print("\n".join(lines), flush=True)
    for model in asked.models:
        for ranks in RANKS:
            told = on_ranks(ranks, "worker", model, asked.device, asked.iterations, timeout_s=LIMIT_S)
            without, with_rounds = (Spread.of(told[kind]).median for kind in ("without", "with"))
            ratios = Spread.of([b / a for a, b in zip(told["without"], told["with"], strict=True)])
            print(
                f"| {model} | {ranks} | {told['exchange']} | {without:,.0f} | {with_rounds:,.0f} "
                f"| {ratios.median:.3f} | {ratios.minimum:.3f} to {ratios.maximum:.3f} "
                f"| {told['rounds']:.2%} |",
                flush=True,
            )


def worker(name: str, kind: str, iterations: int) -> None:
    """Both in turns, in one process; rank 0 prints what came out."""
    import lsgd_mpi
    from lsgd_mpi import comm, runtime
    from lsgd_mpi.placement import choose_device

    ranks = comm.mpi_rank_and_size()[1]
    lsgd_mpi.init(max(1, ranks // 2))
    communicator = runtime.communicator()
    device = choose_device(kind, communicator)
    torch.manual_seed(0)
    shape, batch = MODELS[name]
    images, labels = torch.randn(batch, *shape, device=device), torch.randint(10, (batch,), device=device)

    def training(with_rounds: bool):  # type: ignore[no-untyped-def]
        model = _model(name, shape).to(device)
        inner = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        if not with_rounds:
            return model, inner
        several = len(communicator.topology.groups) > 1
        outer = {"global_period": GLOBAL_PERIOD} if several else {}
        return model, lsgd_mpi.DistributedOptimizer(inner, model, "lsgd", local_period=LOCAL_PERIOD, **outer)

    def rate(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
        communicator.barrier()
        begun = time.perf_counter()
        for _ in range(iterations):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step(loss) if hasattr(optimizer, "traffic") else optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return iterations * batch / (time.perf_counter() - begun)

    kinds = {"without": training(False), "with": training(True)}
    traffic = kinds["with"][1].traffic
    for each in kinds.values():
        rate(*each)
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    before, spent_s = traffic.comm_s + traffic.wait_s, 0.0
    for _ in range(TURNS):
        for each, pair in kinds.items():
            own = rate(*pair)
            spent_s += iterations * batch / own if each == "with" else 0.0
            rates[each].append(sum(communicator.gather(own)))
    shares = communicator.gather((traffic.comm_s + traffic.wait_s - before) / spent_s)
    exchange = "none" if ranks == 1 else "by host memory" if communicator.staged else "direct"
    if lsgd_mpi.rank() == 0:
        print(json.dumps({**rates, "exchange": exchange, "rounds": sum(shares) / ranks}), flush=True)
    lsgd_mpi.shutdown()


def _model(name: str, shape: tuple[int, int, int]) -> torch.nn.Module:
    if name == "resnet50":
        from torchvision.models import resnet50

        return resnet50(num_classes=10)
    return make_model(name, shape)


if __name__ == "__main__":
    main()
