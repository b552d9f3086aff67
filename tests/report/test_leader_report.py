import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lsgd_mpi
from lsgd_mpi.errors import RunDirectoryError
from lsgd_mpi.records import LEADERS_COLUMNS
from lsgd_mpi.report.leaders import (
    LeaderRow,
    RankShare,
    Reign,
    leader_statistics,
    read_groups,
    read_leaders,
    reigns,
)

SOURCE = Path(lsgd_mpi.__file__).parents[1]
HEADER = ",".join(LEADERS_COLUMNS) + "\n"
FIRST = "0,local,0,16,64,1.5,2,0.25,,0\n"

WRITER = """if True:
    import itertools, os, sys
    from pathlib import Path
    from lsgd_mpi.records import RunRecords, claim_run_directory
    run_dir = Path(sys.argv[1])
    claim_run_directory(run_dir)
    with RunRecords(run_dir, 0) as records:
        previous = None
        for number in itertools.count():
            leader = number // 3 % 4
            records.leader(round=number, scope="local", group=0, step=number, total_steps=4 * number,
                           elapsed_s=number / 7, leader_world_rank=leader, leader_loss=1 / (1 + number),
                           previous_leader_world_rank=previous,
                           switched=previous is not None and previous != leader)
            previous = leader
            os.write(1, b".")
"""


def rows_of(leaders, scope="local", group=0, rounds=None):
    found, previous = [], None
    for number, leader in zip(rounds or range(len(leaders)), leaders, strict=True):
        switched = previous is not None and previous != leader
        found.append(LeaderRow(number, scope, group, number, number, 0.0, leader, 0.5, previous, switched))
        previous = leader
    return found


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "leaders.csv").write_text(HEADER)
    return tmp_path


def add(run_dir, text):
    with (run_dir / "leaders.csv").open("a") as file:
        file.write(text)


@pytest.fixture
def writing(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "run")], env=environment, stdout=subprocess.PIPE
    )
    process.run_dir = tmp_path / "run"
    assert process.stdout.read(1) == b"."
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


class TestReading:
    def test_gives_every_cell_its_type(self, run_dir):
        add(run_dir, FIRST + "1,local,0,32,128,3.25,1,0.125,2,1\n" + "1,global,,32,128,3.5,1,0.125,,0\n")
        assert read_leaders(run_dir) == [
            LeaderRow(0, "local", 0, 16, 64, 1.5, 2, 0.25, None, False),
            LeaderRow(1, "local", 0, 32, 128, 3.25, 1, 0.125, 2, True),
            LeaderRow(1, "global", None, 32, 128, 3.5, 1, 0.125, None, False),
        ]

    @pytest.mark.parametrize("cut", range(len(FIRST)))
    def test_leaves_out_a_last_line_wherever_it_is_cut(self, run_dir, cut):
        add(run_dir, FIRST + FIRST.replace("0", "1", 1)[:cut])
        assert len(read_leaders(run_dir)) == 1

    @pytest.mark.parametrize("content", ["", HEADER[:20], HEADER])
    def test_a_log_that_just_begins_has_no_rounds(self, run_dir, content):
        (run_dir / "leaders.csv").write_text(content)
        assert read_leaders(run_dir) == []

    def test_a_killed_run_leaves_every_whole_row(self, writing):
        acknowledged = 1 + len(writing.stdout.read(3000))
        writing.send_signal(signal.SIGKILL)
        writing.wait()
        acknowledged += len(writing.stdout.read())
        content = (writing.run_dir / "leaders.csv").read_bytes()
        assert content.endswith(b"\n")
        assert {line.count(b",") for line in content.splitlines()} == {len(LEADERS_COLUMNS) - 1}
        rows = read_leaders(writing.run_dir)
        # The kill may fall between a row and its acknowledgement, but a row is never lost.
        assert len(rows) in (acknowledged, acknowledged + 1)
        assert len(rows) == len(content.splitlines()) - 1
        assert [row.leader_loss for row in rows] == [1 / (1 + number) for number in range(len(rows))]

    def test_reads_while_it_is_written(self, writing):
        lengths = []
        end = time.monotonic() + 20
        while len(lengths) < 20 and time.monotonic() < end:
            lengths.append(len(read_leaders(writing.run_dir)))
            writing.stdout.read(50)
        assert lengths == sorted(lengths)
        assert lengths[-1] >= lengths[0] + 19 * 50 - 50
        assert writing.poll() is None


