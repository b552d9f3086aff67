"""``lsgd-mpi cost``: what communication will cost a run, from a few numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from lsgd_mpi.background import CYCLE_TIME_MS
from lsgd_mpi.cli.words import print_for_reader, whole_number
from lsgd_mpi.cost import Cluster, Cost, Training, predict
from lsgd_mpi.errors import UsageError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_Number = TypeVar("_Number", int, float)

_RATES_GBIT = (1.0, 10.0, 100.0)
_WORKERS = (4, 16, 64, 256, 1024)
_LOCAL_PERIOD, _GLOBAL_PERIOD = 64, 128


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand ``cost``; its ``arguments.run`` is `run`."""
    parser = subparsers.add_parser(
        "cost",
        help="predict what communication costs a run",
        description="Predict the share of the rate without communication that a method keeps, from the size "
        "of a model, the time of an iteration and the links of a cluster (docs/cost.md has the assumptions).",
        allow_abbrev=False,
    )
    number = float
    parser.add_argument("--parameters", type=number, required=True, help="of the model, as in 11e6")
    parser.add_argument("--iteration-ms", type=number, required=True, help="of one worker, by itself")
    parser.add_argument("--bytes", type=whole_number, default=4, help="of a parameter (4)")
    parser.add_argument(
        "--jitter", type=number, default=0.02, help="standard deviation of iterations / mean (0.02)"
    )
    parser.add_argument("--algorithm", default="lsgd", help="a method of lsgd-mpi train (lsgd)")
    parser.add_argument("--clock", help="step, shared or own (default: the method's first)")
    parser.add_argument("--local-period", type=whole_number, help=f"τ ({_LOCAL_PERIOD} if it has one)")
    parser.add_argument("--global-period", type=whole_number, help=f"τ_G, of lsgd ({_GLOBAL_PERIOD})")
    parser.add_argument("--nodes", type=whole_number, help="one cluster in detail (default: a table)")
    parser.add_argument("--ranks-per-node", type=whole_number, default=4, help="workers on each node (4)")
    parser.add_argument("--gbit", type=number, help="of a node's link, Gbit/s each way, with --nodes (1)")
    parser.add_argument("--latency-us", type=number, default=50.0, help="of a message between nodes (50)")
    parser.add_argument(
        "--local-gbyte", type=number, default=3.0, help="of a broadcast inside a node, GByte/s (3)"
    )
    parser.add_argument(
        "--cycle-ms",
        type=number,
        default=CYCLE_TIME_MS,
        help=f"Horovod looks for work so often ({CYCLE_TIME_MS:g})",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the prediction; return the exit code 0. Raises `UsageError` for numbers that make no sense."""
    from lsgd_mpi.algorithms import find_algorithm

    method = find_algorithm(arguments.algorithm, arguments.clock)
    if method.pattern is None:
        raise UsageError(f"--algorithm {arguments.algorithm}: its cost is not modelled")
    pattern = method.pattern
    _refuse_useless(arguments, pattern)
    training = Training(
        arguments.parameters * arguments.bytes, arguments.iteration_ms / 1e3, arguments.jitter
    )

    def cost(nodes: int, gbit_per_s: float) -> Cost:
        where = Cluster(
            nodes=nodes,
            ranks=arguments.ranks_per_node,
            gbit_per_s=gbit_per_s,
            latency_s=arguments.latency_us / 1e6,
            local_gbyte_per_s=arguments.local_gbyte,
            cycle_s=arguments.cycle_ms / 1e3,
        )
        return predict(
            pattern,
            where,
            training,
            period=_or(arguments.local_period, _LOCAL_PERIOD),
            global_period=_or(arguments.global_period, _GLOBAL_PERIOD) if pattern == "pull" else None,
        )

    ranks, nodes, gbit = arguments.ranks_per_node, arguments.nodes, _or(arguments.gbit, 1.0)
    if nodes is None:
        print_for_reader(_table(ranks, cost))
    else:
        heading = f"{nodes * ranks} workers on {nodes} nodes, {gbit:g} Gbit/s"
        print_for_reader(_detail(heading, cost(nodes, gbit)))
    return 0


def _or(given: _Number | None, default: _Number) -> _Number:
    return default if given is None else given


def _refuse_useless(arguments: argparse.Namespace, pattern: str) -> None:
    if arguments.gbit is not None and arguments.nodes is None:
        raise UsageError("--gbit: the table has rates of its own; add --nodes for one cluster")
    if arguments.local_period is not None and pattern == "gradients":
        raise UsageError(f"--local-period: {arguments.algorithm} communicates in every iteration")
    if arguments.global_period is not None and pattern != "pull":
        raise UsageError(f"--global-period: {arguments.algorithm} has no global rounds")


def _detail(heading: str, cost: Cost) -> str:
    lines = [heading]
    for name in ("iteration", "transfer", "latency", "waiting"):
        lines.append(f"  {name:<10}{1e3 * getattr(cost, f'{name}_s'):10.3f} ms an iteration")
    lines.append(f"  share of the rate without communication: {cost.share:.3f}")
    return "\n".join(lines)


def _table(ranks: int, cost: Callable[[int, float], Cost]) -> str:
    head = " ".join(f"{f'{rate:g} Gbit/s':>12}" for rate in _RATES_GBIT)
    lines = ["share of the rate without communication", f"{'workers':>8} {head}"]
    for workers in _WORKERS:
        nodes = max(1, workers // ranks)
        shares = [cost(nodes, rate).share for rate in _RATES_GBIT]
        lines.append(f"{nodes * ranks:>8} " + " ".join(f"{share:>12.3f}" for share in shares))
    return "\n".join(lines)
