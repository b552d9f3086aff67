"""What communication costs a run: a small model of bytes, links, latencies and waiting.

It predicts the share of the rate without communication that is left, from a handful of numbers about the
model and the cluster. docs/cost.md compares it with measured rounds, and says what it leaves out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist

from lsgd_mpi.background import CYCLE_TIME_MS
from lsgd_mpi.errors import UsageError

#: What a method's rounds do: pull to an elected leader, average over the workers, average every gradient, or
#: visit a center alone.
PATTERNS = ("pull", "average", "gradients", "visit")

#: Of a TCP packet with 1,448 bytes of payload, 1,514 are on an Ethernet.
_PAYLOAD = 1448 / 1514

#: An MPI library passes large messages on in segments of about this size.
_SEGMENT_BYTES = 128 * 1024

#: Averages are taken of so many bytes at a time (`lsgd_mpi.comm`), gradients of as many as Horovod fuses,
#: each negotiated by Horovod's threads.
_AVERAGED_BYTES, _FUSED_BYTES = 16_000_000, 128 * 1024**2

#: Bytes over the link to the center's node for each byte of the center: with its request for what it reads,
#: Open MPI sends as much, and then what the worker writes.
_VISIT_THERE = 2


@dataclass(frozen=True)
class Cluster:
    """``nodes`` equal nodes with ``ranks`` workers each, joined by a switch that is never the bottleneck."""

    nodes: int
    ranks: int
    #: Of a node's link, each way.
    gbit_per_s: float
    #: Of a small message between two nodes, and inside a node.
    latency_s: float = 50e-6
    local_latency_s: float = 2e-6
    #: At which one broadcast moves inside a node.
    local_gbyte_per_s: float = 3.0
    #: Horovod's threads look for work this often.
    cycle_s: float = CYCLE_TIME_MS / 1e3

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.ranks < 1:
            raise UsageError(f"{self.nodes} nodes with {self.ranks} ranks: there is at least one of each")
        latencies = (self.latency_s, self.local_latency_s, self.cycle_s)
        numbers = (self.gbit_per_s, self.local_gbyte_per_s, *latencies)
        if not all(number > 0 and math.isfinite(number) for number in numbers):
            raise UsageError("rates and latencies are finite and larger than 0")

    @property
    def workers(self) -> int:
        """All of them."""
        return self.nodes * self.ranks

    def link_s(self, nbytes: float) -> float:
        """Seconds that so many bytes of payload take on a node's link."""
        return nbytes * 8 / (self.gbit_per_s * 1e9 * _PAYLOAD)

    def local_s(self, nbytes: float) -> float:
        """Seconds that a broadcast among the workers of a node takes by itself."""
        return 0.0 if self.ranks == 1 else nbytes / (self.local_gbyte_per_s * 1e9)

    def negotiation_s(self, between_nodes: bool) -> float:
        """Until Horovod's threads agree that all are there: half a cycle, and a message there and back."""
        return self.cycle_s / 2 + 2 * (self.latency_s if between_nodes else self.local_latency_s)


@dataclass(frozen=True)
class Training:
    """What is trained: P bytes of parameters, and an iteration of ``iteration_s`` seconds on every worker.

    ``jitter`` is the standard deviation of an iteration's time relative to its mean, independent each time.
    """

    nbytes: float
    iteration_s: float
    jitter: float = 0.02

    def __post_init__(self) -> None:
        numbers = (self.nbytes, self.iteration_s, self.jitter)
        if (
            self.nbytes <= 0
            or self.iteration_s <= 0
            or self.jitter < 0
            or not all(map(math.isfinite, numbers))
        ):
            raise UsageError("a model has parameters, an iteration takes time, and a jitter is 0 or more")


@dataclass(frozen=True)
class Cost:
    """Seconds that an iteration takes longer on the average, by cause."""

    transfer_s: float
    latency_s: float
    waiting_s: float
    iteration_s: float

    @property
    def share(self) -> float:
        """Of the rate without communication, what is left: 0 to 1."""
        return self.iteration_s / (self.iteration_s + self.transfer_s + self.latency_s + self.waiting_s)


def pull_s(cluster: Cluster, nbytes: float) -> float:
    """Seconds of a pull of all workers to a leader: to its node's first rank, to each other node, on inside.

    Between more than two nodes each passes on what it receives, segment by segment.
    """
    inside = cluster.local_s(nbytes)
    if cluster.nodes == 1:
        return inside + cluster.negotiation_s(False)
    passing_on = (cluster.nodes - 2) * (cluster.link_s(_SEGMENT_BYTES) + cluster.latency_s)
    if cluster.ranks > 1:
        # Whoever waits for a broadcast hears of its end too late for the cycle that begins then.
        inside += cluster.cycle_s
    # The leader is its node's first rank in one case of many; only the others hand over first.
    handing_over = inside * (1 - 1 / cluster.ranks)
    return handing_over + cluster.link_s(nbytes) + passing_on + inside + cluster.negotiation_s(True)


