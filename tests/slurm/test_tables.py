"""The tables of slurm/sweep.sbatch hold what the papers searched, in words that `lsgd-mpi train` takes."""

import itertools
import re

import pytest
from launching import ROOT
from test_presets import PULLS, RATES

from lsgd_mpi.config import make_train_options, read_config
from lsgd_mpi.presets import preset_path

PERIODS = (1, 4, 16, 64)


def rows_of(table):
    """The options of each row, as the script reads them."""
    lines = (ROOT / "slurm" / "sweeps" / f"{table}.tsv").read_text(encoding="utf-8").splitlines()
    names, *rows = [line.split() for line in lines if not line.startswith("#")]
    return [
        {name: value for name, value in zip(names, row, strict=True) if value != "-"} for row in rows
    ], "\n".join(line for line in lines if line.startswith("#"))


def options_of(row):
    given = {name.replace("-", "_"): value for name, value in row.items() if name != "preset"}
    numbers = {name: int(value) if name == "local_period" else float(value) for name, value in given.items()}
    return make_train_options({**read_config(preset_path(row["preset"])), **numbers})


def test_table_2_of_the_lsgd_paper():
    rows, _ = rows_of("lsgd-table-2")
    found = [(options_of(row), row["preset"]) for row in rows]
    assert all(preset == f"{options.algorithm}-cnn7-cifar10" for options, preset in found)
    assert [
        (options.algorithm, options.lr, getattr(options.method, "local_pull", None)) for options, _ in found
    ] == [
        *(("lsgd", *pair) for pair in itertools.product(falling(RATES["2"]["lsgd"]), falling(PULLS["2"]))),
        *(("easgd", rate, None) for rate in falling(RATES["2"]["easgd"])),
        *(("downpour", rate, None) for rate in falling(RATES["2"]["downpour"])),
    ]


def test_table_4_1_of_the_thesis():
    rows, _ = rows_of("thesis-table-4.1")
    found = [(options_of(row), row["preset"]) for row in rows]
    assert all(preset == f"{options.algorithm}-cnn7-cifar10-thesis" for options, preset in found)
    assert [(options.algorithm, options.lr, options.method.local_period) for options, _ in found] == [
        (algorithm, *pair)
        for algorithm in ("easgd", "eamsgd", "downpour")
        for pair in itertools.product(falling(RATES["4.1"][algorithm]), PERIODS)
    ]


@pytest.mark.parametrize("table", ["lsgd-table-2", "thesis-table-4.1"])
def test_the_script_asks_for_as_many_tasks_as_there_are_rows(table):
    rows, head = rows_of(table)
    assert f"# {len(rows)} rows:" in head
    script = (ROOT / "slurm" / "sweep.sbatch").read_text(encoding="utf-8")
    by_itself = rf"^#SBATCH --array=1-{len(rows)}%4$"
    when_told = (
        rf"^# +sbatch --array=1-{len(rows)}%4 slurm/sweep\.sbatch slurm/sweeps/{re.escape(table)}\.tsv"
    )
    assert re.search(by_itself if table == "lsgd-table-2" else when_told, script, re.MULTILINE)


def falling(values):
    return sorted(values, reverse=True)
