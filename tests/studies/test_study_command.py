"""``lsgd-mpi study`` from end to end."""

import csv
import subprocess
import sys

import numpy as np
import pytest

from lsgd_mpi.cli.main import main
from lsgd_mpi.studies import (
    STUDIES,
    admm_stability,
    easgd_stability,
    find_study,
    matrix_completion,
    toy,
    unification,
)

PNG = b"\x89PNG"


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def double_well_run(tmp_path_factory):
    """A program of its own, in an empty working directory, with an option that this study has no use for."""
    folder = tmp_path_factory.mktemp("double-well")
    command = [sys.executable, "-m", "lsgd_mpi", "study", "double-well", "--seed", "3"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    return done, folder


def test_the_double_well_writes_numbers_and_a_figure(double_well_run):
    done, folder = double_well_run
    assert done.returncode == 0
    last = done.stdout.splitlines()[-1]
    assert last.startswith("double-well: the split point is a minimum for ρ in (0, 0.66666")
    assert "(paper: (0, 2/3))" in last
    out = folder / "runs" / "study-double-well"
    assert sorted(path.name for path in out.iterdir()) == ["double-well.png", "eigenvalues.csv", "runs.csv"]
    assert (out / "double-well.png").read_bytes()[:4] == PNG
    table = rows(out / "eigenvalues.csv")
    positive = [float(row["penalty"]) for row in table if float(row["smallest_eigenvalue"]) > 1e-9]
    assert (min(positive), max(positive)) == (pytest.approx(0.01), pytest.approx(0.66))


def test_a_setting_without_effect_is_told(double_well_run):
    assert double_well_run[0].stderr == "lsgd-mpi: --seed has no effect on the study double-well\n"


def test_results_are_never_overwritten(double_well_run, capsys, monkeypatch):
    monkeypatch.chdir(double_well_run[1])
    folder = double_well_run[1] / "runs" / "study-double-well"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert main(["study", "double-well"]) == 5
    assert "is not empty: choose another one with --out" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


# What makes the other studies short, and what their last line must hold then.
SHORT = {
    "toy": ([(toy, "STEPS", 150)], "LGD -0.2172, EAGD -0.0913"),
    "easgd-stability": (
        [(easgd_stability, "WORKERS", (1, 2)), (easgd_stability, "SMALL_RATES", (0.5, 1.0))],
        "for even p it is 4 to 6 % above",
    ),
    "admm-stability": ([(admm_stability, "EXAMPLE_STEPS", 3000)], "largest |eigenvalue| 1.000974"),
    "unification": ([(unification, "_grid", lambda _: (ALPHAS, BETAS))], "differ by 0 in 300 steps"),
}
ALPHAS, BETAS = np.array([0.5, 2.0, 4.0]), np.array([0.5, 1.75])


@pytest.mark.parametrize("name", SHORT)
def test_the_other_studies_write_numbers_and_a_figure(tmp_path, capsys, monkeypatch, name):
    changes, told = SHORT[name]
    for module, constant, value in changes:
        monkeypatch.setattr(module, constant, value)
    assert main(["study", name, "--out", str(tmp_path)]) == 0
    assert told in capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / f"{name}.png").read_bytes()[:4] == PNG
    tables = list(tmp_path.glob("*.csv"))
    assert tables
    assert all(rows(table) for table in tables)


def test_matrix_completion_takes_trials_and_ranks(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(*_few_steps())
    out = tmp_path / "out"
    command = [
        "study",
        "matrix-completion",
        "--ranks",
        "1,2",
        "--trials",
        "1",
        "--seed",
        "5",
        "--out",
        str(out),
    ]
    assert main(command) == 0
    assert "(d=40, r=1, 2, 1 trial(s), 30 steps)" in capsys.readouterr().out
    table = rows(out / "best_worker.csv")
    assert len(table) == 2 * 2 * 30
    assert {(row["method"], row["rank"], row["trial"]) for row in table} == {
        (method, rank, "0") for method in ("LGD", "EAGD") for rank in ("1", "2")
    }
    assert (out / "matrix-completion.png").read_bytes()[:4] == PNG


def _few_steps():
    few = matrix_completion.Scale(dimension=40, learning_rate=1e-2, ranks=(1,), trials=2, steps=30)
    return matrix_completion.SCALES, "small", few


def test_an_unknown_study_is_bad_usage_and_makes_nothing(tmp_path, capsys):
    assert main(["study", "matrix-completeon", "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "did you mean matrix-completion?" in message
    assert all(name in message for name in STUDIES)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trials", "0"], "at least 1"),
        (["--trials", "1,2"], "--trials takes one number"),
        (["--ranks", "x"], "whole number"),
        (["--scale", "huge"], "invalid choice"),
        (["--seed", "-1"], "--seed"),
        (["--ranks", "60"], "--ranks 60"),
    ],
)
def test_wrong_options_are_bad_usage(tmp_path, capsys, words, told):
    assert main(["study", "matrix-completion", *words, "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err


def test_a_file_in_the_way_is_told(tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert main(["study", "double-well", "--out", str(tmp_path / "out")]) == 5
    assert "a file is in the way" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_a_launcher_with_many_ranks_is_bad_usage(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert main(["study", "toy", "--out", str(tmp_path / "out")]) == 2
    assert "start it without" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_listed_study_exists():
    for name in STUDIES:
        assert callable(find_study(name).run)
