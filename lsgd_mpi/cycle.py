"""How often Horovod's threads look for work."""

from __future__ import annotations

#: For 1 to 2 % of a core on one node. Horovod's own default of 1 ms takes a pull of 1 million parameters
#: beyond twice bare MPI's time (benchmarks/rounds.py); shorter cycles cost more.
OFTEN_MS = 0.5

#: Each time the threads of all nodes ask each other. Every 0.5 ms, that keeps 20 to 40 % of a core from a
#: rank that computes on it, every 20 ms 1 to 2 %. A round comes up to so much later.
RARELY_MS = 20.0


def cycle_time_ms(nodes: int, *, one_sided: bool, on_gpus: bool) -> float:
    """What suits ranks on so many nodes, which use no core for anything else ``on_gpus``.

    ``one_sided`` access to another rank's memory goes on whenever its thread looks.
    """
    return RARELY_MS if nodes > 1 and not one_sided and not on_gpus else OFTEN_MS
