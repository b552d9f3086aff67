"""A SLURM of one's own on this machine: one node, without systemd, in a folder, ended by process id."""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import launching

#: For SLURM, which need not be the machine's: enough for all jobs of the tests at once.
CPUS = 16
_START_S = 20.0
_LEAVE_S = 10.0

_CONFIGURATION = """\
ClusterName=lsgd
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
MpiDefault=none
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=4
KillWait=2
{plugins}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES
PartitionName=gpu Nodes={host}
"""


class Cluster:
    """Daemons of SLURM between `start` and `stop`; ``programs`` are a `debian_slurm.Programs`."""

    def __init__(self, programs):
        self.programs = programs
        self._mark = uuid.uuid4().hex
        # Short: SLURM and PMIx make sockets in it, whose names end at 108 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="lsgd-slurm-"))
        self._daemons = {}

    def start(self):
        """Start the daemons and wait for a node that takes jobs."""
        host = socket.gethostname().split(".")[0]
        plugins = f"PluginDir={self.programs.plugins}" if self.programs.plugins else ""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        ports = _free_ports(2)
        self._configuration.write_text(
            _CONFIGURATION.format(
                host=host,
                controller_port=ports[0],
                node_port=ports[1],
                user=getpass.getuser(),
                folder=self.folder,
                plugins=plugins,
                cpus=CPUS,
            )
        )
        # No part of this SLURM uses control groups; without a word slurmd ends where it may not make any.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        files = [f"--{kind}-file={self.folder / f'munge.{kind}'}" for kind in ("key", "log", "pid", "seed")]
        # --force, since the socket's folder is private, which munged would have open to everybody.
        self._daemon("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
        self._wait_for("munged's socket", (self.folder / "munge.socket").exists)
        self._daemon("slurmctld", "-D", "-f", self._configuration)
        self._daemon("slurmd", "-D", "-f", self._configuration, "-d", self.programs["slurmstepd"])
        self._wait_for("an idle node", lambda: self._ask("sinfo", "-h", "-o", "%T") == "idle")

    def stop(self):
        """End all jobs and what `start` started."""
        try:
            if len(self._daemons) == 3:
                self._ask("scancel", f"--user={getpass.getuser()}")
                self._settled(lambda: self._ask("squeue", "-h") == "", _LEAVE_S)
        finally:
            for daemon in reversed(self._daemons.values()):
                daemon.terminate()
            for daemon in self._daemons.values():
                try:
                    daemon.wait(_LEAVE_S)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
            shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self, mark):
        """For a command of this SLURM and, through it, its job, whose processes are found by ``mark``."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(launching.LAUNCHERS)
        }
        return {
            **inherited,
            "PATH": self.programs.path,
            "SLURM_CONF": str(self._configuration),
            launching.MARK: mark,
        }

    def processes(self):
        """Process ids and commands of the daemons and of what they started, but for the jobs themselves."""
        return launching.processes_of(self._mark)

    def logs(self):
        """What the daemons said, for the message of a failed test."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(encoding='utf-8', errors='replace')[-4000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    @property
    def _configuration(self):
        return self.folder / "slurm.conf"

    def _daemon(self, name, *words):
        with (self.folder / f"{name}.out.log").open("wb") as log:
            self._daemons[name] = subprocess.Popen(
                [self.programs[name], *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environment(self._mark),
                start_new_session=True,
                preexec_fn=launching.end_with_pytest,
            )

    def _ask(self, *command):
        words = [self.programs[command[0]], *command[1:]]
        done = subprocess.run(
            words,
            env=self.environment(self._mark),
            capture_output=True,
            text=True,
            timeout=_START_S,
            check=False,
        )
        return done.stdout.strip()

    def _wait_for(self, what, ready):
        if not self._settled(ready, _START_S):
            raise AssertionError(f"SLURM does not start: no {what} after {_START_S:g} s\n{self.logs()}")

    def _settled(self, ready, seconds):
        deadline = time.monotonic() + seconds
        while not ready():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended:
                raise AssertionError(f"{', '.join(ended)} ended by itself\n{self.logs()}")
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


def _free_ports(number):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports
