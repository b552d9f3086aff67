"""The commands that start ranks, and what is refused before one is made."""

import pytest

from lsgd_mpi.errors import SetupError, UsageError
from lsgd_mpi.hosts import Host
from lsgd_mpi.launch_command import (
    Invocation,
    Job,
    Machine,
    horovodrun_command,
    launcher_environment,
    mpirun_command,
    srun_command,
)

OPEN_MPI_5 = Machine("/mpi/bin/mpirun", "mpirun (Open MPI) 5.0.11", cores=8)
OPEN_MPI_4 = Machine("/usr/bin/mpirun", "mpirun (Open MPI) 4.1.4", cores=8)
MPICH = Machine("/usr/bin/mpirun", "HYDRA build details:", cores=8)
PROGRAM = ("python", "-m", "lsgd_mpi", "train")
TWO_HOSTS = (Host("node1", 4), Host("node2", 4))
YIELD = "--mca mpi_yield_when_idle 1"


def mpirun(job, machine=OPEN_MPI_5, **environment):
    return " ".join(mpirun_command(job, machine, environment))


def test_few_ranks_on_this_machine_need_few_flags():
    # OVERSUBSCRIBE always: with hyper-threads there are fewer cores than processors.
    assert mpirun(Job(PROGRAM, 4)) == (
        "/mpi/bin/mpirun -np 4 --bind-to none --map-by slot:OVERSUBSCRIBE python -m lsgd_mpi train"
    )


@pytest.mark.parametrize(("ranks", "yields"), [(7, False), (8, True), (9, True)])
def test_ranks_give_way_where_all_cores_are_busy(ranks, yields):
    assert (YIELD in mpirun(Job(PROGRAM, ranks))) == yields


def test_on_other_hosts_mpirun_is_told_where_and_what_to_take_along():
    line = mpirun(
        Job(PROGRAM, 8, TWO_HOSTS, map_by="node", interface="10.0.0.0/24", ssh_agent="agent"),
        PATH="/bin",
        HOME="/root",
        HOROVOD_CYCLE_TIME="1",
        OMPI_MCA_x="y",
    )
    assert line == (
        "/mpi/bin/mpirun -np 8 --host node1:4,node2:4 --bind-to none --map-by node "
        f"{YIELD} --mca btl_tcp_if_include 10.0.0.0/24 --prtemca prte_if_include 10.0.0.0/24 "
        "--prtemca plm_ssh_agent agent -x PATH -x HOROVOD_CYCLE_TIME python -m lsgd_mpi train"
    )


def test_open_mpi_4_has_other_names_for_the_parameters_of_its_daemons():
    line = mpirun(Job(PROGRAM, 2, TWO_HOSTS, interface="eth0", ssh_agent="agent"), OPEN_MPI_4)
    assert "--mca oob_tcp_if_include eth0 --mca plm_rsh_agent agent" in line
    assert "prte" not in line


def test_mpich_has_flags_of_its_own():
    job = Job(PROGRAM, 8, TWO_HOSTS, map_by="node", interface="eth0", extra=("-l",))
    assert mpirun(job, MPICH) == (
        "/usr/bin/mpirun -np 8 -hosts node1:4,node2:4 -ppn 1 -iface eth0 -l python -m lsgd_mpi train"
    )
    with pytest.raises(UsageError, match="--ssh-agent is for Open MPI"):
        mpirun(Job(PROGRAM, 1, TWO_HOSTS, ssh_agent="agent"), MPICH)


@pytest.mark.parametrize(
    ("hosts", "map_by", "ranks", "most"),
    [
        ((), "slot", 5, 5),
        (TWO_HOSTS, "slot", 5, 4),
        (TWO_HOSTS, "slot", 3, 3),
        (TWO_HOSTS, "node", 5, 3),
        ((Host("a", 1), Host("b", 6)), "node", 5, 5),
    ],
)
def test_the_most_ranks_on_a_host_are_known(hosts, map_by, ranks, most):
    assert Job(PROGRAM, ranks, hosts, map_by=map_by).most_on_a_host == most