def average_s(cluster: Cluster, nbytes: float, at_a_time: int = _AVERAGED_BYTES) -> float:
    """Seconds of an allreduce of all workers: inside each node, among the nodes in a ring, and back inside.

    In pieces of ``at_a_time`` bytes. Each node's link carries ``2 (n − 1) / n`` of the bytes each way, for n
    nodes.
    """
    if cluster.workers == 1:
        return 0.0
    nodes = cluster.nodes
    inside_s = 0.0 if cluster.ranks == 1 else 2 * nbytes / (cluster.local_gbyte_per_s * 1e9)
    ring_s = cluster.link_s(2 * (nodes - 1) / nodes * nbytes)
    pieces = max(1, math.ceil(nbytes / at_a_time))
    # As between broadcasts.
    missed_s = (pieces - 1) * cluster.cycle_s
    latency_s = pieces * 2 * (nodes - 1) * cluster.latency_s
    return inside_s + ring_s + cluster.negotiation_s(nodes > 1) + missed_s + latency_s


def visit_s(cluster: Cluster, nbytes: float) -> float:
    """Seconds of a visit of the center from another node, if there is one: what keeps its link busy."""
    inside = 2 * nbytes / (cluster.local_gbyte_per_s * 1e9)
    if cluster.nodes == 1:
        return inside
    return max(inside, cluster.link_s(_VISIT_THERE * nbytes)) + 2 * cluster.latency_s


def election_s(cluster: Cluster, between_nodes: bool) -> float:
    """Seconds of a MINLOC allreduce: the logarithm of the ranks, there and back."""
    local = 2 * math.ceil(math.log2(cluster.ranks)) * cluster.local_latency_s if cluster.ranks > 1 else 0.0
    if not between_nodes or cluster.nodes == 1:
        return local
    return local + 2 * math.ceil(math.log2(cluster.nodes)) * cluster.latency_s


def predict(
    pattern: str, cluster: Cluster, training: Training, *, period: int, global_period: int | None = None
) -> Cost:
    """The cost of a method whose rounds come every ``period`` iterations, in step but for visits.

    A "pull" every ``period`` is inside a group, which is a node here, and one of all every ``global_period``.
    """
    if pattern not in PATTERNS:
        raise UsageError(f"pattern {pattern!r}: choose from {', '.join(PATTERNS)}")
    if period < 1 or (global_period is not None and global_period < 1):
        raise UsageError("a period is at least one iteration")
    t, nbytes = training.iteration_s, training.nbytes
    if pattern == "visit":
        return _visits(cluster, training, period)
    if pattern == "pull":
        outer = period if global_period is None or cluster.nodes == 1 else global_period
        # A local pull comes before a global one that is due in the same iteration.
        inner_rounds = 1 / period if cluster.ranks > 1 and cluster.nodes > 1 else 0.0
        local = replace(cluster, nodes=1)
        transfer = inner_rounds * pull_s(local, nbytes) + pull_s(cluster, nbytes) / outer
        latency = inner_rounds * election_s(local, False) + election_s(cluster, True) / outer
        # Between two global rounds the workers of a node wait for each other, then the nodes do.
        waiting = (
            max(0.0, inner_rounds - 1 / outer) * _wait_s(training, period, cluster.ranks)
            + _wait_s(training, outer, cluster.workers) / outer
        )
        return Cost(transfer, latency, waiting, t)
    every, at_a_time = (1, _FUSED_BYTES) if pattern == "gradients" else (period, _AVERAGED_BYTES)
    waiting = _wait_s(training, every, cluster.workers) / every
    return Cost(average_s(cluster, nbytes, at_a_time) / every, 0.0, waiting, t)


def _visits(cluster: Cluster, training: Training, period: int) -> Cost:
    near_s, far_s = visit_s(replace(cluster, nodes=1), training.nbytes), visit_s(cluster, training.nbytes)
    near = cluster.ranks
    far = cluster.workers - near
    turn_s = near * near_s + far * far_s
    transfer_s = turn_s / cluster.workers
    # One at a time: if a turn of all takes longer than a period, they queue.
    queue_s = max(0.0, turn_s - (period * training.iteration_s + transfer_s))
    return Cost(transfer_s / period, 0.0, queue_s / period, training.iteration_s)


def _wait_s(training: Training, iterations: int, workers: int) -> float:
    """How much longer the slowest of the workers takes for so many iterations than their mean."""
    return training.jitter * training.iteration_s * math.sqrt(iterations) * _largest_of(workers)


@cache
def _largest_of(count: int) -> float:
    """The mean of the largest of ``count`` standard normal numbers."""
    if count == 1:
        return 0.0
    normal, points = NormalDist(), 2000
    # The quantile function against the distribution of the largest one, at the middles of equal parts.
    middles = ((index + 0.5) / points for index in range(points))
    return sum(normal.inv_cdf(middle ** (1 / count)) for middle in middles) / points
