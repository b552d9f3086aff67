"""Hostfiles of every launcher, and SLURM's variables."""

import itertools

import launching
import pytest
from horovod.runner.common.util import hosts as horovodrun

from lsgd_mpi.errors import SetupError, UsageError
from lsgd_mpi.hosts import SYNTAXES, Host, fill_slots, format_hosts, hosts_of_slurm, parse_hosts, read_hosts

EXAMPLES = sorted(path for path in (launching.ROOT / "hostfiles").iterdir() if path.suffix != ".md")
TWO_NODES = (Host("node1", 4), Host("node2", 4))

#: What each launcher can say: several names, one with a domain, one address.
HOSTS = (Host("node-1.cluster", 4), Host("10.0.0.2", 16), Host("gpu_a", 1))


def refusal(text, syntax=None):
    with pytest.raises(SetupError) as refused:
        parse_hosts(text, syntax, "hosts.txt")
    assert "\n" not in str(refused.value)
    return str(refused.value)


class TestExamples:
    def test_there_is_one_for_each_launcher(self):
        assert [path.name for path in EXAMPLES] == ["horovodrun", "mpich", "openmpi"]

    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
    def test_each_is_read_by_its_name_and_by_its_lines(self, path):
        assert read_hosts(path, path.name) == TWO_NODES
        assert read_hosts(path) == TWO_NODES

    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
    def test_each_ends_its_last_line_as_open_mpi_needs_it(self, path):
        assert path.read_text(encoding="utf-8").endswith("\n")

    def test_horovodrun_itself_reads_its_own(self):
        hosts = horovodrun.parse_host_files(str(launching.ROOT / "hostfiles" / "horovodrun"))
        assert hosts == "node1:4,node2:4"


class TestOpenMpi:
    @pytest.mark.parametrize(
        ("line", "host"),
        [
            ("node1 slots=4", Host("node1", 4)),
            ("node1 slots=4 max_slots=8  # of the left rack", Host("node1", 4)),
            ("  node1\tslots = 4   max-slots= 4", Host("node1", 4)),
            ("node1 max_slots=8 slots=4", Host("node1", 4)),
            ("node1#slots=4", Host("node1", None)),
            ("node1", Host("node1", None)),
            # As Open MPI itself has it.
            ("node1 max_slots=8", Host("node1", 8)),
            ("192.168.0.17 slots=2", Host("192.168.0.17", 2)),
            ("fd00::17 slots=2", Host("fd00::17", 2)),
            ("fd00::17", Host("fd00::17", None)),
            ("17 slots=2", Host("17", 2)),
        ],
    )
    def test_a_line(self, line, host):
        assert parse_hosts(f"# hosts\n\n{line}\n", "openmpi") == (host,)
        assert parse_hosts(line) == (host,)

    def test_a_name_alone_counts_its_lines_once_it_stands_twice(self):
        text = "node2\nnode1\nnode2\nnode1\nnode2\nnode3\n"
        assert parse_hosts(text) == (Host("node2", 3), Host("node1", 2), Host("node3", None))

    def test_windows_line_ends_and_a_byte_order_mark_are_no_matter(self, tmp_path):
        path = tmp_path / "hosts"
        path.write_bytes(b"\xef\xbb\xbfnode1 slots=4\r\n\r\nnode2 slots=4\r\n")
        assert read_hosts(path) == TWO_NODES

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("node2 slots=0", ["'node2' has 0 slots", "1 or more"]),
            ("node2 slots=-1", ["'-1' is no number of slots"]),
            ("node2 slots=four", ["'four' is no number of slots"]),
            ("node2 slots=", ["'' is no number of slots"]),
            ("node2 slots=1.5", ["'1.5'"]),
            ("node2 slots=٤", ["'٤'"]),
            ("node2 slots=" + "9" * 10_000, ["is no number of slots", "999999999"]),
            ("node2 slots=4 slots=5", ["'slots=' stands there twice"]),
            ("node2 slots=4 max_slots=8 max-slots=8", ["'max_slots=' stands there twice"]),
            ("node2 slots=4 max_slots=2", ["max_slots=2 is less than slots=4"]),
            ("node2 max_slots=x", ["'x' is no number of slots"]),
            ("node2 slots", ["cannot read 'slots'", "'node1 slots=4'"]),
            ("node2 4", ["cannot read '4'"]),
            ("node2 =4", ["cannot read '=4'"]),
            ("node2 node3", ["cannot read 'node3'"]),
            ("node2 slots+=4", ["'slots+=' is not read", "'slots='"]),
            ("node2 port=22", ["'port=' is not read"]),
            ("user@node2 slots=4", ["'user@node2'", "~/.ssh/config"]),
            ("^node2", ["'^node2'", "excluded"]),
            ("+n2 slots=4", ["'+n2'", "relative"]),
            ("+e:1", ["relative"]),
            ("10.0.0.256", ["'10.0.0.256' is no IPv4 address"]),
            ("10.0.0", ["'10.0.0' is no IPv4 address"]),
            ("nöde", ["'nöde' is no host name"]),
            ("-H slots=4", ["'-H' is no host name"]),
            ("node1..cluster slots=2", ["is no host name", "1 to 63"]),
            (f"{'n' * 64}.cluster", ["is no host name"]),
            ("node2\0 slots=4", ["is no host name"]),
            ("n" * 10_000 + "!", ["is no host name"]),
        ],
    )
    def test_a_broken_line_is_named(self, line, words):
        sentence = refusal(f"node1 slots=4\n# two\n\n{line}\nnode5 slots=4\n", "openmpi")
        assert sentence.startswith("hosts.txt, line 4: ")
        assert len(sentence) < 250
        for word in words:
            assert word in sentence

    def test_relative_nodes_are_not_taken_for_mpichs(self):
        assert "line 2: '+e:1': relative nodes" in refusal("node1\n+e:1\n")

    def test_mpichs_way_is_told(self):
        sentence = refusal("node1:4\n", "openmpi")
        assert "line 1: 'node1:4' is written for mpich" in sentence
        assert "--from mpich" in sentence

    @pytest.mark.parametrize("second", ["slots=4", "", "slots=2"])
    def test_a_host_with_slots_stands_once(self, second):
        for text in (f"a slots=4\nb\na {second}\n", f"a {second}\nb\na slots=4\n"):
            sentence = refusal(text)
            assert "hosts.txt, line 3: 'a' is named in line 1 too" in sentence


