"""The hosts of a job and their slots: read from a hostfile or from SLURM, written for any launcher."""

from lsgd_mpi.hosts.host import Host, is_ipv6
from lsgd_mpi.hosts.hostfile import (
    SYNTAXES,
    decode_hosts,
    fill_slots,
    format_hosts,
    parse_hosts,
    read_hosts,
)
from lsgd_mpi.hosts.slurm import hosts_of_slurm

__all__ = [
    "SYNTAXES",
    "Host",
    "decode_hosts",
    "fill_slots",
    "format_hosts",
    "hosts_of_slurm",
    "is_ipv6",
    "parse_hosts",
    "read_hosts",
]
