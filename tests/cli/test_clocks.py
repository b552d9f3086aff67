"""Trainings on each clock, with a rank slowed down on purpose, and what they write of it."""

import json

import pytest
import yaml
from runs import SMALL, column, drive, only_sentence, rows

REFUSED = {
    "own clock of lsgd": ("--clock own: lsgd elects a leader among workers that meet", ("--clock", "own")),
    "a rank that is not there": (
        "--slow-rank 3=2: the world ranks are 0 to 2",
        ("--slow-rank", "3=2"),
    ),
    "an epoch too short": (
        "--epoch-seconds 1e-05: no worker makes more than one step in it",
        ("--algorithm", "pr-sgd-timed", "--epoch-seconds", 1e-5, "--steps", 9),
    ),
    "a clock of its own": (
        "--clock step: pr-sgd-timed has epochs of wall-clock time",
        ("--algorithm", "pr-sgd-timed", "--clock", "step"),
    ),
    "a tree that does not fit": (
        "--degree 3: 3 ranks make no full tree",
        ("--algorithm", "easgd-tree", "--degree", 3),
    ),
    "a rank that does not train": (
        "--slow-rank 0=2: this rank does not train with easgd-tree",
        ("--algorithm", "easgd-tree", "--slow-rank", "0=2"),
    ),
    "a rank made faster": ("a finite factor of at least 1", ("--slow-rank", "1=0.5")),
}
SLOW = ("--slow-rank", "2=3", "--eval-every", 20, "--log-every", 10)
TRAINED = {
    "lsgd": ("--clock", "shared", "--local-period", 5, "--steps", 60, *SLOW),
    "easgd": ("--algorithm", "easgd", "--clock", "shared", "--local-period", 8, "--steps", 60, *SLOW),
    "easgd alone": (
        *("--algorithm", "easgd", "--clock", "own", "--exchange", "overlapped", "--local-period", 8),
        *("--steps", 60, *SLOW),
    ),
    "mvadownpour": (
        "--algorithm",
        "mvadownpour",
        "--averaging-rate",
        0.2,
        "--local-period",
        4,
        "--lr",
        0.02,
        "--steps",
        60,
        *SLOW,
    ),
    "mdownpour": ("--algorithm", "mdownpour", "--lr", 0.005, "--steps", 60, *SLOW),
    "tree": ("--algorithm", "easgd-tree", "--steps", 60, "--leaf-period", 3, *SLOW),
    "timed": ("--algorithm", "pr-sgd-timed", "--epoch-seconds", 0.1, "--steps", 60, *SLOW),
    "in time": ("--clock", "shared", "--minutes", 0.05),
}
ALONE = {"easgd alone": "center", "mvadownpour": "center-moving-average", "mdownpour": "center"}


@pytest.fixture(scope="module")
def on_three_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clocks")
    words = {name: given for name, (_, given) in REFUSED.items()} | TRAINED
    cases = {
        name: ["train", *SMALL, *given, "--run-dir", folder / "runs" / name] for name, given in words.items()
    }
    return drive(cases, folder, ranks=3), folder / "runs"


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_sentence_and_leaves_nothing(on_three_ranks, name):
    results, runs = on_three_ranks
    assert [each.code for each in results[name]] == [2, 2, 2]
    assert REFUSED[name][0] in only_sentence(results[name][0].err)
    # Only a training can tell that its epochs are too short.
    assert (runs / name).exists() == (name == "an epoch too short")


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_ends_in_order_and_says_its_clock(on_three_ranks, name):
    results, runs = on_three_ranks
    assert [(each.code, each.err) for each in results[name]] == [(0, "")] * 3
    options = yaml.safe_load((runs / name / "config.yaml").read_text(encoding="utf-8"))
    clocks = {"tree": "own", "timed": "wall", **dict.fromkeys(ALONE, "own")}
    assert options["clock"] == clocks.get(name, "shared")
    assert options["slow_rank"] == ("" if name == "in time" else "2=3.0")
    # Horovod's threads serve the other ranks' access to memory.
    environment = json.loads((runs / name / "environment.json").read_text(encoding="utf-8"))
    assert environment["horovod_gives_way"] == 0


def test_evaluations_and_the_end_come_at_agreed_sums(on_three_ranks):
    _, runs = on_three_ranks
    for name in ("lsgd", "easgd", *ALONE):
        metrics = rows(runs / name / "metrics.csv")
        assert column(metrics, "total_steps", int) == [60, 120, 180]
        assert (
            column(metrics, "evaluated", str) == [ALONE.get(name, column(metrics, "evaluated", str)[0])] * 3
        )
        # They all learn something.
        assert column(metrics, "test_error_pct")[-1] < 60


def test_each_rank_tells_its_iterations_and_waiting_of_every_round(on_three_ranks):
    _, runs = on_three_ranks
    for name, period, rounds in (("lsgd", 5, 12), ("easgd", 8, 8)):
        tables = [rows(runs / name / "ranks" / f"rounds-{rank:04d}.csv") for rank in range(3)]
        assert [column(table, "round", int) for table in tables] == [list(range(1, rounds + 1))] * 3
        steps = [column(table, "step", int) for table in tables]
        # EASGD has its first round before any iteration has changed the parameters.
        first = 1 if name == "easgd" else period
        for number, (total, *each) in enumerate(
            zip(column(tables[0], "total_steps", int), *steps, strict=True)
        ):
            assert total == sum(each) == 3 * (first + period * number)
        for table in tables:
            assert sum(column(table, "iterations", int)) == column(table, "step", int)[-1]
            assert min(column(table, "wait_s")) >= 0
            assert set(column(table, "staleness", str)) == {""}


def test_each_rank_tells_how_stale_the_center_was_that_it_visited(on_three_ranks):
    _, runs = on_three_ranks
    for name in ALONE:
        tables = [rows(runs / name / "ranks" / f"rounds-{rank:04d}.csv") for rank in range(3)]
        visits = sum(len(table) for table in tables)
        for table in tables:
            staleness = column(table, "staleness", str)
            # Known from the second visit on, overlapped from the third: what others did in between.
            known = [int(each) for each in staleness if each]
            assert len(staleness) - len(known) <= 2
            assert all(each >= 0 for each in known)
            assert sum(known) <= visits - len(table)


def test_the_time_is_kept_on_the_shared_clock(on_three_ranks):
    _, runs = on_three_ranks
    (*_, last) = rows(runs / "in time" / "metrics.csv")
    assert 1.0 <= float(last["elapsed_s"]) <= 20.0