class TestMpich:
    def test_a_name_alone_is_one_slot(self):
        text = "# hosts\n\nnode1:4   # four\n node2\nnode3:1\n10.0.0.1:2\n"
        hosts = (Host("node1", 4), Host("node2", 1), Host("node3", 1), Host("10.0.0.1", 2))
        assert parse_hosts(text, "mpich") == hosts
        assert parse_hosts(text) == hosts

    def test_a_file_of_pbs_is_one_slot_a_line(self):
        assert parse_hosts("node1\nnode1\nnode2\n", "mpich") == (Host("node1", 2), Host("node2", 1))

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("node2:", ["'' is no number of slots"]),
            ("node2:0", ["0 slots"]),
            ("node2:4:2", ["'4:2' is no number of slots"]),
            (":4", ["'' is no host name"]),
            ("node2 : 4", ["cannot read ': 4'"]),
            ("node2:4 binding=user:0,1", ["'binding=user:0,1'", "not read", "'node1:4'"]),
            ("node2:4 user=me", ["'user=me'", "not read"]),
            ("node2 slots=4", ["cannot read 'slots=4'"]),
            ("fd00::17", ["only Open MPI reads IPv6"]),
            ("node1:4", ["'node1' is named in line 1 too"]),
            ("node1", ["'node1' is named in line 1 too"]),
        ],
    )
    def test_a_broken_line_is_named(self, line, words):
        sentence = refusal(f"node1:4\n\n{line}\n", "mpich")
        assert sentence.startswith("hosts.txt, line 3: ")
        for word in words:
            assert word in sentence


