"""Presets on the command line: listed, printed, overridden, refused, and trained on real ranks."""

import subprocess
import sys

import launching
import pytest
import yaml
from runs import alone, drive, only_sentence, rows

from lsgd_mpi.cli.main import main
from lsgd_mpi.config import TrainOptions
from lsgd_mpi.presets import describe_preset, preset_names, preset_text

#: In place of CIFAR-10 and of hours, two steps on synthetic images of its size.
SHORT = ("--dataset", "synthetic", "--limit", 64, "--batch-size", 8, "--steps", 2, "--threads", 1)
LSGD, EAMSGD = "lsgd-cnn7-cifar10", "eamsgd-cnn7-cifar10-thesis"


class TestListing:
    def test_every_preset_is_listed_with_its_description(self, capsys):
        assert main(["presets"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(maxsplit=1) for line in lines] == [
            [name, describe_preset(name)] for name in preset_names()
        ]

    def test_one_is_printed_as_it_stands(self, capsys):
        assert main(["presets", LSGD]) == 0
        assert capsys.readouterr().out == preset_text(LSGD)

    def test_an_unknown_one_is_refused_with_near_names(self, capsys):
        assert main(["presets", "lsgd-cnn-cifar10"]) == 2
        captured = capsys.readouterr()
        assert f"unknown preset 'lsgd-cnn-cifar10': did you mean {LSGD} or " in only_sentence(captured.err)
        assert captured.out == ""

    def test_it_needs_neither_torch_nor_mpi(self, tmp_path):
        program = "import sys; from lsgd_mpi.cli.main import main; main(['presets']); "
        program += "sys.exit(bool({'torch', 'mpi4py', 'horovod'} & set(sys.modules)))"
        listed = alone(["-c", program], tmp_path)
        assert (listed.returncode, listed.stderr) == (0, "")

    def test_a_reader_that_has_seen_enough_is_no_error(self):
        command = f"{sys.executable} -m lsgd_mpi presets | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", command], cwd=launching.ROOT, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def resolved(capsys, *words):
    """The options that `train` would run with."""
    assert main(["train", *map(str, words), "--print-config"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


class TestPrecedence:
    def test_a_preset_overrides_the_defaults_and_leaves_the_rest(self, capsys):
        options = resolved(capsys, "--preset", LSGD)
        assert (options["lr"], options["local_period"], options["dataset"]) == (0.01, 64, "cifar10")
        assert TrainOptions.lr != 0.01
        assert options["log_every"] == TrainOptions.log_every

    def test_the_file_overrides_the_preset_and_the_command_line_both(self, capsys, tmp_path):
        file = tmp_path / "mine.yaml"
        file.write_text("lr: 0.5\nlocal_pull: 0.25\nsteps: null\n", encoding="utf-8")
        preset = resolved(capsys, "--preset", LSGD)
        both = resolved(capsys, "--preset", LSGD, "--config", file)
        assert both == {**preset, "lr": 0.5, "local_pull": 0.25, "steps": None}
        # The order of the words does not matter.
        words = ("--lr", 0.125, "--config", file, "--epochs", 3, "--preset", LSGD)
        assert resolved(capsys, *words) == {**both, "lr": 0.125, "epochs": 3.0}

    def test_printed_options_of_a_preset_are_a_config_file(self, capsys, tmp_path):
        options = resolved(capsys, "--preset", "lsgd-resnet20-cifar10-16")
        file = tmp_path / "printed.yaml"
        file.write_text(yaml.safe_dump(options), encoding="utf-8")
        assert resolved(capsys, "--config", file) == options


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--preset", "lsgd-cnn7-cifar"], f"unknown preset 'lsgd-cnn7-cifar': did you mean {LSGD}"),
        (["--preset", ""], "unknown preset ''"),
        (["--preset"], "--preset"),
        (["--preset", LSGD, "--algorithm", "allreduce"], "is no option of allreduce"),
    ],
)
def test_what_a_preset_cannot_be(capsys, words, told):
    assert main(["train", *words]) == 2
    assert told in only_sentence(capsys.readouterr().err)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Command lines on two ranks, one after the other: their results, and the folder of their runs."""
    folder = tmp_path_factory.mktemp("presets")
    words = {
        "lsgd": ("--preset", LSGD, *SHORT, "--groups", 2, "--local-period", 1),
        "eamsgd": ("--preset", EAMSGD, *SHORT),
        "one group": ("--preset", "lsgd-cnn7-cifar10-16", *SHORT, "--groups", 2),
        "unknown": ("--preset", "lsgd-cnn7", *SHORT),
    }
    cases = {name: ["train", *given, "--run-dir", folder / name] for name, given in words.items()}
    return drive(cases, folder, ranks=2), folder


class TestOnTwoRanks:
    def test_leader_sgd_trains_in_one_group(self, pair):
        results, folder = pair
        assert [(each.code, each.err) for each in results["lsgd"]] == [(0, "")] * 2
        assert "2 ranks in 1 group: 0-1; cnn7" in results["lsgd"][0].out
        leaders = rows(folder / "lsgd" / "leaders.csv")
        assert [(row["scope"], row["step"]) for row in leaders] == [("local", "1"), ("local", "2")]
        options = yaml.safe_load((folder / "lsgd" / "config.yaml").read_text(encoding="utf-8"))
        expected = {"lr": 0.01, "dataset": "synthetic", "local_period": 1, "local_pull": 0.1, "momentum": 0.0}
        assert {name: options[name] for name in expected} == expected

    def test_elastic_averaging_with_momentum_trains(self, pair):
        results, folder = pair
        assert [(each.code, each.err) for each in results["eamsgd"]] == [(0, "")] * 2
        (last,) = rows(folder / "eamsgd" / "metrics.csv")
        assert (last["step"], last["evaluated"], last["rounds"]) == ("2", "center", "1")

    def test_a_preset_of_four_groups_needs_more_than_one(self, pair):
        results, folder = pair
        assert [each.code for each in results["one group"]] == [2] * 2
        assert "there is only one group" in only_sentence(results["one group"][0].err)
        assert not (folder / "one group").exists()

    def test_one_rank_tells_for_all_that_a_preset_is_unknown(self, pair):
        results, _ = pair
        assert [each.code for each in results["unknown"]] == [2] * 2
        assert LSGD in only_sentence(results["unknown"][0].err)
        assert [each.err for each in results["unknown"][1:]] == [""]


def test_an_installed_package_has_the_files(tmp_path):
    """The tests run on the sources, where no list of package data is needed."""
    build = ["egg_info", "--egg-base", tmp_path, "build", "--build-base", tmp_path / "build"]
    command = [sys.executable, "setup.py", "-q", *build, "build_py", "--build-lib", tmp_path / "lib"]
    subprocess.run(list(map(str, command)), cwd=launching.ROOT, capture_output=True, check=True, timeout=60)
    built = {path.stem for path in (tmp_path / "lib" / "lsgd_mpi" / "presets").glob("*.yaml")}
    assert built == set(preset_names())
