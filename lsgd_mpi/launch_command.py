"""The command that starts ranks: for mpirun, horovodrun or srun, with the flags these programs need."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lsgd_mpi.errors import SetupError, UsageError
from lsgd_mpi.hosts import Host, format_hosts, is_ipv6

#: Taken along to other hosts: mpirun's ssh starts ranks there with the environment of a login. Not
#: CUDA_VISIBLE_DEVICES, since a batch system gives each host GPUs of its own.
_FORWARDED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
_FORWARDED_KINDS = ("HOROVOD_", "LSGD_", "NCCL_")

#: What a launcher may take to say its version and the like.
_ASKED_S = 60


@dataclass(frozen=True)
class Job:
    """What is to be started, whatever the launcher."""

    #: The program of one rank and its arguments.
    program: tuple[str, ...]
    ranks: int
    #: Empty: this machine, or a batch system's allocation.
    hosts: tuple[Host, ...] = ()
    #: "slot" fills one host after the other, "node" deals the ranks out.
    map_by: str = "slot"
    #: Network interface (eth0) or subnet (10.0.0.0/24) of MPI's traffic.
    interface: str | None = None
    #: In place of ssh, for Open MPI.
    ssh_agent: str | None = None
    #: More words for the launcher.
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ranks < 1:
            raise UsageError(f"-np {self.ranks}: a job has at least one rank")
        for host in self.hosts:
            if is_ipv6(host.name):
                raise SetupError(
                    f"{host.name!r}: launchers are told the hosts in a list with colons, which has no place "
                    "for IPv6 addresses: use the host's name or IPv4 address"
                )
        if self.hosts and self.ranks > self._slots:
            raise SetupError(
                f"-np {self.ranks}: the hosts have {self._slots} slots ({_host_list(self.hosts)}): start "
                "fewer ranks, or give the hosts more slots if ranks may share cores"
            )

    @property
    def _slots(self) -> int:
        return sum(host.slots or 0 for host in self.hosts)

    @property
    def most_on_a_host(self) -> int:
        """At most so many ranks share a host."""
        if not self.hosts:
            return self.ranks
        largest = max(host.slots or 0 for host in self.hosts)
        if self.map_by == "node" and len(self.hosts) * largest == self._slots:
            return -(-self.ranks // len(self.hosts))
        return min(self.ranks, largest)


@dataclass(frozen=True)
class Invocation:
    """A command, and in what its environment differs from that of this process."""

    words: tuple[str, ...]
    #: Variables that are set.
    variables: Mapping[str, str] = field(default_factory=dict)
    #: A folder that comes first on the PATH.
    path: str | None = None
    #: A variable that is not set.
    without: str | None = None

    def shell_line(self) -> str:
        """All of it as a person types it into a shell."""
        unset = ["env", "-u", self.without] if self.without else []
        first = [f'PATH={shlex.quote(self.path)}:"$PATH"'] if self.path else []
        given = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return " ".join([*unset, *first, *given, shlex.join(self.words)])

    def environment(self, present: Mapping[str, str]) -> dict[str, str]:
        """That of the command, where ``present`` is that of this process."""
        environment = {**present, **self.variables}
        if self.path is not None:
            environment["PATH"] = os.pathsep.join([self.path, environment.get("PATH", os.defpath)])
        if self.without is not None:
            environment.pop(self.without, None)
        return environment


@dataclass(frozen=True)
class Machine:
    """What of the machine that the launcher runs on decides its flags."""

    #: Where mpirun is, and the first line that its --version prints.
    mpirun: str
    mpirun_version: str
    cores: int
    is_root: bool = False

    @property
    def has_open_mpi(self) -> bool:
        """Whether mpirun is Open MPI's."""
        return "Open MPI" in self.mpirun_version

    @property
    def has_prrte(self) -> bool:
        """Whether it is that of Open MPI 5 or later, whose daemons have parameters of their own."""
        major = self.mpirun_version.split()[-1].split(".")[0] if self.has_open_mpi else ""
        return major.isdigit() and int(major) >= 5


