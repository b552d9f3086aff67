import time

import pytest
from runs import HERE, SMALL, rows, run_ranks

from lsgd_mpi.cli.main import main

#: Far more than an accident waits for.
LONG = (*SMALL, "--groups", 1, "--steps", 1_000_000, "--eval-every", 50, "--log-every", 1)
PERIODS = ("--local-period", 2, "--global-period", 4)


def run_until(kind, world_rank, tmp_path, ranks):
    words = (world_rank, kind, tmp_path / "run", "train", *LONG, *PERIODS)
    finished = run_ranks(ranks, [HERE / "accident.py", *words])
    happened = (tmp_path / "accident").stat().st_mtime
    return finished, time.time() - happened


def check_records(run_dir, ranks, capsys):
    """What was written up to then can be read; `rows` refuses a line that is not whole."""
    leaders = rows(run_dir / "leaders.csv")
    assert len(leaders) >= 3
    rows(run_dir / "metrics.csv")
    for rank in range(ranks):
        assert rows(run_dir / f"ranks/rank-{rank:04d}.csv")
    assert main(["leaders", str(run_dir)]) == 0
    assert "Local, group 0" in capsys.readouterr().out


@pytest.mark.parametrize(("ranks", "world_rank"), [(3, 2)], ids=["the last of three"])
def test_a_killed_rank_ends_the_job(tmp_path, capsys, ranks, world_rank):
    finished, seconds = run_until("kill", world_rank, tmp_path, ranks)
    assert finished.returncode != 0, finished.printed
    assert seconds < 15, finished.printed
    assert finished.left_behind == []
    assert "Traceback" not in finished.stderr
    check_records(tmp_path / "run", ranks, capsys)


def test_an_interrupted_mpirun_leaves_nobody_behind(tmp_path, capsys):
    finished, seconds = run_until("interrupt", 0, tmp_path, ranks=2)
    assert finished.returncode != 0, finished.printed
    assert seconds < 15, finished.printed
    assert finished.left_behind == []
    assert "Traceback" not in finished.stderr
    check_records(tmp_path / "run", 2, capsys)
