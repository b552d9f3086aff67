"""Methods that cannot run as asked: one sentence, code 2, nothing written. And one training by each."""

import math

import pytest
import yaml
from runs import SMALL, column, drive, only_sentence, rows

REFUSED = {
    "sequential on two": ("sgd, msgd, asgd and mvasgd are sequential", ("--algorithm", "asgd")),
    "downpour with momentum": ("downpour has no momentum", ("--algorithm", "downpour", "--momentum", 0.9)),
    "eamsgd with adam": ("not of Adam", ("--algorithm", "eamsgd", "--optimizer", "adam")),
    "rates disagree": (
        "--moving-rate 0.5 and --worker-moving-rate 0.5 disagree",
        ("--algorithm", "easgd", "--moving-rate", 0.5, "--worker-moving-rate", 0.5),
    ),
    "two schedules": (
        "--lr-milestones: pr-sgd-varying itself sets",
        ("--algorithm", "pr-sgd-varying", "--lr-milestones", 3),
    ),
    "momentum of adam": ("--momentum 0.5 has no effect", ("--optimizer", "adam", "--momentum", 0.5)),
}
TRAINED = ("pr-sgd", "pr-sgd-varying", "easgd", "easgd-gauss-seidel", "eamsgd", "downpour")


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory):
    """All refusals and, after them, a short training by each method: the results, and the runs' folder."""
    folder = tmp_path_factory.mktemp("methods")
    words = {name: given for name, (_, given) in REFUSED.items()}
    words |= {name: ("--algorithm", name, "--lr", 0.02) for name in TRAINED}
    short = (*SMALL, "--steps", 20, "--log-every", 10)
    cases = {
        name: ["train", *short, *given, "--run-dir", folder / "runs" / name] for name, given in words.items()
    }
    return drive(cases, folder, ranks=2), folder / "runs"


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_sentence_and_leaves_nothing(on_two_ranks, name):
    results, runs = on_two_ranks
    assert [each.code for each in results[name]] == [2, 2]
    assert REFUSED[name][0] in only_sentence(results[name][0].err)
    assert [results[name][1].err, *(each.out for each in results[name])] == [""] * 3
    assert not (runs / name).exists()


@pytest.mark.parametrize("name", TRAINED)
def test_a_method_trains_with_its_own_defaults(on_two_ranks, name):
    results, runs = on_two_ranks
    assert [(each.code, each.err) for each in results[name]] == [(0, "")] * 2
    assert results[name][1].out == ""
    options = yaml.safe_load((runs / name / "config.yaml").read_text(encoding="utf-8"))
    assert options["algorithm"] == name
    assert options.get("moving_rate", 0.9) == 0.9
    metrics = rows(runs / name / "metrics.csv")
    assert all(math.isfinite(loss) for loss in column(metrics, "test_loss"))
    assert rows(runs / name / "leaders.csv") == []
