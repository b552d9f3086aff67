"""``lsgd-mpi launch``: start ranks with mpirun, horovodrun or srun, with the flags that they need."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lsgd_mpi.aftermath import WILL_VARIABLE, read_will
from lsgd_mpi.cli.words import whole_number
from lsgd_mpi.errors import SetupError, UsageError
from lsgd_mpi.hosts import Host, hosts_of_slurm, parse_hosts, read_hosts
from lsgd_mpi.launch_command import (
    Invocation,
    Job,
    asked,
    find_program,
    horovodrun_command,
    launcher_environment,
    mpirun_command,
    srun_command,
    this_machine,
)

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

_LAUNCHERS = ("auto", "mpirun", "horovodrun", "srun")

#: What a host may take to run a command, an answer of its ssh included.
_ANSWER_S = 15.0

#: Sent by batch systems and people to the process that they started, which is this one.
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_EPILOG = """What follows -- is a command of lsgd-mpi or, if it is none, a program with its arguments:
  lsgd-mpi launch -np 4 -- train --groups 2
  lsgd-mpi launch -np 8 --hosts node1:4,node2:4 -- python my_training.py
Exit codes: those of the command; before it starts 2 for bad usage, 3 for launchers and hosts."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand ``launch``; its ``arguments.run`` is `run`."""
    parser = subparsers.add_parser(
        "launch",
        help="start a command on many ranks",
        description="Print and run the command that starts ranks here or on other hosts, with the flags that "
        "these programs need.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-np", metavar="N", type=whole_number, help="ranks (default: one for each slot of the hosts)"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--hostfile", metavar="F", help="of Open MPI, MPICH or horovodrun; see lsgd-mpi hosts")
    where.add_argument("--hosts", metavar="LIST", help="hosts and slots, such as node1:4,node2:4")
    parser.add_argument(
        "--launcher",
        choices=_LAUNCHERS,
        default="auto",
        help="auto: srun in an allocation of SLURM that has PMIx, else mpirun",
    )
    parser.add_argument(
        "--map-by", choices=("slot", "node"), default="slot", help="fill hosts in order, or deal ranks out"
    )
    parser.add_argument(
        "--interface", metavar="IF", help="network of MPI's traffic: a name such as eth0, or 10.0.0.0/24"
    )
    parser.add_argument("--ssh-agent", metavar="CMD", help="what Open MPI reaches other hosts by (ssh)")
    parser.add_argument(
        "--launcher-option",
        metavar="WORDS",
        action="append",
        default=[],
        help="more for the launcher, such as '--report-bindings'; may be repeated",
    )
    parser.add_argument("--print", action="store_true", help="only show the command")
    parser.add_argument("words", metavar="-- COMMAND", nargs=argparse.REMAINDER, help="what each rank runs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print and run the command; return its exit code.

    Raises:
        UsageError: no command, or options that contradict one another or the launcher.
        SetupError: a launcher that is not there, too few slots, a broken hostfile, no answer of a host.

    """
    environment = dict(os.environ)
    launcher = _launcher(arguments, environment)
    hosts = _hosts(arguments, launcher, environment)
    job = Job(
        program=_program(arguments.words),
        ranks=_ranks(arguments.np, hosts, launcher, environment),
        hosts=hosts,
        map_by=arguments.map_by,
        interface=arguments.interface,
        ssh_agent=arguments.ssh_agent,
        extra=tuple(word for words in arguments.launcher_option for word in shlex.split(words)),
    )
    invocation = _invocation(launcher, job, environment)
    if arguments.print:
        print(invocation.shell_line())
        return 0
    others = [host.name for host in hosts if not _is_here(host.name)]
    if "SLURM_JOB_ID" not in environment:
        _check_answers(others, job.ssh_agent or _agent_of_mpirun(environment))
    print(f"+ {invocation.shell_line()}", file=sys.stderr, flush=True)
    if not others:
        os.execvpe(invocation.words[0], invocation.words, invocation.environment(environment))
    return _watch(invocation.words, invocation.environment(environment))


def _launcher(arguments: argparse.Namespace, environment: Mapping[str, str]) -> str:
    wanted = str(arguments.launcher)
    in_allocation = "SLURM_JOB_ID" in environment and shutil.which("srun") is not None
    if wanted == "srun":
        if not in_allocation:
            raise SetupError(
                "--launcher srun: this is no allocation of SLURM with srun on the PATH; use it in a batch "
                "script (slurm/ has some) or after salloc"
            )
        if not _srun_has_pmix():
            raise SetupError(
                "--launcher srun: this SLURM has no PMIx ('srun --mpi=list'), without which every process "
                "would be alone: use --launcher mpirun"
            )
    if wanted != "auto":
        return wanted
    for_mpirun = arguments.hostfile or arguments.hosts or arguments.interface or arguments.ssh_agent
    return "srun" if in_allocation and not for_mpirun and _srun_has_pmix() else "mpirun"


def _invocation(launcher: str, job: Job, environment: Mapping[str, str]) -> Invocation:
    if launcher == "srun":
        command = srun_command(job, find_program("srun"), environment)
        _check_room(job, environment)
        return Invocation(tuple(command))
    machine = this_machine()
    # mpirun reaches hosts by srun, which then would keep all ranks of a host to the cores of one.
    without = "SRUN_CPUS_PER_TASK" if "SRUN_CPUS_PER_TASK" in environment else None
    variables = launcher_environment(machine)
    if launcher == "horovodrun":
        command = horovodrun_command(job, machine, find_program("horovodrun"))
        # It takes the first mpirun on the PATH.
        return Invocation(tuple(command), variables, str(Path(machine.mpirun).parent), without)
    return Invocation(tuple(mpirun_command(job, machine, environment)), variables, None, without)


def _check_room(job: Job, environment: Mapping[str, str]) -> None:
    slots = [host.slots for host in hosts_of_slurm(environment)]
    tasks = sum(each for each in slots if each is not None)
    if None not in slots and job.ranks > tasks and not {"--overcommit", "-O"} & {*job.extra}:
        raise SetupError(
            f"-np {job.ranks}: the allocation has {tasks} tasks: start fewer ranks, ask sbatch for more with "
            "--ntasks, or let them share cores with --launcher-option=--overcommit"
        )


def _srun_has_pmix() -> bool:
    listed = asked("srun", "--mpi=list")
    return "pmix" in listed.stdout + listed.stderr


def _hosts(arguments: argparse.Namespace, launcher: str, environment: Mapping[str, str]) -> tuple[Host, ...]:
    if arguments.hostfile is not None:
        hosts = read_hosts(arguments.hostfile)
    elif arguments.hosts is not None:
        hosts = parse_hosts(arguments.hosts, "list", "--hosts")
    elif "SLURM_JOB_ID" in environment and launcher != "srun":
        hosts = hosts_of_slurm(environment)
    else:
        return ()
    lacking = [host.name for host in hosts if host.slots is None]
    if lacking:
        raise SetupError(
            f"{lacking[0]!r} has no number of slots: write 'slots=N' behind it, or let "
            "'lsgd-mpi hosts FILE --slots N --to openmpi' do so"
        )
    return hosts


def _ranks(given: int | None, hosts: Sequence[Host], launcher: str, environment: Mapping[str, str]) -> int:
    if given is not None:
        return given
    if hosts:
        return sum(host.slots or 0 for host in hosts)
    if launcher == "srun":
        tasks = environment.get("SLURM_NTASKS", "")
        return int(tasks) if tasks.isdigit() else sum(host.slots or 0 for host in hosts_of_slurm(environment))
    raise UsageError("say how many ranks, with -np N, or where, with --hosts or --hostfile")


def _program(words: Sequence[str]) -> tuple[str, ...]:
    from lsgd_mpi.cli.main import COMMANDS

    given = list(words[1:] if words[:1] == ["--"] else words)
    if not given:
        raise UsageError("say what each rank is to run: lsgd-mpi launch -np 4 -- train --groups 2")
    if given[0] in COMMANDS:
        return (sys.executable, "-m", "lsgd_mpi", *given)
    if given[0].startswith("-"):
        raise UsageError(f"{given[0]} is no option of lsgd-mpi launch, nor a command to start (--help)")
    if given[0] == "python":
        # The one that has this package.
        return (sys.executable, *given[1:])
    return tuple(given)


def _is_here(host: str) -> bool:
    """Whether a name or address is this machine's own."""
    if host in ("localhost", socket.gethostname(), socket.gethostname().split(".")[0], socket.getfqdn()):
        return True
    try:
        addresses = {found[4] for found in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)}
    except (OSError, UnicodeError):
        # Unicode: what is no name in the DNS.
        return False
    return any(_can_be_bound(address) for address in addresses)


def _can_be_bound(address: tuple[Any, ...]) -> bool:
    family = socket.AF_INET6 if ":" in str(address[0]) else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.bind(address)
    except OSError:
        return False
    return True


def _agent_of_mpirun(environment: Mapping[str, str]) -> str:
    for name in ("PRTE_MCA_plm_ssh_agent", "OMPI_MCA_plm_rsh_agent"):
        if name in environment:
            return environment[name]
    return "ssh -o BatchMode=yes -o ConnectTimeout=10"


def _check_answers(hosts: Sequence[str], agent: str) -> None:
    """Let each host run ``true``: mpirun would wait for one that does not answer, and say little."""
    deadline = time.monotonic() + _ANSWER_S
    problems: dict[str, str] = {}
    with ExitStack() as stack:
        # Files, since what an agent itself has started may keep a pipe open.
        questions = []
        for host in hosts:
            said = stack.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
            words = [*shlex.split(agent), host, "true"]
            questions.append((host, said, _start_asking(words, said)))
        for host, said, process in questions:
            try:
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                problems[host] = f"{host} does not answer within {_ANSWER_S:g} s"
                continue
            if code != 0:
                said.seek(0)
                reason = said.read().strip().splitlines()[-1:] or [f"exit code {code}"]
                problems[host] = f"{host} cannot be reached ({reason[0].strip()})"
    if problems:
        first = next(iter(problems))
        raise SetupError(
            f"{'; '.join(problems.values())}: '{agent} {first} true' must work without asking for a password"
        )


def _start_asking(words: Sequence[str], said: IO[str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
    except OSError as error:
        raise SetupError(
            f"{words[0]} cannot be started ({error.strerror}): install it, or give --ssh-agent"
        ) from error


def _watch(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the launcher to its end; if the network was lost, its ranks know the exit code and it does not."""
    with tempfile.TemporaryDirectory(prefix="lsgd-launch-") as folder:
        will = Path(folder) / "exit-code"
        # No signal is to come between the start of the launcher and the way to it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        process = subprocess.Popen(
            command,
            env={**environment, WILL_VARIABLE: str(will)},
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON),
        )

        def pass_on(received: int, _: object) -> None:
            if received != signal.SIGINT or not _has_terminal():
                process.send_signal(received)

        for number in _PASSED_ON:
            signal.signal(number, pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        code = process.wait()
        left = read_will(will)
    if left is not None:
        return left
    return code if code >= 0 else 128 - code


def _has_terminal() -> bool:
    """Whether Ctrl-C comes from a terminal, which sends it to the launcher as well."""
    try:
        with Path("/dev/tty").open("rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False
