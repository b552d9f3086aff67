"""The model of what communication costs: closed forms, and its behaviour where they end."""

import math
from pathlib import Path

import pytest

from lsgd_mpi.algorithms import ALGORITHMS, VARIANTS
from lsgd_mpi.cli.main import main
from lsgd_mpi.cost import PATTERNS, Cluster, Training, average_s, predict, pull_s, visit_s
from lsgd_mpi.errors import UsageError

MODEL = Training(nbytes=44e6, iteration_s=0.1, jitter=0.0)
TWO = Cluster(nodes=2, ranks=1, gbit_per_s=1.0, latency_s=1e-9, local_latency_s=1e-9, cycle_s=1e-9)
#: 44 MB on 1 Gbit/s, with the headers of 1,448 bytes each.
LINK_S = 0.352 * 1514 / 1448


def test_between_two_nodes_everything_is_the_link():
    assert pull_s(TWO, 44e6) == pytest.approx(LINK_S, rel=1e-6)
    # Two ranks send each other half of the bytes twice, both ways at once.
    assert average_s(TWO, 44e6) == pytest.approx(LINK_S, rel=1e-6)
    assert visit_s(TWO, 44e6) == pytest.approx(2 * LINK_S, rel=1e-6)


def test_a_period_divides_the_transfer():
    for pattern in ("pull", "average", "visit"):
        once = predict(pattern, TWO, MODEL, period=1).transfer_s
        assert predict(pattern, TWO, MODEL, period=8).transfer_s == pytest.approx(once / 8)
    assert predict("gradients", TWO, MODEL, period=8).transfer_s == pytest.approx(LINK_S, rel=1e-6)
    share = predict("pull", TWO, MODEL, period=64, global_period=128).share
    assert share == pytest.approx(1 / (1 + LINK_S / 12.8), rel=1e-6)


def test_local_rounds_stay_inside_the_node():
    many = Cluster(nodes=8, ranks=4, gbit_per_s=1.0)
    rare, local = (
        predict("pull", many, MODEL, period=tau, global_period=1024).transfer_s for tau in (1024, 4)
    )
    inside = many.local_s(44e6)
    assert local - rare == pytest.approx((1 / 4 - 1 / 1024) * inside, rel=0.2)
    # On one node there is no global pull, whatever its period.
    alone = Cluster(nodes=1, ranks=4, gbit_per_s=1.0)
    costs = [predict("pull", alone, MODEL, period=64, global_period=each) for each in (4, 64, 1024)]
    assert costs[0] == costs[1] == costs[2]
    assert 0 < costs[0].share < 1
    assert inside < 0.1 * many.link_s(44e6)


def test_waiting_is_that_for_the_slowest():
    jitter = Training(nbytes=4.0, iteration_s=0.1, jitter=0.1)
    # The mean of the larger of two standard normal numbers is 1 / sqrt(pi).
    waiting = predict("average", TWO, jitter, period=16).waiting_s
    assert waiting == pytest.approx(0.1 * 0.1 / math.sqrt(math.pi) / math.sqrt(16), rel=0.01)
    assert predict("average", Cluster(1, 1, 1.0), jitter, period=16).waiting_s == 0.0


@pytest.mark.parametrize("pattern", PATTERNS)
def test_more_workers_never_help_and_faster_links_never_hurt(pattern):
    training = Training(nbytes=44e6, iteration_s=0.1)
    shares = [
        [
            predict(pattern, Cluster(nodes, 4, rate), training, period=16, global_period=64).share
            for nodes in (1, 4, 16, 64, 256)
        ]
        for rate in (1.0, 10.0, 100.0)
    ]
    for row in shares:
        assert row == sorted(row, reverse=True)
        assert all(0 < share < 1 for share in row)
    for column in zip(*shares, strict=True):
        assert list(column) == sorted(column)


def test_gradients_are_negotiated_as_horovod_fuses_them():
    slow = Cluster(nodes=2, ranks=1, gbit_per_s=1.0, cycle_s=0.2, latency_s=1e-9)
    # 3 pieces of up to 16 MB, or one.
    assert predict("average", slow, MODEL, period=1).transfer_s == pytest.approx(LINK_S + 0.5, rel=1e-4)
    assert predict("gradients", slow, MODEL, period=1).transfer_s == pytest.approx(LINK_S + 0.1, rel=1e-4)


def test_visitors_of_a_center_that_cannot_serve_all_queue():
    training = Training(nbytes=44e6, iteration_s=0.1)
    busy = Cluster(nodes=64, ranks=4, gbit_per_s=1.0)
    cost = predict("visit", busy, training, period=16)
    # 252 visitors, each of whom keeps the link busy, and 4 of the center's own node are served in one turn.
    turn_s = 252 * visit_s(busy, 44e6) + 4 * visit_s(Cluster(1, 4, 1.0), 44e6)
    assert 16 * (cost.iteration_s + cost.transfer_s + cost.waiting_s) == pytest.approx(turn_s, rel=0.01)