def find_program(name: str) -> str:
    """Where a program is: beside this Python, to whose packages it then belongs, or on the PATH."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if found is None:
        raise SetupError(
            f"{name} is not installed: bin/setup brings mpirun and horovodrun, SLURM has its own srun; "
            "choose another with --launcher"
        )
    return found


def this_machine() -> Machine:
    """What the machine is that this process runs on. Raises `SetupError` without an mpirun that works."""
    mpirun = find_program("mpirun")
    told = asked(mpirun, "--version")
    lines = told.stdout.splitlines()
    if told.returncode != 0 or not lines:
        said = told.stderr.strip() or "no word"
        raise SetupError(f"'{mpirun} --version' ended with {told.returncode}: {said}")
    return Machine(mpirun, lines[0], len(os.sched_getaffinity(0)), os.geteuid() == 0)


def asked(*words: str) -> subprocess.CompletedProcess[str]:
    """What a command of a launcher says. Raises `SetupError` if it cannot be started or does not end."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=_ASKED_S)
    except OSError as error:
        raise SetupError(f"{words[0]} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"'{' '.join(words)}' did not end within {_ASKED_S} s") from error


def launcher_environment(machine: Machine) -> dict[str, str]:
    """Variables that the launcher itself needs."""
    if not (machine.is_root and machine.has_open_mpi):
        return {}
    # Open MPI asks root twice; in a container everybody is root.
    return {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def mpirun_command(job: Job, machine: Machine, environment: Mapping[str, str]) -> list[str]:
    """Words of the mpirun command: Open MPI's, or those that MPICH and its relatives share."""
    started = [machine.mpirun, "-np", str(job.ranks)]
    if machine.has_open_mpi:
        hosts = ["--host", _host_list(job.hosts)] if job.hosts else []
        options = [*hosts, *_open_mpi_options(job, machine), *_exports(job, environment)]
    else:
        if job.ssh_agent:
            raise UsageError("--ssh-agent is for Open MPI: MPICH takes --launcher-option=-launcher-exec")
        hosts = ["-hosts", _host_list(job.hosts)] if job.hosts else []
        spread = ["-ppn", "1"] if job.map_by == "node" else []
        options = [*hosts, *spread, *(["-iface", job.interface] if job.interface else [])]
    return [*started, *options, *job.extra, *job.program]


def horovodrun_command(job: Job, machine: Machine, horovodrun: str) -> list[str]:
    """Words of the horovodrun command, which writes an mpirun command itself."""
    if job.ssh_agent:
        raise UsageError("--ssh-agent is for mpirun: horovodrun looks at the hosts by ssh itself")
    command = [horovodrun, "-np", str(job.ranks), "--mpi"]
    if job.hosts:
        command += ["-H", _host_list(job.hosts)]
    if job.interface:
        if "/" in job.interface:
            raise UsageError(f"--interface {job.interface}: horovodrun takes names such as eth0, no subnets")
        command += ["--network-interfaces", job.interface]
    if machine.has_open_mpi:
        # It would bind and map by itself unless it were told.
        command.append(f"--binding-args={shlex.join(_open_mpi_options(job, machine))}")
    if job.extra:
        command.append(f"--mpi-args={shlex.join(job.extra)}")
    return [*command, *job.program]


def srun_command(job: Job, srun: str, environment: Mapping[str, str]) -> list[str]:
    """Words of the srun command, inside an allocation. Raises `UsageError` for what that decides."""
    for flag, given in (
        ("--hostfile or --hosts", job.hosts),
        ("--interface", job.interface),
        ("--ssh-agent", job.ssh_agent),
    ):
        if given:
            raise UsageError(f"srun has its hosts and its network from the allocation: leave {flag} away")
    # Since SLURM 22.05 srun does not take the cores of a task over from sbatch.
    cores = environment.get("SLURM_CPUS_PER_TASK", "")
    return [
        *(srun, "--mpi=pmix", f"--ntasks={job.ranks}"),
        *([f"--cpus-per-task={cores}"] if cores else []),
        f"--distribution={'cyclic' if job.map_by == 'node' else 'block'}",
        "--kill-on-bad-exit=1",
        *job.extra,
        *job.program,
    ]


def _open_mpi_options(job: Job, machine: Machine) -> list[str]:
    # Hosts have the slots that were written down for them. Here Open MPI counts cores, of which a machine may
    # have fewer than it shows processors.
    shared = "" if job.hosts else ":OVERSUBSCRIBE"
    # Horovod's threads need all cores, so ranks are not bound.
    options = ["--bind-to", "none", "--map-by", f"{job.map_by}{shared}"]
    if job.hosts or job.most_on_a_host >= machine.cores:
        # Horovod's thread in each rank needs a core too. One that waits would keep it from one that computes:
        # with more ranks than cores a broadcast took 20 times as long, and between nodes 9 % of the training
        # were lost and not 3.
        options += ["--mca", "mpi_yield_when_idle", "1"]
    daemons = "--prtemca" if machine.has_prrte else "--mca"
    if job.interface:
        theirs = "prte_if_include" if machine.has_prrte else "oob_tcp_if_include"
        options += ["--mca", "btl_tcp_if_include", job.interface, daemons, theirs, job.interface]
    if job.ssh_agent:
        options += [daemons, "plm_ssh_agent" if machine.has_prrte else "plm_rsh_agent", job.ssh_agent]
    return options


def _exports(job: Job, environment: Mapping[str, str]) -> list[str]:
    if not job.hosts:
        return []
    names = [name for name in _FORWARDED if name in environment]
    names += sorted(name for name in environment if name.startswith(_FORWARDED_KINDS))
    return [word for name in names for word in ("-x", name)]


def _host_list(hosts: Sequence[Host]) -> str:
    return format_hosts(hosts, "list").strip()