class TestHorovodrun:
    def test_a_line(self):
        assert parse_hosts("node1 slots=4\nnode2  slots=4  \n", "horovodrun") == TWO_NODES
        assert parse_hosts("node1 slots=4\nnode2 slots=4", "horovodrun") == TWO_NODES

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("", ["blank line"]),
            ("# two", ["no comments"]),
            ("node2 slots=4 # two", ["no comments"]),
            ("node2", ["cannot read 'node2'", "'node1 slots=4'"]),
            ("node2 slots = 4", ["cannot read 'node2 slots = 4'"]),
            ("node2 slots=4 max_slots=8", ["cannot read"]),
            ("node2:4", ["cannot read 'node2:4'"]),
            ("node2 slots=", ["cannot read"]),
            ("node2 slots=four", ["'four' is no number"]),
            ("fd00::17 slots=4", ["only Open MPI reads IPv6"]),
        ],
    )
    def test_what_horovodrun_refuses_is_refused_with_its_line(self, line, words, tmp_path):
        text = f"node1 slots=4\n{line}\nnode3 slots=4\n"
        sentence = refusal(text, "horovodrun")
        assert sentence.startswith("hosts.txt, line 2: ")
        for word in words:
            assert word in sentence
        path = tmp_path / "hosts.txt"
        path.write_text(text, encoding="utf-8")
        if line == "node2 slots=4 # two":
            # horovodrun takes this for '4 # two' slots.
            assert "#" in horovodrun.parse_host_files(str(path))
        with pytest.raises((IndexError, ValueError)):
            horovodrun.parse_hosts_and_slots(horovodrun.parse_host_files(str(path)))

    def test_a_blank_line_at_the_end_is_one_too(self):
        assert "line 2: horovodrun fails on a blank line" in refusal("a slots=1\n\n", "horovodrun")

    def test_a_host_stands_once(self):
        assert "line 2: 'a' is named in line 1 too" in refusal("a slots=1\na slots=1\n", "horovodrun")


class TestList:
    @pytest.mark.parametrize("syntax", ["list", None])
    def test_one_line(self, syntax):
        assert parse_hosts("node1:4,node2:4", syntax) == TWO_NODES
        assert parse_hosts("# both\nnode1:4, node2:4\n", syntax) == TWO_NODES
        assert parse_hosts("a,b:2,a,c", syntax) == (Host("a", 2), Host("b", 2), Host("c", 1))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("a:1,,b:1", ["line 1", "a comma too many"]),
            ("a:1,b:1,", ["line 1", "a comma too many"]),
            ("a:1,b:x", ["line 1", "'x' is no number"]),
            ("a:1,a:1", ["line 1", "'a' is named twice"]),
            ("a:1,fd00::17", ["line 1", "IPv6"]),
            ("a:1,b:1\nc:1,d:1", ["line 2", "one line"]),
        ],
    )
    def test_what_is_no_list(self, text, words):
        for word in words:
            assert word in refusal(text, "list")
            assert word in refusal(text)


class TestTold:
    def test_names_alone_go_with_any_syntax(self):
        assert parse_hosts("a\nb:4\n") == (Host("a", 1), Host("b", 4))
        assert parse_hosts("a\nb slots=4\n") == (Host("a", None), Host("b", 4))

    @pytest.mark.parametrize(
        ("text", "told", "before"),
        [
            ("a slots=1\nx\nb:4\n", "mpich", "openmpi"),
            ("a:1\nx\nb slots=4\n", "openmpi", "mpich"),
            ("a:1\nx\nb:1,c:1\n", "list", "mpich"),
            ("a:1\nx\nfd00::1\n", "openmpi", "mpich"),
        ],
    )
    def test_a_mixture_names_both_lines(self, text, told, before):
        sentence = refusal(text)
        assert sentence.startswith("hosts.txt, line 3: ")
        assert f"is written for {told}, but line 1 for {before}" in sentence

    @pytest.mark.parametrize("syntax", [None, *SYNTAXES])
    @pytest.mark.parametrize("text", ["", "\n", "  \n\n"])
    def test_a_file_without_hosts(self, text, syntax):
        assert "hosts.txt names no host" in refusal(text, syntax)

    def test_comments_alone_are_no_hosts(self):
        assert "names no host" in refusal("# nobody\n")

    def test_an_unknown_syntax(self):
        for ask in (lambda: parse_hosts("a", "openmp"), lambda: format_hosts(TWO_NODES, "openmp")):
            with pytest.raises(UsageError, match="unknown syntax 'openmp': did you mean openmpi"):
                ask()