def test_every_method_says_what_its_rounds_send_or_that_nobody_models_it():
    patterns = {name: {cls.pattern for cls in VARIANTS[name]} for name in ALGORITHMS}
    assert patterns["lsgd"] == {"pull"}
    assert patterns["allreduce"] == {"gradients"}
    assert patterns["easgd"] == {"average", "visit"}
    assert {name for name, found in patterns.items() if found == {None}} == {
        "easgd-tree",
        "pr-sgd-timed",
        "pr-sgd-varying",
        "mdownpour",
        "sgd",
        "msgd",
        "asgd",
        "mvasgd",
    }
    assert set().union(*patterns.values()) <= {*PATTERNS, None}


def test_numbers_that_make_no_sense_are_refused():
    for make in (
        lambda: Cluster(0, 4, 1.0),
        lambda: Cluster(2, 4, 0.0),
        lambda: Training(0.0, 0.1),
        lambda: Training(float("nan"), 0.1),
        lambda: Training(4.0, 0.1, jitter=-1.0),
        lambda: predict("gossip", TWO, MODEL, period=1),
        lambda: predict("pull", TWO, MODEL, period=0),
    ):
        with pytest.raises(UsageError):
            make()


def measured_rounds():
    """Kind, parameters, ranks a node, measured and predicted ms of the committed rounds between two nodes."""
    text = (Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "ethernet.md").read_text()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in ("global pull", "average", "visit from the other node"):
            parameters, ranks = (int(cell.replace(",", "")) for cell in cells[1:3])
            yield cells[0], parameters, ranks, float(cells[3]), float(cells[5])


def test_the_model_agrees_with_the_measured_rounds():
    """Within 15 %, and as the committed table says."""
    models = {"global pull": pull_s, "average": average_s, "visit from the other node": visit_s}
    rounds = list(measured_rounds())
    assert len(rounds) == 12
    for kind, parameters, ranks, measured_ms, told_ms in rounds:
        predicted_s = models[kind](Cluster(2, ranks, 1.0), 4 * parameters)
        assert told_ms == pytest.approx(1e3 * predicted_s, abs=0.06)
        assert measured_ms == pytest.approx(1e3 * predicted_s, rel=0.15)


class TestCommand:
    WORDS = ("cost", "--parameters", "11e6", "--iteration-ms", "100")

    def test_prints_a_table_of_workers_and_links(self, capsys):
        assert main([*self.WORDS]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[2:]] == ["4", "16", "64", "256", "1024"]
        assert lines[1].split() == ["workers", "1", "Gbit/s", "10", "Gbit/s", "100", "Gbit/s"]

    def test_prints_one_cluster_in_detail(self, capsys):
        assert main([*self.WORDS, "--nodes", "2", "--ranks-per-node", "1", "--jitter", "0"]) == 0
        out = capsys.readouterr().out
        training = Training(44e6, 0.1, 0.0)
        share = predict("pull", Cluster(2, 1, 1.0), training, period=64, global_period=128).share
        assert f"share of the rate without communication: {share:.3f}" in out

    def test_takes_the_cycle_of_horovods_threads(self, capsys):
        every = ("--nodes", "2", "--local-period", "1", "--global-period", "1", "--jitter", "0")
        assert main([*self.WORDS, *every, "--ranks-per-node", "1", "--cycle-ms", "2000"]) == 0
        slow = Cluster(2, 1, 1.0, cycle_s=2.0)
        share = predict("pull", slow, Training(44e6, 0.1, 0.0), period=1, global_period=1).share
        assert f"share of the rate without communication: {share:.3f}" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (["--algorithm", "easgd-tree"], "its cost is not modelled"),
            (["--nodes", "0"], "at least one of each"),
            (["--algorithm", "lsgdd"], "choose from"),
            (["--nodes", "2", "--gbit", "0"], "larger than 0"),
            (["--nodes", "2", "--gbit", "nan"], "finite"),
            (["--local-period", "0"], "at least one iteration"),
            (["--gbit", "40"], "add --nodes"),
            (["--algorithm", "pr-sgd", "--global-period", "4"], "pr-sgd has no global rounds"),
            (["--algorithm", "allreduce", "--local-period", "4"], "in every iteration"),
        ],
    )
    def test_refuses_what_it_does_not_know(self, capsys, words, why):
        assert main([*self.WORDS, *words]) == 2
        assert why in capsys.readouterr().err
