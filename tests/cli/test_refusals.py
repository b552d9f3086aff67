"""Whatever a user gets wrong ends with one sentence, the documented exit code, and nothing written."""

import struct
import sys

import pytest
import yaml
from runs import LSGD_MPI, SMALL, alone, columns, drive, only_sentence, rows, run_ranks, sentence_of_job

from lsgd_mpi.cli.main import main


def write_idx(folder, *, missing_bytes=0):
    """MNIST's four files with 40 random images each; the last one lacks some bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "t10k"):
        pixels = bytes((7 * place + 13 * (place // 784)) % 256 for place in range(40 * 28 * 28))
        images = struct.pack(">4B3I", 0, 0, 8, 3, 40, 28, 28) + pixels
        labels = struct.pack(">4BI", 0, 0, 8, 1, 40) + bytes(place % 10 for place in range(40))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        end = len(labels) - missing_bytes * (part == "t10k")
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels[:end])


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    write_idx(folder / "intact")
    write_idx(folder / "truncated", missing_bytes=3)
    (folder / "empty").mkdir()
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.txt").write_bytes(b"three years of work\n")
    (folder / "file").write_bytes(b"")
    (folder / "broken.yaml").write_text("lr: 0.1\nmodel: mlp: cnn7\n", encoding="utf-8")
    return folder


def refused_everywhere(places):
    """{name: (exit code, part of the sentence, words)} for any number of ranks."""
    mnist = ("--dataset", "mnist", "--model", "mlp", "--batch-size", 8, "--no-download", "--data-dir")
    return {
        "unknown option": (2, "--momentun", (*SMALL, "--momentun", 0.5)),
        "abbreviated option": (2, "--epoch", (*SMALL, "--epoch", 3)),
        "no value": (2, "--lr", (*SMALL, "--lr")),
        "no number": (2, "--lr", (*SMALL, "--lr", "fast")),
        "groups unreadable": (2, "cannot read 'a'", (*SMALL, "--groups", "0,a")),
        "unknown model": (2, "--model 'resnet21': choose from", (*SMALL, "--model", "resnet21")),
        "unknown dataset": (2, "--dataset 'digit': choose from", (*SMALL, "--dataset", "digit")),
        "unknown algorithm": (2, "--algorithm 'sdg': choose from", (*SMALL, "--algorithm", "sdg")),
        "period 0": (2, "--local-period 0", (*SMALL, "--local-period", 0)),
        "pull 1.5": (2, "--local-pull 1.5", (*SMALL, "--local-pull", 1.5)),
        "global without groups": (2, "--global-period 8", (*SMALL, "--global-period", 8, "--groups", "node")),
        "foreign option": (2, "--local-period", (*SMALL, "--algorithm", "allreduce", "--local-period", 4)),
        "groups overlap": (2, "world rank 0 stands in the groups twice", (*SMALL, "--groups", "0;0")),
        "groups too many": (2, "there is no world rank ", (*SMALL, "--groups", "0-7")),
        "group too large": (2, "--groups 9: there are only", (*SMALL, "--groups", 9)),
        "broken yaml": (2, "no valid YAML at line 2", ("--config", places / "broken.yaml")),
        "no config": (2, "nowhere.yaml: cannot be read", ("--config", places / "nowhere.yaml")),
        "no gpu": (3, "--device cuda", (*SMALL, "--device", "cuda")),
        "no data": (4, "mnist is missing: looked for", (*mnist, places / "empty")),
        "truncated data": (4, "t10k-labels-idx1-ubyte cannot be read", (*mnist, places / "truncated")),
        "too little data": (4, "training images are fewer than", (*SMALL, "--batch-size", 1500)),
        "model too deep": (2, "vgg16", (*SMALL, "--model", "vgg16")),
        "taken directory": (5, "is not empty", (*SMALL, "--run-dir", places / "taken")),
        "file in the way": (5, "a file is in the way", (*SMALL, "--run-dir", places / "file" / "run")),
    }


def refusals(places, folder, cases, ranks=None):
    """Run the cases; check what holds for all of them; return each one's sentence."""
    words = {}
    for name, (_, _, given) in cases.items():
        run_dir = () if "--run-dir" in given else ("--run-dir", folder / "runs" / name)
        words[name] = ["train", *given, *run_dir]
    before = {path: path.is_file() and path.read_bytes() for path in places.rglob("*")}
    results = drive(words, folder, ranks)
    assert {path: path.is_file() and path.read_bytes() for path in places.rglob("*")} == before
    assert not (folder / "runs").exists()
    return results