class TestRefusing:
    def refuse(self, run_dir, words):
        with pytest.raises(RunDirectoryError, match=words) as caught:
            read_leaders(run_dir)
        assert "\n" not in str(caught.value)

    def test_a_missing_directory(self, tmp_path):
        self.refuse(tmp_path / "nowhere", "there is no run directory .*nowhere")

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "file").write_text("")
        self.refuse(tmp_path / "file", "there is no run directory")

    def test_a_directory_without_leader_log(self, tmp_path):
        self.refuse(tmp_path, r"not a run directory: it has no leaders\.csv")

    def test_a_log_that_cannot_be_read(self, tmp_path):
        (tmp_path / "leaders.csv").mkdir()
        self.refuse(tmp_path, "cannot read")

    @pytest.mark.parametrize("header", ["step,epoch\n", HEADER.replace("round", "turn"), "\n", "\x00\n"])
    def test_another_header(self, run_dir, header):
        (run_dir / "leaders.csv").write_text(header + FIRST)
        self.refuse(run_dir, "does not begin with the columns")

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("", "1 cells, not 10"),
            ("1,local,0,16,64,1.5,2,0.25,2", "9 cells"),
            ("1,local,0,16,64,1.5,2,0.25,2,0,9", "11 cells"),
            ("x,local,0,16,64,1.5,2,0.25,2,0", "round is a whole number, not 'x'"),
            ("1,local,0,16,64,1.5,-2,0.25,2,0", "leader_world_rank is a whole number"),
            ("1,local,0,16,64,1.5,,0.25,2,0", "leader_world_rank is a whole number"),
            ("1,local,0,16,64,later,2,0.25,2,0", "elapsed_s is a number"),
            ("1,local,0,16,64,1.5,2,nan,2,0", "leader_loss is finite"),
            ("1,middle,0,16,64,1.5,2,0.25,2,0", "scope is local or global"),
            ("1,local,,16,64,1.5,2,0.25,2,0", "a local round has a group"),
            ("1,global,0,16,64,1.5,2,0.25,2,0", "a global round has none"),
            ("1,local,0,16,64,1.5,2,0.25,2,2", "switched is 0 or 1"),
            ("1,local,0,16,64,1.5,2,0.25,2,1", "switched contradicts"),
            ("1,local,0,16,64,1.5,2,0.25,1,0", "switched contradicts"),
            ("1,local,0,16,64,1.5,2,0.25,,1", "switched contradicts"),
            ("0,local,0,16,64,1.5,2,0.25,2,0", "for the second time"),
            ("\N{SUPERSCRIPT TWO},local,0,16,64,1.5,2,0.25,2,0", "round is a whole number"),
        ],
    )
    def test_a_broken_line_by_its_number(self, run_dir, line, words):
        add(run_dir, FIRST + line + "\n" + "7,local,0,16,64,1.5,2,0.25,2,0\n")
        self.refuse(run_dir, f"line 3, is broken: .*{words}")

    def test_bytes_that_are_no_text_by_their_line(self, run_dir):
        with (run_dir / "leaders.csv").open("ab") as file:
            file.write(FIRST.encode() + b"\xff\xfe" + FIRST.encode())
        self.refuse(run_dir, "line 3, is broken")


class TestGroups:
    def test_come_from_the_environment(self, tmp_path):
        (tmp_path / "environment.json").write_text('{"groups": [[0, 2], [1]], "seed": 1}')
        assert read_groups(tmp_path) == ((0, 2), (1,))

    @pytest.mark.parametrize("content", [None, "{}", '{"groups": null}', "[]"])
    def test_may_be_unknown(self, tmp_path, content):
        if content is not None:
            (tmp_path / "environment.json").write_text(content)
        assert read_groups(tmp_path) is None

    @pytest.mark.parametrize("groups", ["3", "[0, 1]", '[["0"]]', "[[-1]]", "[[true]]", "[[0.0]]"])
    def test_of_another_shape_are_refused(self, tmp_path, groups):
        (tmp_path / "environment.json").write_text(f'{{"groups": {groups}}}')
        with pytest.raises(RunDirectoryError, match="not lists of world ranks"):
            read_groups(tmp_path)

    def test_of_a_broken_file_are_refused(self, tmp_path):
        (tmp_path / "environment.json").write_text('{"groups": [[')
        with pytest.raises(RunDirectoryError, match="not JSON"):
            read_groups(tmp_path)


