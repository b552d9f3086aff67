import json
import math

import pytest
import torch
import yaml
from runs import LSGD_MPI, SMALL, column, columns, losses, rows, run_ranks

from lsgd_mpi.background import NICENESS
from lsgd_mpi.cli.main import main
from lsgd_mpi.models import build

GROUPS = [[0, 1], [2, 3]]
LOCAL_PERIOD, GLOBAL_PERIOD = 4, 10
STEPS, EPOCH_STEPS, LOG_EVERY = 44, 11, 5


def padded_bytes(tensors):
    """Bytes of the flat tensor: each float32 tensor padded to 16 bytes."""
    return sum(-(-each.numel() * 4 // 16) * 16 for each in tensors)


def digits_mlp():
    return build("mlp", channels=1, height=8, width=8, classes=10)


def train(run_dir, *words, ranks=4):
    done = run_ranks(ranks, [*LSGD_MPI, "train", *words, "--run-dir", run_dir])
    assert (done.returncode, done.left_behind) == (0, []), done.printed
    return done


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Four ranks in two groups, four epochs of 11 steps: what they printed, and the run directory."""
    run_dir = tmp_path_factory.mktemp("training") / "made" / "run"
    periods = ("--local-period", LOCAL_PERIOD, "--global-period", GLOBAL_PERIOD)
    return train(run_dir, *SMALL, "--groups", 2, "--epochs", 4, *periods, "--log-every", LOG_EVERY), run_dir


@pytest.fixture
def printed(job):
    return job[0]


@pytest.fixture
def run_dir(job):
    return job[1]


@pytest.fixture
def leaders(run_dir):
    return rows(run_dir / "leaders.csv")


@pytest.fixture
def metrics(run_dir):
    return rows(run_dir / "metrics.csv")


class TestRunDirectory:
    def test_has_exactly_the_files_of_the_architecture(self, run_dir):
        found = sorted(str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file())
        ranks = [f"ranks/rank-{rank:04d}.{suffix}" for rank in range(4) for suffix in ("csv", "log")]
        rounds = [f"ranks/rounds-{rank:04d}.csv" for rank in range(4)]
        assert found == ["config.yaml", "environment.json", "leaders.csv", "metrics.csv", *ranks, *rounds]

    def test_has_exactly_the_columns_of_the_architecture(self, run_dir):
        assert columns(run_dir / "metrics.csv") == (
            "step,epoch,total_steps,elapsed_s,train_loss,test_loss,test_error_pct,lr,sent_bytes,comm_s,"
            "rounds,evaluated"
        )
        assert columns(run_dir / "leaders.csv") == (
            "round,scope,group,step,total_steps,elapsed_s,leader_world_rank,leader_loss,"
            "previous_leader_world_rank,switched"
        )
        for rank in range(4):
            assert columns(run_dir / f"ranks/rank-{rank:04d}.csv") == (
                "step,elapsed_s,loss,error_pct,data_s,compute_s,comm_s,wait_s"
            )

    def test_environment_tells_groups_seed_and_command(self, run_dir):
        environment = json.loads((run_dir / "environment.json").read_text(encoding="utf-8"))
        assert environment["groups"] == GROUPS
        assert environment["seed"] == 0
        assert len(environment["hosts"]) == 4
        assert environment["threads"] == 1
        assert environment["horovod_gives_way"] == (0 if torch.cuda.is_available() else NICENESS)
        assert environment["command"][-2:] == ["--run-dir", str(run_dir)]
        assert {"torch", "horovod", "mpi4py", "lsgd_mpi"} <= environment["versions"].keys()

    def test_config_tells_every_option_resolved(self, run_dir):
        options = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
        expected = {"groups": 2, "model": "mlp", "lr": 0.1, "local_period": 4, "global_period": 10}
        assert expected.items() <= options.items()
        assert options["global_pull"] == 0.1

    def test_rank_zero_logs_the_evaluations_and_all_ranks_have_a_log(self, run_dir):
        log = (run_dir / "ranks/rank-0000.log").read_text(encoding="utf-8")
        assert log.count("test error") == 4
        assert all((run_dir / f"ranks/rank-{rank:04d}.log").stat().st_size for rank in range(4))


class TestMetrics:
    def test_one_row_an_epoch(self, metrics):
        assert column(metrics, "step", int) == [11, 22, 33, 44]
        assert column(metrics, "epoch") == [1.0, 2.0, 3.0, 4.0]
        assert column(metrics, "total_steps", int) == [44, 88, 132, 176]
        assert column(metrics, "lr") == [0.1] * 4
        assert column(metrics, "elapsed_s") == sorted(column(metrics, "elapsed_s"))

    def test_it_learns(self, metrics):
        assert float(metrics[-1]["test_error_pct"]) < 15.0
        assert float(metrics[-1]["test_loss"]) < float(metrics[0]["test_loss"])
        assert float(metrics[-1]["train_loss"]) < float(metrics[0]["train_loss"])

    def test_sent_bytes_are_those_of_the_method(self, metrics):
        election, broadcast = 16, padded_bytes(digits_mlp().parameters())
        # The average of the parameters, and six numbers in two sums.
        evaluation = broadcast + 48
        for number, row in enumerate(metrics, start=1):
            step = int(row["step"])
            local, global_ = step // LOCAL_PERIOD, step // GLOBAL_PERIOD
            # Where both fall together the leaders are those of the local round.
            elections = local + 2 * global_ - step // math.lcm(LOCAL_PERIOD, GLOBAL_PERIOD)
            expected = elections * election + (local + global_) * broadcast + number * evaluation
            assert int(row["sent_bytes"]) == expected

    def test_communication_takes_some_of_the_time(self, metrics):
        for row in metrics:
            assert 0 < float(row["comm_s"]) < float(row["elapsed_s"])


class TestLeaders:
    def test_one_row_a_round_and_group_and_one_a_global_round(self, leaders):
        local = list(range(LOCAL_PERIOD, STEPS + 1, LOCAL_PERIOD))
        global_ = list(range(GLOBAL_PERIOD, STEPS + 1, GLOBAL_PERIOD))
        for scope, group, steps in (("local", "0", local), ("local", "1", local), ("global", "", global_)):
            found = [row for row in leaders if (row["scope"], row["group"]) == (scope, group)]
            assert column(found, "step", int) == steps
            assert column(found, "round", int) == list(range(1, len(steps) + 1))
            assert column(found, "total_steps", int) == [4 * step for step in steps]
            assert column(found, "elapsed_s") == sorted(column(found, "elapsed_s"))
        assert len(leaders) == 2 * len(local) + len(global_)

    def test_leaders_are_members_and_switches_follow_from_them(self, leaders):
        previous = {}
        for row in leaders:
            place, leader = (row["scope"], row["group"]), row["leader_world_rank"]
            members = GROUPS[int(row["group"])] if row["group"] else range(4)
            assert int(leader) in members
            assert row["previous_leader_world_rank"] == previous.get(place, "")
            assert row["switched"] == str(int(place in previous and previous[place] != leader))
            assert math.isfinite(float(row["leader_loss"]))
            previous[place] = leader

    def test_the_best_of_the_local_leaders_leads_all(self, leaders):
        both = range(20, STEPS + 1, 20)
        assert len(both) == 2
        for step in both:
            local = [row for row in leaders if row["scope"] == "local" and int(row["step"]) == step]
            (best,) = (row for row in leaders if row["scope"] == "global" and int(row["step"]) == step)
            winner = min(local, key=lambda row: float(row["leader_loss"]))
            assert len(local) == 2
            for name in ("leader_world_rank", "leader_loss"):
                assert best[name] == winner[name]

    def test_the_leaders_command_counts_the_same(self, leaders, run_dir, capsys):
        assert main(["leaders", str(run_dir), "--json"]) == 0
        scopes = json.loads(capsys.readouterr().out)["scopes"]
        assert [(scope["scope"], scope["group"]) for scope in scopes] == [
            ("local", 0),
            ("local", 1),
            ("global", None),
        ]
        assert main(["leaders", str(run_dir)]) == 0
        blocks = capsys.readouterr().out.split("\n\n")
        tables = [dict(line.split()[:2] for line in block.splitlines()[1:]) for block in blocks[1::2]]
        for scope, table in zip(scopes, tables, strict=True):
            group = "" if scope["group"] is None else str(scope["group"])
            mine = [row for row in leaders if (row["scope"], row["group"]) == (scope["scope"], group)]
            assert scope["rounds"] == len(mine)
            assert scope["switches"] == sum(column(mine, "switched", int))
            led = column(mine, "leader_world_rank", int)
            assert scope["last_leaders"] == led[-10:]
            for rank in scope["ranks"]:
                assert rank["rounds_led"] == led.count(rank["world_rank"])
                assert table[str(rank["world_rank"])] == str(rank["rounds_led"])


class TestRanks:
    def test_one_row_each_log_every_steps(self, run_dir):
        for rank in range(4):
            table = rows(run_dir / f"ranks/rank-{rank:04d}.csv")
            assert column(table, "step", int) == list(range(LOG_EVERY, STEPS + 1, LOG_EVERY))

    def test_the_parts_of_the_time_are_not_more_than_the_whole(self, run_dir):
        for rank in range(4):
            spent_s = 0.0
            for row in rows(run_dir / f"ranks/rank-{rank:04d}.csv"):
                parts = [float(row[name]) for name in ("data_s", "compute_s", "comm_s", "wait_s")]
                assert min(parts) >= 0
                spent_s += sum(parts)
                assert spent_s <= float(row["elapsed_s"])
            assert spent_s > 0

    def test_ranks_train_on_batches_of_their_own(self, run_dir):
        first = [rows(run_dir / f"ranks/rank-{rank:04d}.csv")[0]["loss"] for rank in range(4)]
        assert len(set(first)) == 4


class TestOutput:
    def test_rank_zero_speaks_for_all(self, printed):
        assert printed.stderr == ""
        assert [printed.stdout_of(rank) for rank in (1, 2, 3)] == ["", "", ""]
        lines = printed.stdout_of(0).splitlines()
        assert "4 ranks in 2 groups: 0-1;2-3" in lines[0]
        assert sum("test error" in line for line in lines) == 4

    def test_no_bar_where_there_is_no_terminal(self, printed):
        for sign in ("\r", "\x1b", "█", "%|", "step/s,", "it/s"):
            assert sign not in printed.stdout.replace("steps/s", "")


def test_the_same_options_and_seed_give_the_same_bits(run_dir, tmp_path):
    """From the config.yaml of the first run, which the command line reads again."""
    again = tmp_path / "again"
    train(again, "--config", run_dir / "config.yaml")
    first, second = (
        yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) for folder in (run_dir, again)
    )
    assert first.pop("run_dir") == str(run_dir)
    assert second.pop("run_dir") == str(again)
    assert first == second
    assert losses(again) == losses(run_dir)
    for rank in range(4):
        tables = [rows(folder / f"ranks/rank-{rank:04d}.csv") for folder in (run_dir, again)]
        first, second = ([[row["step"], row["loss"], row["error_pct"]] for row in table] for table in tables)
        assert first == second


@pytest.mark.parametrize(
    "name", ["seed 0", "seed 1", "allreduce", "minutes", "average", "leader", "every-step"]
)
def test_two_ranks_end_well(pair, name):
    results, folder = pair
    assert [(each.code, each.err) for each in results[name]] == [(0, ""), (0, "")]
    assert results[name][1].out == ""
    metrics = rows(folder / name / "metrics.csv")
    assert metrics
    assert all(math.isfinite(loss) for loss in column(metrics, "test_loss"))


def test_another_seed_gives_another_run(pair):
    _, folder = pair
    metrics, leaders = losses(folder / "seed 0")
    others_metrics, others_leaders = losses(folder / "seed 1")
    assert metrics[0][1:3] != others_metrics[0][1:3]
    assert [row[-1] for row in leaders] != [row[-1] for row in others_leaders]


def test_allreduce_sends_its_gradients_at_every_step_and_nobody_leads(pair):
    _, folder = pair
    assert rows(folder / "allreduce" / "leaders.csv") == []
    metrics = rows(folder / "allreduce" / "metrics.csv")
    assert column(metrics, "lr") == pytest.approx([0.1, 0.01])
    flat = padded_bytes(digits_mlp().parameters())
    for number, row in enumerate(metrics, start=1):
        assert int(row["sent_bytes"]) == int(row["step"]) * flat + number * 48


def test_minutes_end_the_run_in_time(pair):
    _, folder = pair
    metrics = rows(folder / "minutes" / "metrics.csv")
    assert 1.5 <= float(metrics[-1]["elapsed_s"]) <= 5.5


@pytest.mark.parametrize("mode", ["average", "leader"])
def test_batch_norm_statistics_travel_when_asked_for(pair, mode):
    _, folder = pair
    model = build("resnet20", channels=3, height=32, width=32, classes=10)
    parameters = padded_bytes(model.parameters())
    floating = [each for each in model.buffers() if each.is_floating_point()]
    counters = sum(1 for each in model.buffers() if not each.is_floating_point())
    statistics = padded_bytes(floating) + 8 * counters
    recalibration = sum(4 * each.numel() for each in floating)
    (row,) = rows(folder / mode / "metrics.csv")
    assert int(row["sent_bytes"]) == 2 * (16 + parameters + statistics) + parameters + recalibration + 48
    assert len(rows(folder / mode / "leaders.csv")) == 2


def test_horovod_that_sends_gradients_in_the_backward_pass_does_not_give_way(pair):
    _, runs = pair
    environment = json.loads((runs / "allreduce" / "environment.json").read_text(encoding="utf-8"))
    assert environment["horovod_gives_way"] == 0