def test_horovodrun_passes_the_same_flags_on():
    job = Job(PROGRAM, 8, TWO_HOSTS, interface="eth0", extra=("--report-bindings",))
    *command, binding, more, python, dash_m, package, train = horovodrun_command(
        job, OPEN_MPI_5, "horovodrun"
    )
    assert " ".join(command) == "horovodrun -np 8 --mpi -H node1:4,node2:4 --network-interfaces eth0"
    assert binding.startswith("--binding-args=--bind-to none --map-by slot")
    assert more == "--mpi-args=--report-bindings"
    assert (python, dash_m, package, train) == PROGRAM
    with pytest.raises(UsageError, match="takes names such as eth0"):
        horovodrun_command(Job(PROGRAM, 8, TWO_HOSTS, interface="10.0.0.0/8"), OPEN_MPI_5, "horovodrun")


def test_srun_has_pmix_and_the_cores_of_a_task():
    words = srun_command(Job(PROGRAM, 8, map_by="node"), "srun", {"SLURM_CPUS_PER_TASK": "6"})
    assert " ".join(words) == (
        "srun --mpi=pmix --ntasks=8 --cpus-per-task=6 --distribution=cyclic --kill-on-bad-exit=1 "
        "python -m lsgd_mpi train"
    )


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"hosts": TWO_HOSTS}, "--hostfile"),
        ({"interface": "eth0"}, "--interface"),
        ({"ssh_agent": "x"}, "--ssh-agent"),
    ],
)
def test_srun_leaves_hosts_and_network_to_the_allocation(given, flag):
    with pytest.raises(UsageError, match=flag):
        srun_command(Job(PROGRAM, 2, **given), "srun", {})


def test_more_ranks_than_slots_are_an_error_that_counts_them():
    with pytest.raises(SetupError, match=r"-np 9: the hosts have 8 slots \(node1:4,node2:4\)"):
        Job(PROGRAM, 9, TWO_HOSTS)
    with pytest.raises(UsageError, match="at least one rank"):
        Job(PROGRAM, 0)


def test_root_is_said_to_open_mpi_alone():
    root = Machine("mpirun", OPEN_MPI_5.mpirun_version, cores=2, is_root=True)
    assert set(launcher_environment(root).values()) == {"1"}
    assert launcher_environment(OPEN_MPI_5) == {}
    assert launcher_environment(Machine("mpirun", "HYDRA build details:", 2, is_root=True)) == {}


def test_the_line_can_be_pasted_into_a_shell():
    words = ("mpirun", "--groups", "0-1;2")
    assert Invocation(words, {"A": "b c"}).shell_line() == "A='b c' mpirun --groups '0-1;2'"
    all_of_it = Invocation(words, {"A": "1"}, path="/mpi bin", without="B")
    assert all_of_it.shell_line() == "env -u B PATH='/mpi bin':\"$PATH\" A=1 mpirun --groups '0-1;2'"
    present = {"A": "0", "B": "2", "C": "3", "PATH": "/bin"}
    assert all_of_it.environment(present) == {"A": "1", "C": "3", "PATH": "/mpi bin:/bin"}


def test_each_host_has_gpus_of_its_own():
    line = mpirun(Job(PROGRAM, 8, TWO_HOSTS), CUDA_VISIBLE_DEVICES="0,1", NCCL_DEBUG="INFO")
    assert "-x NCCL_DEBUG" in line
    assert "CUDA_VISIBLE_DEVICES" not in line


def test_what_a_list_of_hosts_cannot_say_is_refused():
    with pytest.raises(SetupError, match="has no place for IPv6 addresses: use the host's name"):
        Job(PROGRAM, 2, (Host("fd00::1", 2),))


def test_horovodrun_reaches_hosts_by_ssh_alone():
    with pytest.raises(UsageError, match="--ssh-agent is for mpirun"):
        horovodrun_command(Job(PROGRAM, 1, TWO_HOSTS, ssh_agent="agent"), OPEN_MPI_5, "horovodrun")
