"""The hosts of a SLURM allocation, from the variables that SLURM sets in it."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence

from lsgd_mpi.errors import SetupError
from lsgd_mpi.hosts.host import Host, short

_NODES = re.compile(r"(?:[^\[\],\s]|\[[0-9,-]+\])+")
_COUNT = re.compile(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?")

#: More are a mistake, and would fill the memory.
_MOST_NODES = 100_000


def hosts_of_slurm(environment: Mapping[str, str] = os.environ) -> tuple[Host, ...]:
    """The hosts of the SLURM allocation that ``environment`` tells of.

    Slots are the tasks a node (``SLURM_TASKS_PER_NODE``, else ``SLURM_NTASKS_PER_NODE``), else the CPUs
    a node (``SLURM_JOB_CPUS_PER_NODE``) divided by those of a task (``SLURM_CPUS_PER_TASK``), else unknown.

    Raises:
        SetupError: there is no allocation, or a variable cannot be read or contradicts another.

    """
    nodes = environment.get("SLURM_JOB_NODELIST") or environment.get("SLURM_NODELIST")
    if not nodes:
        raise SetupError(
            "no hostfile was given and SLURM_JOB_NODELIST is not set: give a FILE ('-' for standard input), "
            "or run this in an allocation of SLURM (sbatch, salloc)"
        )
    names = _expanded_nodes(nodes)
    slots = _slurm_slots(environment, names)
    twice = next((name for name, again in itertools.pairwise(sorted(names)) if name == again), None)
    if twice is not None:
        raise SetupError(f"SLURM_JOB_NODELIST={short(nodes)}: {twice!r} stands there twice")
    try:
        return tuple(Host(name, number) for name, number in zip(names, slots, strict=True))
    except SetupError as error:
        raise SetupError(f"SLURM_JOB_NODELIST={short(nodes)}: {error}") from None


def _expanded_nodes(nodes: str) -> list[str]:
    """The names in a list such as ``node[01-03,07],login``, in its order."""
    items = [match[0] for match in _NODES.finditer(nodes)]
    if ",".join(items) != nodes:
        raise SetupError(
            f"cannot read SLURM_JOB_NODELIST={short(nodes)}: it should look as 'node[01-03,07],gpu1'; "
            "give a FILE instead, for example of 'scontrol show hostnames'"
        )
    names: list[str] = []
    for item in items:
        # Every second part is the inside of brackets.
        parts = re.split(r"\[([^\]]*)\]", item)
        choices = [_numbers(part, nodes) if index % 2 else [part] for index, part in enumerate(parts)]
        if len(names) + math.prod(map(len, choices)) > _MOST_NODES:
            raise SetupError(f"SLURM_JOB_NODELIST={short(nodes)}: more than {_MOST_NODES} nodes")
        names.extend("".join(pieces) for pieces in itertools.product(*choices))
    return names


def _numbers(ranges: str, nodes: str) -> list[str]:
    """The numbers in ``01-03,07``, as wide as each range's first."""
    numbers: list[str] = []
    for part in ranges.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if match is None or last < first:
            raise SetupError(f"cannot read SLURM_JOB_NODELIST={short(nodes)}: {short(part)} is no range")
        if len(numbers) + last - first >= _MOST_NODES:
            raise SetupError(f"SLURM_JOB_NODELIST={short(nodes)}: more than {_MOST_NODES} nodes")
        numbers.extend(str(number).zfill(len(match[1])) for number in range(first, last + 1))
    return numbers


def _slurm_slots(environment: Mapping[str, str], names: Sequence[str]) -> Sequence[int | None]:
    if environment.get("SLURM_TASKS_PER_NODE"):
        return _slurm_counts(environment, "SLURM_TASKS_PER_NODE", len(names))
    if environment.get("SLURM_NTASKS_PER_NODE"):
        return [_slurm_number(environment, "SLURM_NTASKS_PER_NODE")] * len(names)
    if not environment.get("SLURM_JOB_CPUS_PER_NODE"):
        return [None] * len(names)
    cpus = _slurm_counts(environment, "SLURM_JOB_CPUS_PER_NODE", len(names))
    each = _slurm_number(environment, "SLURM_CPUS_PER_TASK") if environment.get("SLURM_CPUS_PER_TASK") else 1
    if min(cpus) < each:
        raise SetupError(
            f"SLURM_CPUS_PER_TASK={each}: {names[cpus.index(min(cpus))]!r} has {min(cpus)} CPUs "
            "(SLURM_JOB_CPUS_PER_NODE), too few for a task; ask for fewer a task"
        )
    return [number // each for number in cpus]


def _slurm_counts(environment: Mapping[str, str], variable: str, nodes: int) -> list[int]:
    """The numbers in ``4(x2),3``: one a node."""
    text = environment[variable]
    matches = [_COUNT.fullmatch(part) for part in text.split(",")]
    runs = [(int(match[1]), int(match[2] or 1)) for match in matches if match]
    if len(runs) < len(matches) or any(number < 1 for number, _ in runs):
        raise SetupError(
            f"cannot read {variable}={short(text)}: it should look as '4(x2),3'; give a FILE instead"
        )
    told = sum(times for _, times in runs)
    if told != nodes:
        raise SetupError(
            f"{variable}={short(text)} tells of {told} node(s), but SLURM_JOB_NODELIST of {nodes}: run "
            "this in the batch script itself, outside srun, or give a FILE"
        )
    return [number for number, times in runs for _ in range(times)]


def _slurm_number(environment: Mapping[str, str], variable: str) -> int:
    text = environment[variable]
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 1:
        raise SetupError(f"cannot read {variable}={short(text)}: it should be a whole number, 1 or more")
    return int(text)
