import csv
import logging
import math
import os
import re
import struct
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

import lsgd_mpi
from lsgd_mpi.errors import RunDirectoryError
from lsgd_mpi.records import (
    LEADERS_COLUMNS,
    METRICS_COLUMNS,
    RANK_COLUMNS,
    ROUND_COLUMNS,
    CsvTable,
    RankLog,
    RunRecords,
    claim_run_directory,
    default_run_dir,
)

SOURCE = Path(lsgd_mpi.__file__).parents[1]


def start(code, *arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, **options)


def finish(code, *arguments):
    process = start(code, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def full(columns, **values):
    return {**dict.fromkeys(columns, 0), **values}


class TestDefaultRunDir:
    def test_carries_the_names_and_the_time_in_utc(self):
        now = datetime(2030, 1, 31, 23, 30, 5, tzinfo=timezone(timedelta(hours=-2)))
        assert default_run_dir("lsgd", "cnn7", "cifar10", now) == Path(
            "runs/lsgd-cnn7-cifar10-20300201T013005Z"
        )

    def test_stays_one_folder_whatever_the_names(self):
        now = datetime(2030, 1, 31, tzinfo=timezone.utc)
        assert default_run_dir("lsgd", "../net", "/data/x y", now).parent == Path("runs")

    def test_refuses_a_time_without_zone(self):
        with pytest.raises(ValueError, match="time zone"):
            default_run_dir("lsgd", "cnn7", "cifar10", datetime(2030, 1, 31))


class TestClaim:
    def test_makes_parents_and_ranks_and_nothing_else(self, tmp_path):
        claim_run_directory(tmp_path / "a" / "b")
        assert everything_below(tmp_path) == ["a", "a/b", "a/b/ranks"]

    def test_takes_an_empty_directory(self, tmp_path):
        claim_run_directory(tmp_path)
        assert everything_below(tmp_path) == ["ranks"]

    def test_takes_a_relative_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        claim_run_directory(Path("runs/one"))
        assert everything_below(tmp_path) == ["runs", "runs/one", "runs/one/ranks"]

    def refuse(self, path, words):
        with pytest.raises(RunDirectoryError, match=words) as caught:
            claim_run_directory(path)
        message = str(caught.value)
        assert "--run-dir" in message
        assert "\n" not in message

    def test_refuses_a_directory_that_holds_something(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        self.refuse(tmp_path, "not empty")
        assert everything_below(tmp_path) == ["notes.txt"]

    def test_refuses_to_be_claimed_twice(self, tmp_path):
        claim_run_directory(tmp_path / "run")
        self.refuse(tmp_path / "run", "not empty")
        assert everything_below(tmp_path) == ["run", "run/ranks"]

    def test_refuses_a_file(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        self.refuse(tmp_path / "file", "file is in the way")
        assert (tmp_path / "file").read_text() == "mine"

    def test_refuses_a_place_below_a_file(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        self.refuse(tmp_path / "file" / "a" / "b", "file is in the way")
        assert everything_below(tmp_path) == ["file"]

    def test_refuses_a_link_to_nowhere(self, tmp_path):
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        self.refuse(tmp_path / "link", "file is in the way")
        assert everything_below(tmp_path) == ["link"]

    def test_removes_its_parents_when_a_name_is_too_long(self, tmp_path):
        self.refuse(tmp_path / "new" / "newer" / ("x" * 300), "too long")
        assert everything_below(tmp_path) == []

    def test_keeps_parents_of_others_when_it_refuses(self, tmp_path):
        (tmp_path / "theirs").mkdir()
        self.refuse(tmp_path / "theirs" / "mine" / ("x" * 300), "too long")
        assert everything_below(tmp_path) == ["theirs"]

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a /proc")
    def test_refuses_a_file_system_that_takes_no_files(self):
        self.refuse(Path("/proc/lsgd/run"), "cannot write")

    @pytest.mark.parametrize("existing", [False, True])
    def test_refuses_a_place_where_files_stay_empty(self, tmp_path, existing):
        # Folders can be made here but no file be filled, as on a full disk; it holds for root too.
        if existing:
            (tmp_path / "a").mkdir()
        finish(
            """if True:
            import resource, sys
            from pathlib import Path
            from lsgd_mpi.errors import RunDirectoryError
            from lsgd_mpi.records import claim_run_directory
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            try:
                claim_run_directory(Path(sys.argv[1]))
            except RunDirectoryError:
                raise SystemExit(0)
            raise SystemExit("claimed")
            """,
            tmp_path / "a" / "b",
        )
        assert everything_below(tmp_path) == ["a"] * existing


class TestCsvTable:
    def test_floats_come_back_exactly(self, tmp_path):
        bits = [1, 0x3FB999999999999A, 0x7FEFFFFFFFFFFFFF, 0x8000000000000000, 0x3FF0000000000001]
        numbers = [struct.unpack("<d", struct.pack("<Q", pattern))[0] for pattern in bits]
        numbers += [1 / 3, 1e-05, math.inf, -math.inf]
        with CsvTable(tmp_path / "t.csv", ["x"]) as table:
            for number in numbers:
                table.append(x=number)
        lines = (tmp_path / "t.csv").read_text().splitlines()
        assert [struct.pack("<d", float(line)) for line in lines[1:]] == [
            struct.pack("<d", x) for x in numbers
        ]

    def test_writes_each_kind_of_value_compactly(self, tmp_path):
        with CsvTable(tmp_path / "t.csv", ["a", "b", "c", "d", "e"]) as table:
            table.append(a=0.1, b=None, c=True, d=10**20, e="x,y")
            table.append(e="", d=False, c=1e-05, b=math.nan, a=-3)
        assert (tmp_path / "t.csv").read_bytes() == (
            b'a,b,c,d,e\n0.1,,1,100000000000000000000,"x,y"\n-3,nan,1e-05,0,\n'
        )

    def test_writes_numpy_numbers_as_numbers(self, tmp_path):
        numpy = pytest.importorskip("numpy")
        with CsvTable(tmp_path / "t.csv", ["a", "b", "c"]) as table:
            table.append(a=numpy.float64(0.1), b=numpy.int64(7), c=numpy.float32(0.5))
        assert (tmp_path / "t.csv").read_text() == "a,b,c\n0.1,7,0.5\n"

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ({"a": 1}, "lacks b"),
            ({"a": 1, "b": 2, "c": 3}, "unknown c"),
            ({"a": 1, "c": 3}, "lacks b and has unknown c"),
            ({"a": 1, "b": "two\nlines"}, "line breaks"),
            ({"a": 1, "b": "two\rlines"}, "line breaks"),
            ({"a": 1, "b": [1]}, "column b takes a number or a text, not list"),
        ],
    )
    def test_refuses_a_wrong_row_and_writes_nothing(self, tmp_path, row, words):
        with CsvTable(tmp_path / "t.csv", ["a", "b"]) as table:
            with pytest.raises(ValueError, match=words):
                table.append(**row)
            table.append(a=1, b=2)
        assert (tmp_path / "t.csv").read_text() == "a,b\n1,2\n"

    @pytest.mark.parametrize("columns", [[], ["a", "a"]])
    def test_refuses_columns_that_are_none_or_twice(self, tmp_path, columns):
        with pytest.raises(ValueError, match="columns"):
            CsvTable(tmp_path / "t.csv", columns)
        assert everything_below(tmp_path) == []

    def test_never_overwrites(self, tmp_path):
        (tmp_path / "t.csv").write_text("measured\n")
        with pytest.raises(RunDirectoryError, match="exists already"):
            CsvTable(tmp_path / "t.csv", ["a"])
        assert (tmp_path / "t.csv").read_text() == "measured\n"

    def test_a_row_is_with_the_system_at_once(self, tmp_path):
        with CsvTable(tmp_path / "t.csv", ["a"]) as table:
            table.append(a=1)
            assert (tmp_path / "t.csv").read_text() == "a\n1\n"

    def test_a_full_disk_is_a_sentence_and_leaves_whole_lines(self, tmp_path):
        # The limit lets the beginning of a line through, as a disk does that fills up.
        path = tmp_path / "t.csv"
        output = finish(
            """if True:
            import resource, sys
            from pathlib import Path
            from lsgd_mpi.errors import RunDirectoryError
            from lsgd_mpi.records import CsvTable
            table = CsvTable(Path(sys.argv[1]), ["a", "b"])
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
            try:
                for row in range(100):
                    table.append(a=row, b=0.123456789)
            except RunDirectoryError as error:
                print(error)
                raise SystemExit(0)
            raise SystemExit("no error")
            """,
            path,
        )
        assert output.startswith(f"cannot write {path}: ")
        assert output.count("\n") == 1
        assert path.read_text() == "a,b\n" + "".join(f"{row},0.123456789\n" for row in range(6))


class TestRankLog:
    def test_writes_utc_time_level_and_source(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TZ", "XXX-5")
        time.tzset()
        try:
            with RankLog(tmp_path / "r.log"):
                logging.getLogger("lsgd_mpi.trainer").info("started %s", "well")
                logging.getLogger("lsgd_mpi.trainer").debug("too fine")
                logging.getLogger("elsewhere").warning("not ours")
        finally:
            monkeypatch.undo()
            time.tzset()
        line = (tmp_path / "r.log").read_text()
        found = re.fullmatch(
            r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3})Z INFO lsgd_mpi\.trainer: started well\n", line
        )
        assert found
        written = datetime.fromisoformat(found[1]).replace(tzinfo=timezone.utc)
        assert abs(datetime.now(timezone.utc) - written) < timedelta(minutes=1)

    def test_gives_the_logger_back(self, tmp_path, monkeypatch):
        logger = logging.getLogger("lsgd_mpi")
        monkeypatch.setattr(logger, "level", logging.ERROR)
        handlers = list(logger.handlers)
        log = RankLog(tmp_path / "r.log")
        assert logger.level == logging.INFO
        log.close()
        log.close()
        assert (logger.level, logger.handlers) == (logging.ERROR, handlers)
        logger.error("after")
        assert (tmp_path / "r.log").read_text() == ""

    def test_a_folder_that_is_missing_is_a_sentence(self, tmp_path):
        with pytest.raises(RunDirectoryError, match="cannot open"):
            RankLog(tmp_path / "nowhere" / "r.log")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk_is_told_once_and_ends_nothing(self, capsys):
        with RankLog(Path("/dev/full")):
            logging.getLogger("lsgd_mpi").info("one")
            logging.getLogger("lsgd_mpi").info("two")
        complaints = capsys.readouterr().err
        assert complaints.count("cannot write /dev/full") == 1
        assert "Traceback" not in complaints


class TestRunRecords:
    @pytest.fixture
    def run_dir(self, tmp_path):
        claim_run_directory(tmp_path / "run")
        return tmp_path / "run"

    def test_columns_are_the_contract(self):
        assert ",".join(METRICS_COLUMNS) == (
            "step,epoch,total_steps,elapsed_s,train_loss,test_loss,test_error_pct,lr,sent_bytes,comm_s,"
            "rounds,evaluated"
        )
        assert ",".join(LEADERS_COLUMNS) == (
            "round,scope,group,step,total_steps,elapsed_s,leader_world_rank,leader_loss,"
            "previous_leader_world_rank,switched"
        )
        assert ",".join(RANK_COLUMNS) == "step,elapsed_s,loss,error_pct,data_s,compute_s,comm_s,wait_s"
        assert ",".join(ROUND_COLUMNS) == (
            "round,step,total_steps,elapsed_s,iterations,comm_s,wait_s,staleness"
        )

    def test_rank_zero_writes_all_tables(self, run_dir):
        with RunRecords(run_dir, 0) as records:
            records.metrics(**full(METRICS_COLUMNS, step=64, lr=0.5))
            records.leader(**full(LEADERS_COLUMNS, scope="global", group=None, switched=True))
            records.step(**full(RANK_COLUMNS, step=3))
            records.round(**full(ROUND_COLUMNS, round=2, staleness=None))
            logging.getLogger("lsgd_mpi").info("hello")
        assert everything_below(run_dir) == [
            "leaders.csv",
            "metrics.csv",
            "ranks",
            "ranks/rank-0000.csv",
            "ranks/rank-0000.log",
            "ranks/rounds-0000.csv",
        ]
        with (run_dir / "metrics.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert list(row) == list(METRICS_COLUMNS)
        assert (row["step"], row["lr"]) == ("64", "0.5")
        assert (run_dir / "leaders.csv").read_text().splitlines()[1] == "0,global,,0,0,0,0,0,0,1"
        assert (run_dir / "ranks/rank-0000.csv").read_text().splitlines()[1] == "3,0,0,0,0,0,0,0"
        assert (run_dir / "ranks/rounds-0000.csv").read_text().splitlines()[1] == "2,0,0,0,0,0,0,"
        assert "hello" in (run_dir / "ranks/rank-0000.log").read_text()

    def test_other_ranks_write_their_own_files_only(self, run_dir):
        with RunRecords(run_dir, 12) as records:
            records.step(**full(RANK_COLUMNS))
            with pytest.raises(AssertionError, match="world rank 12"):
                records.metrics(**full(METRICS_COLUMNS))
            with pytest.raises(AssertionError, match="world rank 12"):
                records.leader(**full(LEADERS_COLUMNS))
        own = ["ranks/rank-0012.csv", "ranks/rank-0012.log", "ranks/rounds-0012.csv"]
        assert everything_below(run_dir) == ["ranks", *own]

    def test_a_second_writer_of_the_same_rank_is_refused_and_closed(self, run_dir):
        handlers = list(logging.getLogger("lsgd_mpi").handlers)
        with RunRecords(run_dir, 0):
            pass
        with pytest.raises(RunDirectoryError, match="exists already"):
            RunRecords(run_dir, 0)
        assert logging.getLogger("lsgd_mpi").handlers == handlers

    def test_a_directory_that_this_rank_does_not_see_is_a_sentence(self, tmp_path):
        with pytest.raises(RunDirectoryError, match=r"world rank 3 .*share"):
            RunRecords(tmp_path / "elsewhere", 3)

    def test_close_twice_is_close(self, run_dir):
        records = RunRecords(run_dir, 0)
        records.close()
        records.close()