NAMES = [
    *("unknown option", "abbreviated option", "no value", "no number", "groups unreadable", "unknown model"),
    *("unknown dataset", "unknown algorithm", "period 0", "pull 1.5", "global without groups"),
    *("foreign option", "groups overlap", "groups too many", "group too large", "broken yaml", "no config"),
    *("no gpu", "no data", "truncated data", "too little data", "model too deep", "taken directory"),
    "file in the way",
]


@pytest.fixture(scope="module")
def cases(places):
    found = refused_everywhere(places)
    assert list(found) == NAMES
    return found


@pytest.fixture(scope="module")
def refused_alone(places, cases, tmp_path_factory):
    return refusals(places, tmp_path_factory.mktemp("alone"), cases)


#: Refusals that only more ranks can meet.
OF_THREE = {
    "left out": (2, "world rank(s) 1 of 3 are in no group", (*SMALL, "--groups", "0;2")),
    "does not divide": (2, "3 ranks do not divide into groups of 2", (*SMALL, "--groups", 2)),
    "twice": (2, "world rank 1 stands in the groups twice", (*SMALL, "--groups", "0,1;1,2")),
    "together too little data": (4, "for each of 3 ranks (1500)", (*SMALL, "--batch-size", 500)),
}


@pytest.fixture(scope="module")
def by_three(places, cases, tmp_path_factory):
    """All refusals on three ranks and, after them, a training: the results, and its run directory."""
    folder = tmp_path_factory.mktemp("three")
    unequal = (
        *SMALL,
        "--groups",
        "0,2;1",
        "--epochs",
        1,
        "--local-period",
        4,
        "--run-dir",
        folder / "unequal",
    )
    given = {**cases, **OF_THREE, "unequal": (0, "", unequal)}
    return refusals(places, folder, given, ranks=3), folder / "unequal"


def check(case, results):
    code, told, _ = case
    assert [each.code for each in results] == [code] * len(results)
    assert told in only_sentence(results[0].err)
    assert [each.err for each in results[1:]] == [""] * (len(results) - 1)
    assert [each.out for each in results] == [""] * len(results)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_launcher(cases, refused_alone, name):
    check(cases[name], refused_alone[name])


@pytest.mark.parametrize("name", NAMES)
def test_on_three_ranks_one_speaks_for_all(cases, by_three, name):
    check(cases[name], by_three[0][name])


@pytest.mark.parametrize("name", OF_THREE)
def test_what_only_several_ranks_can_get_wrong(by_three, name):
    check(OF_THREE[name], by_three[0][name])


def test_after_them_unequal_groups_train(by_three):
    results, run_dir = by_three
    assert [(each.code, each.err) for each in results["unequal"]] == [(0, "")] * 3
    assert "3 ranks in 2 groups: 0,2;1" in results["unequal"][0].out
    leaders = rows(run_dir / "leaders.csv")
    assert {row["leader_world_rank"] for row in leaders if row["group"] == "0"} <= {"0", "2"}
    assert {row["leader_world_rank"] for row in leaders if row["group"] == "1"} == {"1"}