class TestFiles:
    def test_a_missing_one(self, tmp_path):
        with pytest.raises(SetupError, match=r"cannot read the hostfile .*nowhere: No such file"):
            read_hosts(tmp_path / "nowhere")

    def test_a_folder(self, tmp_path):
        with pytest.raises(SetupError, match=r"cannot read the hostfile .*: Is a directory"):
            read_hosts(tmp_path)

    def test_no_text(self, tmp_path):
        path = tmp_path / "hosts"
        path.write_bytes(b"node1\nnode2\xff\n")
        with pytest.raises(SetupError, match=r"hosts, line 2: .*UTF-8"):
            read_hosts(path)

    def test_one_without_end(self):
        with pytest.raises(SetupError, match="/dev/zero is no hostfile: it has more than 16 MiB"):
            read_hosts("/dev/zero")


class TestWriting:
    @pytest.mark.parametrize(("first", "second"), list(itertools.product(SYNTAXES, repeat=2)))
    def test_each_syntax_survives_each_other(self, first, second):
        text = format_hosts(HOSTS, first)
        through = format_hosts(parse_hosts(text, first), second)
        assert parse_hosts(through, second) == HOSTS
        assert parse_hosts(through) == HOSTS
        assert format_hosts(parse_hosts(through), first) == text

    def test_as_it_stands(self):
        assert format_hosts(TWO_NODES, "openmpi") == "node1 slots=4\nnode2 slots=4\n"
        assert format_hosts(TWO_NODES, "mpich") == "node1:4\nnode2:4\n"
        assert format_hosts(TWO_NODES, "horovodrun") == "node1 slots=4\nnode2 slots=4\n"
        assert format_hosts(TWO_NODES, "list") == "node1:4,node2:4\n"

    def test_horovodrun_itself_reads_it(self, tmp_path):
        path = tmp_path / "hosts"
        path.write_text(format_hosts(HOSTS, "horovodrun"), encoding="utf-8")
        names = [host.name for host in HOSTS]
        slots = {host.name: host.slots for host in HOSTS}
        assert horovodrun.parse_hosts_and_slots(horovodrun.parse_host_files(str(path))) == (names, slots)
        assert horovodrun.parse_hosts_and_slots(format_hosts(HOSTS, "list")) == (names, slots)

    def test_open_mpi_needs_no_slots_and_the_others_say_who_lacks_them(self):
        hosts = (Host("node1", 4), Host("node2", None), Host("node3", None))
        assert format_hosts(hosts, "openmpi") == "node1 slots=4\nnode2\nnode3\n"
        assert parse_hosts(format_hosts(hosts, "openmpi")) == hosts
        for syntax in ("mpich", "horovodrun", "list"):
            with pytest.raises(
                UsageError, match=f"'node2' and 1 more have no .* {syntax} needs: add --slots N"
            ):
                format_hosts(hosts, syntax)
            assert "node1" in format_hosts(fill_slots(hosts, 2), syntax)
        assert fill_slots(hosts, 2) == (Host("node1", 4), Host("node2", 2), Host("node3", 2))

    def test_ipv6_is_for_open_mpi_alone(self):
        hosts = (Host("fd00::17", 4),)
        assert parse_hosts(format_hosts(hosts, "openmpi")) == hosts
        for syntax in ("mpich", "horovodrun", "list"):
            with pytest.raises(UsageError, match=f"'fd00::17' cannot be written for {syntax}.*IPv6"):
                format_hosts(hosts, syntax)

    @pytest.mark.parametrize(
        ("name", "slots"), [("a", 0), ("a", -1), ("a b", 1), ("", 1), ("a,b", 1), ("a:1", 1)]
    )
    def test_a_host_checks_itself(self, name, slots):
        with pytest.raises(SetupError):
            Host(name, slots)


def slurm(**variables):
    """The allocation with ``SLURM_`` put before each name."""
    return hosts_of_slurm({"HOME": "/", **{f"SLURM_{name}": value for name, value in variables.items()}})


