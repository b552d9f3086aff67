"""Hosts made of network namespaces on this machine, joined by links of a limited rate.

Each has a name, an address and a network interface of its own; files, cores and memory are this machine's.
Needs root, and iproute2's ``ip`` and ``tc``.
"""

import itertools
import os
import shutil
import string
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

#: What a limited link lets through at once, and how long a packet may wait for it. With 64kb, an average at
#: 1 Gbit/s takes a quarter longer than it should; with 256kb, 1 MB takes a tenth less.
_BURST, _LATENCY = "160kb", "100ms"

#: Of the clusters that this process has made.
_numbers = itertools.count()


@dataclass(frozen=True)
class Cluster:
    """``names`` are the hosts' names, ``subnet`` their network; `agent` stands in for ssh."""

    names: tuple[str, ...]
    subnet: str
    agent: Path

    def words(self, host, command):
        """The command that runs ``command`` on a host, its name being that of a machine there."""
        inside = f'hostname {host} && exec "$@"'
        return ["ip", "netns", "exec", host, "unshare", "-u", "sh", "-c", inside, "sh", *map(str, command)]

    def link(self, host):
        """This machine's end of the host's link."""
        return f"{host}v"

    def cut(self, host):
        """Let nothing through to or from the host any more."""
        _run("ip", "link", "set", self.link(host), "down")


def why_not():
    """Why hosts cannot be made here, or None."""
    missing = [name for name in ("ip", "tc", "unshare") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found: install iproute2 (and util-linux)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"lsgd{os.getpid()}try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespaces here ({tried.stderr.strip()})"
    _run("ip", "netns", "del", name)
    return None


@contextmanager
def cluster(folder, hosts=2, rate="1gbit"):
    """Make hosts, and take them away in the end; ``folder`` is for the files that they need."""
    # Interfaces' names have 15 characters at most; process ids 7 digits.
    number = next(_numbers)
    stem = f"l{os.getpid()}{string.ascii_lowercase[number % 26]}"
    names = tuple(f"{stem}n{host}" for host in range(1, hosts + 1))
    network = f"10.{77 + os.getpid() % 100}.{(os.getpid() // 100 + number) % 250}"
    agent = Path(folder) / "agent"
    # As ssh: options, a host, and a command for a shell there.
    agent.write_text(
        "#!/bin/sh\nwhile case $1 in -*) true ;; *) false ;; esac; do shift; done\nhost=$1\nshift\n"
        'exec ip netns exec "$host" unshare -u sh -c "hostname $host; $*"\n'
    )
    agent.chmod(0o755)
    with ExitStack() as stack:

        def make(*words, undo):
            _run(*words)
            stack.callback(_run, *undo)

        bridge = f"{stem}b"
        make("ip", "link", "add", bridge, "type", "bridge", undo=("ip", "link", "del", bridge))
        _run("ip", "link", "set", bridge, "up")
        for host, name in enumerate(names, start=1):
            make("ip", "netns", "add", name, undo=("ip", "netns", "del", name))
            _give_names(stack, name, {f"{network}.{n}": other for n, other in enumerate(names, start=1)})
            _run("ip", "link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
            _run("ip", "link", "set", f"{name}v", "master", bridge, "up")
            _run("tc", *_limited(f"{name}v", rate))
            for words in (
                f"ip addr add {network}.{host}/24 dev eth0",
                "ip link set eth0 up",
                "ip link set lo up",
                "tc " + " ".join(_limited("eth0", rate)),
            ):
                _run("ip", "netns", "exec", name, *words.split())
        yield Cluster(names, f"{network}.0/24", agent)


def _limited(interface, rate):
    shape = f"qdisc add dev {interface} root tbf rate {rate} burst {_BURST} latency {_LATENCY}"
    return shape.split()


def _give_names(stack, namespace, addresses):
    """What ``ip netns exec`` shows as /etc/hosts there."""
    folder = Path("/etc/netns") / namespace
    stack.callback(shutil.rmtree, folder)
    folder.mkdir(parents=True)
    lines = [f"{address} {name}" for address, name in {"127.0.0.1": "localhost", **addresses}.items()]
    (folder / "hosts").write_text("\n".join(lines) + "\n")


def _run(*words):
    subprocess.run(words, check=True, capture_output=True, text=True)