class TestThroughMpirun:
    """The exit code of mpirun itself, and what reaches the user's terminal."""

    def words(self, run_dir, *given):
        return [*LSGD_MPI, "train", *SMALL, *given, "--run-dir", run_dir]

    def test_one_rank_with_an_unknown_option_ends_all(self, tmp_path):
        good, bad = self.words(tmp_path / "run"), self.words(tmp_path / "run", "--frobnicate")
        finished = run_ranks(1, [*good, ":", "-np", "1", sys.executable, *bad])
        assert (finished.returncode, finished.left_behind) == (2, []), finished.printed
        assert "--frobnicate" in sentence_of_job(finished)
        assert list(tmp_path.iterdir()) == []

    def test_ranks_with_different_options_do_not_start(self, tmp_path):
        first, second = (self.words(tmp_path / "run", "--seed", seed) for seed in (1, 2))
        finished = run_ranks(1, [*first, ":", "-np", "1", sys.executable, *second])
        assert (finished.returncode, finished.left_behind) == (2, []), finished.printed
        told = sentence_of_job(finished)
        assert "the ranks have different options: seed is 1 on world rank 0, 2 on world rank 1" in told
        assert list(tmp_path.iterdir()) == []

    def test_missing_data_is_4_for_a_batch_script(self, places, tmp_path):
        missing = ("--dataset", "mnist", "--no-download", "--data-dir", places / "empty")
        finished = run_ranks(2, self.words(tmp_path / "run", *missing))
        assert (finished.returncode, finished.left_behind) == (4, []), finished.printed
        assert str(places / "empty") in sentence_of_job(finished)
        assert list(tmp_path.iterdir()) == []

    def test_training_that_diverges_is_6_and_keeps_its_records(self, tmp_path, capsys):
        run_dir = tmp_path / "run"
        finished = run_ranks(2, self.words(run_dir, "--lr", "1e20", "--local-period", 4, "--log-every", 1))
        assert (finished.returncode, finished.left_behind) == (6, []), finished.printed
        assert "lower --lr" in sentence_of_job(finished)
        assert rows(run_dir / "ranks" / "rank-0000.csv")
        assert main(["leaders", str(run_dir)]) == 0
        capsys.readouterr()


class TestWithoutTraining:
    """Command lines that load neither torch nor MPI, in this process."""

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ([], "COMMAND"),
            (["trian"], "unknown command 'trian': choose from train, launch, leaders"),
            (["leaders"], "RUN"),
            (["leaders", "--last", "x", "run"], "--last"),
        ],
    )
    def test_bad_usage(self, capsys, words, told):
        assert main(words) == 2
        assert told in only_sentence(capsys.readouterr().err)

    def test_leaders_of_no_run(self, capsys, tmp_path):
        assert main(["leaders", str(tmp_path / "nowhere")]) == 5
        assert "nowhere" in only_sentence(capsys.readouterr().err)
        (tmp_path / "leaders.csv").write_text("not,a,log\n", encoding="utf-8")
        assert main(["leaders", str(tmp_path)]) == 5
        assert "leaders.csv" in only_sentence(capsys.readouterr().err)

    @pytest.mark.parametrize("words", [["--help"], ["--version"], ["leaders", "--help"]])
    def test_help_and_version_are_no_errors(self, capsys, words):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        captured = capsys.readouterr()
        assert captured.out.startswith(("usage: lsgd-mpi", "lsgd-mpi "))
        assert captured.err == ""


def test_printed_options_can_be_given_back(tmp_path, capsys):
    words = ["--groups", "0-1;2,4;3", "--lr-milestones", "3,4.5", "--minutes", "0.5", "--no-download"]
    words += ["--nesterov", "--global-pull", "0.25", "--weight-decay", "1e-5", "--model", "mlp"]
    assert main(["train", *words, "--print-config"]) == 0
    printed = capsys.readouterr().out
    options = yaml.safe_load(printed)
    assert (options["minutes"], options["global_pull"], options["download"]) == (0.5, 0.25, False)
    (tmp_path / "options.yaml").write_text(printed, encoding="utf-8")
    assert main(["train", "--config", str(tmp_path / "options.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    changed = ["--lr", "0.5"]
    assert main(["train", "--config", str(tmp_path / "options.yaml"), *changed, "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {**options, "lr": 0.5}


def test_one_process_is_a_worker_without_a_launcher(places, tmp_path):
    """On files in MNIST's format, into the default run directory."""
    mnist = ("--dataset", "mnist", "--data-dir", places / "intact", "--model", "mlp", "--batch-size", 8)
    done = alone([*LSGD_MPI, "train", *mnist, "--epochs", 2, "--algorithm", "allreduce"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert run_dir.name.startswith("allreduce-mlp-mnist-2")
    assert [row["step"] for row in rows(run_dir / "metrics.csv")] == ["5", "10"]
    assert columns(run_dir / "leaders.csv").startswith("round,scope,group,")
