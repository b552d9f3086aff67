import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lsgd_mpi
from lsgd_mpi.cli import leaders
from lsgd_mpi.errors import RunDirectoryError
from lsgd_mpi.records import RunRecords, claim_run_directory, write_environment

SOURCE = Path(lsgd_mpi.__file__).parents[1]

COMMAND = """if True:
    import argparse, sys
    from lsgd_mpi.cli import leaders
    parser = argparse.ArgumentParser()
    leaders.add_parser(parser.add_subparsers(required=True))
    arguments = parser.parse_args()
    code = arguments.run(arguments)
    loaded = {"torch", "mpi4py", "horovod", "numpy", "yaml"} & set(sys.modules)
    sys.exit(f"loaded {loaded}" if loaded else code)
"""


def command(*words):
    parser = argparse.ArgumentParser(prog="lsgd-mpi")
    leaders.add_parser(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["leaders", *map(str, words)])
    return arguments.run(arguments)


@pytest.fixture
def run_dir(tmp_path):
    """Two groups of two ranks: 0 leads group 0 but once; 3 leads group 1; a global round every second one."""
    path = tmp_path / "run"
    claim_run_directory(path)
    write_environment(path, {"groups": [[0, 1], [2, 3]]})
    previous = {}
    with RunRecords(path, 0) as records:

        def elected(number, scope, group, leader):
            before = previous.get((scope, group))
            records.leader(
                round=number,
                scope=scope,
                group=group,
                step=16 * number,
                total_steps=64 * number,
                elapsed_s=0.5 * number,
                leader_world_rank=leader,
                leader_loss=0.25,
                previous_leader_world_rank=before,
                switched=before is not None and before != leader,
            )
            previous[scope, group] = leader

        for number, leader in enumerate([0, 0, 0, 1, 0, 0]):
            elected(number, "local", 0, leader)
            elected(number, "local", 1, 3)
            if number % 2:
                elected(number, "global", None, leader)
    return path


TEXT = """\
Local, group 0
  rounds         6
  switches       2
  mean reign     2 rounds
  longest reign  3 rounds, by rank 0, rounds 0 to 2
  last leaders   0 0 0 1 0 0 (newest last)

  world rank  rounds led   share
           0           5  83.3 %
           1           1  16.7 %

Local, group 1
  rounds         6
  switches       0
  mean reign     6 rounds
  longest reign  6 rounds, by rank 3, rounds 0 to 5
  last leaders   3 3 3 3 3 3 (newest last)

  world rank  rounds led    share
           2           0    0.0 %
           3           6  100.0 %

Global
  rounds         3
  switches       2
  mean reign     1 round
  longest reign  1 round, by rank 0, round 1
  last leaders   0 1 0 (newest last)

  world rank  rounds led   share
           0           2  66.7 %
           1           1  33.3 %
           2           0   0.0 %
           3           0   0.0 %
"""


def test_text_is_the_table_counted_by_hand(run_dir, capsys):
    assert command(run_dir) == 0
    assert capsys.readouterr().out == TEXT


def test_json_has_the_numbers_of_the_text(run_dir, capsys):
    assert command(run_dir, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == str(run_dir)
    blocks = re.split(r"\n\n(?=Local|Global)", TEXT)
    assert len(document["scopes"]) == len(blocks)
    for scope, block in zip(document["scopes"], blocks, strict=True):
        facts = dict(re.findall(r"^  ([a-z ]+?)  +(.*)$", block, re.MULTILINE))
        table = re.findall(r"^ +(\d+) +(\d+) +([\d.]+) %$", block, re.MULTILINE)
        assert (str(scope["rounds"]), str(scope["switches"])) == (facts["rounds"], facts["switches"])
        assert f"{scope['mean_reign_rounds']:g} round" in facts["mean reign"]
        reign = scope["longest_reign"]
        numbers = [reign["rounds"], reign["leader_world_rank"], reign["first_round"], reign["last_round"]]
        told = list(map(int, re.findall(r"\d+", facts["longest reign"])))
        assert told == numbers[: len(told)]
        assert reign["last_round"] == told[-1]
        assert " ".join(map(str, scope["last_leaders"])) + " (newest last)" == facts["last leaders"]
        assert [
            (str(r["world_rank"]), str(r["rounds_led"]), f"{r['share_pct']:.1f}") for r in scope["ranks"]
        ] == table


def test_last_limits_the_list(run_dir, capsys):
    assert command(run_dir, "--last", 2) == 0
    assert "last leaders   0 0 (newest last)" in capsys.readouterr().out
    assert command(run_dir, "--last", 0) == 0
    assert "last leaders" not in capsys.readouterr().out


@pytest.mark.parametrize("number", ["-1", "many", "1.5"])
def test_last_refuses_what_is_no_count(run_dir, capsys, number):
    with pytest.raises(SystemExit) as ended:
        command(run_dir, f"--last={number}")
    assert ended.value.code == 2
    assert "a whole number, 0 or more" in capsys.readouterr().err


def test_a_run_without_rounds_says_so(tmp_path, capsys):
    claim_run_directory(tmp_path / "run")
    RunRecords(tmp_path / "run", 0).close()
    assert command(tmp_path / "run") == 0
    assert capsys.readouterr().out == "No rounds yet: nobody has led.\n"
    assert command(tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["scopes"] == []


def test_no_run_is_an_error_for_the_caller(tmp_path):
    with pytest.raises(RunDirectoryError, match="no run directory"):
        command(tmp_path / "nowhere")


def start(*words, **options):
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "leaders", *map(str, words)],
        env=environment,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
        **options,
    )


def test_loads_none_of_the_heavy_libraries(run_dir):
    done = start(run_dir, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == TEXT


@pytest.mark.parametrize("format_words", [[], ["--json"]])
def test_a_reader_that_went_away_is_no_error(run_dir, format_words):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = start(run_dir, *format_words, stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