class TestStatistics:
    def test_by_hand(self):
        (found,) = leader_statistics(rows_of([2, 2, 0, 2, 2, 2, 3, 3]), last=3)
        assert (found.scope, found.group, found.rounds) == ("local", 0, 8)
        assert found.ranks == (RankShare(0, 1, 12.5), RankShare(2, 5, 62.5), RankShare(3, 2, 25.0))
        assert found.switches == 3
        assert found.longest_reign == Reign(leader_world_rank=2, first_round=3, last_round=5, rounds=3)
        assert found.mean_reign_rounds == 2.0
        assert found.last_leaders == (2, 3, 3)

    def test_one_round_is_one_reign(self):
        (found,) = leader_statistics(rows_of([1]))
        assert (found.switches, found.mean_reign_rounds) == (0, 1.0)
        assert found.longest_reign == Reign(1, 0, 0, 1)
        assert found.ranks == (RankShare(1, 1, 100.0),)

    def test_of_no_rounds_are_none(self):
        assert leader_statistics([], groups=((0, 1),)) == []

    def test_of_equal_reigns_the_first_is_the_longest(self):
        (found,) = leader_statistics(rows_of([0, 0, 1, 1]))
        assert found.longest_reign == Reign(0, 0, 1, 2)

    def test_a_reign_goes_on_where_the_numbers_of_its_rounds_leap(self):
        # Global rounds may carry the number of the local round that they fall together with.
        assert reigns(rows_of([1, 1, 0, 1], "global", None, rounds=[3, 7, 11, 15])) == [
            Reign(1, 3, 7, 2),
            Reign(0, 11, 11, 1),
            Reign(1, 15, 15, 1),
        ]

    def test_groups_do_not_cut_each_others_reigns(self):
        zero, one = rows_of([0, 0, 1], group=0), rows_of([2, 3, 3], group=1)
        top = rows_of([0, 3], "global", None)
        mixed = [top[0], one[0], zero[0], one[1], zero[1], top[1], one[2], zero[2]]
        found = leader_statistics(mixed)
        assert [(each.scope, each.group) for each in found] == [("local", 0), ("local", 1), ("global", None)]
        assert [each.switches for each in found] == [1, 1, 1]
        assert [each.longest_reign.leader_world_rank for each in found] == [0, 3, 0]

    def test_groups_sort_as_numbers(self):
        rows = [row for group in (10, 9, 0) for row in rows_of([group], group=group)]
        assert [each.group for each in leader_statistics(rows)] == [0, 9, 10]

    def test_ranks_that_never_led_are_listed_where_they_belong(self):
        rows = rows_of([1, 1], group=0) + rows_of([3], group=1) + rows_of([3], "global", None)
        zero, one, top = leader_statistics(rows, groups=((0, 1), (2, 3)))
        assert zero.ranks == (RankShare(0, 0, 0.0), RankShare(1, 2, 100.0))
        assert one.ranks == (RankShare(2, 0, 0.0), RankShare(3, 1, 100.0))
        assert [(rank.world_rank, rank.rounds_led) for rank in top.ranks] == [(0, 0), (1, 0), (2, 0), (3, 1)]

    def test_follow_the_leaders_where_a_resumed_run_forgot_the_one_before(self, run_dir):
        add(run_dir, FIRST + "1,local,0,32,128,3.25,1,0.125,,0\n")
        (found,) = leader_statistics(read_leaders(run_dir))
        assert found.switches == 1

    @pytest.mark.parametrize(("last", "expected"), [(0, ()), (2, (1, 2)), (9, (0, 1, 2))])
    def test_list_as_many_last_leaders_as_asked(self, last, expected):
        (found,) = leader_statistics(rows_of([0, 1, 2]), last=last)
        assert found.last_leaders == expected

    def test_refuse_a_negative_number_of_leaders(self):
        with pytest.raises(ValueError, match="0 or more"):
            leader_statistics([], last=-1)

    def test_become_json_and_come_back(self):
        (found,) = leader_statistics(rows_of([0, 0, 1]), last=2)
        assert json.loads(json.dumps(found.as_dict())) == {
            "scope": "local",
            "group": 0,
            "rounds": 3,
            "ranks": [
                {"world_rank": 0, "rounds_led": 2, "share_pct": 200 / 3},
                {"world_rank": 1, "rounds_led": 1, "share_pct": 100 / 3},
            ],
            "switches": 1,
            "longest_reign": {"leader_world_rank": 0, "first_round": 0, "last_round": 1, "rounds": 2},
            "mean_reign_rounds": 1.5,
            "last_leaders": [0, 1],
        }