class TestSlurm:
    @pytest.mark.parametrize(
        ("nodes", "names"),
        [
            ("node1", ["node1"]),
            ("node1,login", ["node1", "login"]),
            (
                "node[01-03,07],gpu-a[1-2]b",
                ["node01", "node02", "node03", "node07", "gpu-a1b", "gpu-a2b"],
            ),
            ("n[8-11]", ["n8", "n9", "n10", "n11"]),
            ("n[008-011]", ["n008", "n009", "n010", "n011"]),
            ("n[99-100]", ["n99", "n100"]),
            ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
            ("r[1-2]n[1,3].lan,x", ["r1n1.lan", "r1n3.lan", "r2n1.lan", "r2n3.lan", "x"]),
            ("[1-2]a", ["1a", "2a"]),
        ],
    )
    def test_nodes_are_expanded_in_order(self, nodes, names):
        assert [host.name for host in slurm(JOB_NODELIST=nodes)] == names
        assert [host.slots for host in slurm(NODELIST=nodes)] == [None] * len(names)

    @pytest.mark.parametrize(
        ("variables", "slots"),
        [
            ({"TASKS_PER_NODE": "4(x2),3"}, [4, 4, 3]),
            ({"TASKS_PER_NODE": "1,2,3"}, [1, 2, 3]),
            ({"TASKS_PER_NODE": "2(x3)", "NTASKS_PER_NODE": "5", "JOB_CPUS_PER_NODE": "8(x3)"}, [2, 2, 2]),
            ({"NTASKS_PER_NODE": "5", "JOB_CPUS_PER_NODE": "8(x3)"}, [5, 5, 5]),
            ({"JOB_CPUS_PER_NODE": "8(x2),7", "CPUS_PER_TASK": "2"}, [4, 4, 3]),
            ({"JOB_CPUS_PER_NODE": "8(x2),7"}, [8, 8, 7]),
            ({"TASKS_PER_NODE": "", "CPUS_PER_TASK": "2"}, [None, None, None]),
        ],
    )
    def test_slots_are_tasks_or_what_the_cpus_are_enough_for(self, variables, slots):
        hosts = slurm(JOB_NODELIST="n[1-3]", **variables)
        assert hosts == tuple(Host(f"n{index}", number) for index, number in enumerate(slots, start=1))

    @pytest.mark.parametrize(
        "nodes",
        [
            "n[1-3",
            "n1-3]",
            "n[]",
            "n[3-1]",
            "n[1-2-3]",
            "n[1,]",
            "n[a-c]",
            "n1,,n2",
            ",n1",
            "n1 n2",
            "n[[1]]",
            "n[1-99999999]",
            "n[1-400]m[1-400]",
            "n[1-99999999999999999999]",
            "n1,n[1-2]",
            "n!",
            "(null)",
        ],
    )
    def test_a_broken_list_is_named(self, nodes):
        with pytest.raises(SetupError, match="SLURM_JOB_NODELIST=") as refused:
            slurm(JOB_NODELIST=nodes)
        assert repr(nodes) in str(refused.value)

    @pytest.mark.parametrize(
        ("variables", "words"),
        [
            (
                {"TASKS_PER_NODE": "4"},
                ["SLURM_TASKS_PER_NODE='4' tells of 1 node(s)", "of 3", "outside srun"],
            ),
            ({"TASKS_PER_NODE": "4(x999999999)"}, ["tells of 999999999 node(s)"]),
            ({"TASKS_PER_NODE": "4(x2),x"}, ["cannot read SLURM_TASKS_PER_NODE='4(x2),x'"]),
            ({"TASKS_PER_NODE": "0(x3)"}, ["cannot read SLURM_TASKS_PER_NODE='0(x3)'"]),
            ({"NTASKS_PER_NODE": "four"}, ["cannot read SLURM_NTASKS_PER_NODE='four'"]),
            ({"NTASKS_PER_NODE": "0"}, ["cannot read SLURM_NTASKS_PER_NODE='0'"]),
            (
                {"JOB_CPUS_PER_NODE": "8,1,8", "CPUS_PER_TASK": "2"},
                ["SLURM_CPUS_PER_TASK=2", "'n2' has 1 CPUs"],
            ),
            ({"JOB_CPUS_PER_NODE": "8(x3)", "CPUS_PER_TASK": "0"}, ["cannot read SLURM_CPUS_PER_TASK='0'"]),
        ],
    )
    def test_broken_numbers_are_named(self, variables, words):
        with pytest.raises(SetupError) as refused:
            slurm(JOB_NODELIST="n[1-3]", **variables)
        for word in words:
            assert word in str(refused.value)

    @pytest.mark.parametrize("variables", [{}, {"JOB_NODELIST": ""}])
    def test_without_an_allocation_it_says_what_to_do(self, variables):
        with pytest.raises(SetupError, match=r"give a FILE .* or run this in an allocation of SLURM"):
            slurm(**variables)
