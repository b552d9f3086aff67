import argparse
import math
from pathlib import Path

import pytest
import yaml

from lsgd_mpi.algorithms.lsgd import LSGDOptions
from lsgd_mpi.config import TrainOptions, add_options, make_train_options, read_config
from lsgd_mpi.errors import UsageError


def from_words(*words):
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, exit_on_error=False)
    add_options(parser)
    return vars(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def config(tmp_path):
    """Writes a text to a file and reads it as --config does."""
    path = tmp_path / "options.yaml"

    def read(text):
        path.write_text(text, encoding="utf-8")
        return read_config(path)

    return read


class TestCommandLine:
    def test_only_what_is_given_is_in_the_namespace(self):
        assert from_words() == {}
        assert from_words("--lr", 0.5) == {"lr": 0.5}

    def test_every_option_arrives_with_its_type(self):
        given = from_words(
            *("--algorithm", "lsgd", "--groups", "0-1;3,2", "--model", "mlp", "--dataset", "mnist"),
            *("--data-dir", "somewhere", "--no-download", "--limit", 100, "--batch-size", 8),
            *(
                "--epochs",
                1.5,
                "--steps",
                9,
                "--minutes",
                0.5,
                "--optimizer",
                "sgd",
                "--lr",
                0.25,
                "--lr-milestones",
                "3,4.5",
            ),
            *("--lr-decay", 0.5, "--momentum", 0.75, "--nesterov", "--weight-decay", 0, "--seed", 7),
            *("--device", "cpu", "--threads", 2, "--eval-every", 3, "--recalibrate", 4, "--log-every", 5),
            *("--stall-timeout", 30, "--run-dir", "run", "--clock", "shared", "--slow-rank", "1=2.5,0=3"),
            *("--local-period", 6, "--global-period", 12, "--local-pull", 0.5),
            *("--global-pull", 0.25, "--loss-window", 3, "--pull", "every-step", "--bn", "average"),
        )
        options = make_train_options(given)
        own = {name: value for name, value in vars(options).items() if name != "method"}
        assert own == {
            "algorithm": "lsgd",
            "groups": [[0, 1], [3, 2]],
            "model": "mlp",
            "dataset": "mnist",
            "data_dir": Path("somewhere"),
            "download": False,
            "limit": 100,
            "batch_size": 8,
            "epochs": 1.5,
            "steps": 9,
            "minutes": 0.5,
            "optimizer": "sgd",
            "lr": 0.25,
            "lr_milestones": (3.0, 4.5),
            "lr_decay": 0.5,
            "momentum": 0.75,
            "nesterov": True,
            "weight_decay": 0.0,
            "seed": 7,
            "device": "cpu",
            "threads": 2,
            "eval_every": 3,
            "recalibrate": 4,
            "log_every": 5,
            "stall_timeout": 30.0,
            "run_dir": Path("run"),
            "clock": "shared",
            "slow_rank": ((1, 2.5), (0, 3.0)),
        }
        assert options.method == LSGDOptions(6, 12, 0.5, 0.25, 3, "every-step", "average")

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (("--groups", "0,a"), "'0,a': cannot read 'a'; write 'node'"),
            (("--groups", "3-1"), "runs backwards"),
            (("--lr-milestones", "30,late"), "'30,late': write epochs such as 30,60,90"),
            (("--slow-rank", "2"), "'2': write a world rank and how many times slower: 2=3.0"),
            (("--slow-rank", "2=3,2=4"), "names a world rank twice"),
            (("--lr", "fast"), "invalid float value: 'fast'"),
            (("--steps", "1.5"), "invalid int value: '1.5'"),
        ],
    )
    def test_what_cannot_be_read_is_told_with_its_flag(self, words, told):
        with pytest.raises(argparse.ArgumentError) as refused:
            from_words(*words)
        assert str(refused.value).startswith(f"argument {words[0]}: ")
        assert told in str(refused.value)
        assert str(refused.value).count(words[0]) == 1


class TestConfigFile:
    def test_the_command_line_overrides_the_file_which_overrides_the_defaults(self, config):
        in_file = config("lr: 0.5\nmomentum: 0.25\nlocal-period: 3\n")
        options = make_train_options({**in_file, **from_words("--lr", 0.125, "--local-pull", 1)})
        assert (options.lr, options.momentum, options.batch_size) == (0.125, 0.25, TrainOptions.batch_size)
        assert (options.method.local_period, options.method.local_pull) == (3, 1.0)

    def test_all_options_can_be_given_back(self, config):
        options = make_train_options(
            from_words(
                *("--groups", "0-1;2,4;3", "--lr-milestones", "3,4.5", "--minutes", 0.5, "--nesterov"),
                *("--data-dir", "some where", "--no-download", "--global-pull", 0.5, "--lr", 1e-5),
            )
        )
        plain = {
            name: str(value)
            if isinstance(value, Path)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in options.as_dict().items()
        }
        assert make_train_options(config(yaml.safe_dump(plain))) == options

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("lr: 1e-2", {"lr": 0.01}),
            ("groups: 4", {"groups": 4}),
            ("groups: [[0, 2], [1]]", {"groups": [[0, 2], [1]]}),
            ("groups: 0-1;2", {"groups": [[0, 1], [2]]}),
            ("lr_milestones: [30, 60.5]", {"lr_milestones": (30.0, 60.5)}),
            ("lr_milestones: 30", {"lr_milestones": (30.0,)}),
            ("lr_milestones: []", {"lr_milestones": ()}),
            ("global_period: null\nsteps: null", {"global_period": None, "steps": None}),
            ("download: no", {"download": False}),
            ("slow_rank: 2=3", {"slow_rank": ((2, 3.0),)}),
            ("slow_rank: [2=3, 0=1.5]", {"slow_rank": ((2, 3.0), (0, 1.5))}),
            ("slow_rank: ''", {"slow_rank": ()}),
            ("", {}),
            ("# nothing\n", {}),
        ],
    )
    def test_yaml_values(self, config, text, expected):
        assert config(text) == expected
        make_train_options(expected)

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("lr: fast", "lr: 'fast' cannot be used"),
            ("lr: null", "lr: None cannot be used (it needs a value)"),
            ("lr: true", "lr: True cannot be used"),
            ("lr: [1, 2]", "lr: [1, 2] cannot be used"),
            ("lr: {a: 1}", "lr: {'a': 1} cannot be used"),
            ("batch_size: 2.5", "batch_size: 2.5 cannot be used"),
            ("local-period: null", "local-period: None cannot be used"),
            ("local_pull: null", "local_pull: None cannot be used"),
            ("lr: null", "lr: None cannot be used"),
            ("algorithm: null", "algorithm: None cannot be used"),
            ("lr_milestones: null", "lr_milestones: None cannot be used"),
            ("lr_milestones: [[1, 2]]", "lr_milestones: [[1, 2]] cannot be used"),
            ("groups: null", "groups: None cannot be used"),
            ("groups: [[0, a]]", "groups: [[0, 'a']] cannot be used"),
            ("groups: [[0], 1]", "groups: [[0], 1] cannot be used"),
            ("groups: []", "groups: [] cannot be used"),
            ("groups: -1", "groups: -1 cannot be used"),
            ("download: 0", "download: 0 cannot be used (write true or false)"),
            ("nesterov: 'no'", "nesterov: 'no' cannot be used (write true or false)"),
            ("run_dir: [a, b]", "run_dir: ['a', 'b'] cannot be used"),
        ],
    )
    def test_a_value_that_cannot_be_names_file_and_option(self, config, tmp_path, text, told):
        with pytest.raises(UsageError) as refused:
            config(text)
        assert str(refused.value).startswith(f"--config {tmp_path / 'options.yaml'}: {told}")

    @pytest.mark.parametrize("text", ["- lr", "lr", "3: 4", "{lr: 1}: 2"])
    def test_what_is_no_list_of_options(self, config, text):
        with pytest.raises(UsageError, match=r"--config .*options\.yaml: "):
            config(text)

    def test_broken_yaml_is_told_with_its_line(self, config):
        with pytest.raises(UsageError, match=r"options\.yaml: no valid YAML at line 3"):
            config("lr: 1\nsteps: 3\nmodel: mlp: cnn7\n")
        with pytest.raises(UsageError, match=r"no valid YAML at line 2"):
            config("lr: 1\n\tsteps: 3\n")

    @pytest.mark.parametrize("name", ["missing.yaml", "."])
    def test_a_file_that_cannot_be_read(self, tmp_path, name):
        with pytest.raises(UsageError, match=r"--config .*cannot be read"):
            read_config(tmp_path / name)

    def test_a_file_that_is_no_text(self, tmp_path):
        (tmp_path / "noise").write_bytes(b"\xff\xfe\x00lr")
        with pytest.raises(UsageError, match=r"--config .*noise: "):
            read_config(tmp_path / "noise")


class TestNames:
    @pytest.mark.parametrize(
        ("given", "near"),
        [("local_perod", "local_period"), ("batchsize", "batch_size"), ("momentun", "momentum")],
    )
    def test_an_unknown_name_is_told_with_a_near_one(self, given, near):
        with pytest.raises(UsageError, match=f"'{given}'; did you mean {near}"):
            make_train_options({given: 1})

    def test_a_name_like_no_other_is_told_alone(self):
        with pytest.raises(UsageError, match=r"unknown option 'zzz'$"):
            make_train_options({"zzz": 1})

    @pytest.mark.parametrize(
        ("option", "given", "near"),
        [
            ("algorithm", "lsdg", "lsgd"),
            ("model", "resnet-20", "resnet20"),
            ("dataset", "fashion_mnist", "fashion-mnist"),
            ("device", "gpu", None),
            ("bn", "locals", None),
            ("pull", "twice", None),
        ],
    )
    def test_a_choice_that_is_none_is_told_with_the_choices(self, option, given, near):
        with pytest.raises(UsageError, match=f"^--{option} '{given}': choose from ") as refused:
            make_train_options({option: given})
        if near:
            assert str(refused.value).endswith(f"did you mean {near}?")

    def test_options_of_another_algorithm_are_refused(self):
        with pytest.raises(UsageError, match=r"^--local-period is no option of allreduce"):
            make_train_options({"algorithm": "allreduce", "local_period": 4})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, [0, -1]) for name in ("batch_size", "log_every", "eval_every", "steps", "threads", "limit")),
        ("recalibrate", [0, -1]),
        *((name, [0.0, -1.0, math.nan, math.inf]) for name in ("epochs", "minutes", "lr", "lr_decay")),
        ("weight_decay", [-1e-9, math.nan, math.inf]),
        ("stall_timeout", [-1.0, math.nan, math.inf]),
        ("seed", [-1, 2**32]),
        ("momentum", [-0.1, 1.0, math.nan]),
        ("local_period", [0, -3]),
        ("global_period", [0, -3]),
        ("local_pull", [-0.1, 1.5, math.nan]),
        ("global_pull", [-0.1, 1.5, math.nan]),
        ("loss_window", [0, -1]),
    ],
)
def test_a_value_out_of_range_names_its_flag(name, values):
    for value in values:
        with pytest.raises(UsageError) as refused:
            make_train_options({name: value})
        assert str(refused.value).startswith(f"--{name.replace('_', '-')} {value}: ")


@pytest.mark.parametrize("epoch", [0.0, -3.0, math.nan, math.inf])
def test_a_milestone_is_a_time_in_training(epoch):
    with pytest.raises(UsageError, match=r"^--lr-milestones "):
        make_train_options({"lr_milestones": (30.0, epoch)})


@pytest.mark.parametrize(
    ("name", "value"),
    [("local_pull", 0.0), ("local_pull", 1.0), ("momentum", 0.0), ("seed", 2**32 - 1), ("local_period", 1)],
)
def test_the_ends_of_the_ranges_are_in(name, value):
    make_train_options({name: value})


def test_a_combination_without_effect_is_refused():
    with pytest.raises(UsageError, match=r"--nesterov has no effect with --momentum 0"):
        make_train_options({"nesterov": True, "momentum": 0.0})


@pytest.mark.parametrize(
    "given",
    [
        {"lr_decay": 0.5},
        {"dataset": "digits", "data_dir": Path("somewhere")},
    ],
    ids=lambda given: " ".join(given),
)
def test_an_option_that_nothing_reads_is_refused(given):
    with pytest.raises(UsageError):
        make_train_options(given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"optimizer": "adam", "momentum": 0.9}, "--momentum 0.9 has no effect with --optimizer adam"),
        ({"optimizer": "adamw", "momentum": 0.0}, "--momentum 0.0 has no effect with --optimizer adamw"),
        ({"optimizer": "adam", "nesterov": True}, "--nesterov has no effect with --optimizer adam"),
        ({"optimizer": "lars", "nesterov": True}, "--nesterov has no effect with --optimizer lars"),
        (
            {"algorithm": "pr-sgd-varying", "lr_milestones": (3.0,)},
            "--lr-milestones: pr-sgd-varying itself sets the learning rate",
        ),
        ({"algorithm": "easgd", "moving_rate": -0.5}, "--moving-rate -0.5: "),
        ({"algorithm": "easgd", "worker_moving_rate": -0.5}, "--worker-moving-rate -0.5: "),
        ({"algorithm": "downpour", "local_period": 0}, "--local-period 0: "),
        ({"algorithm": "downpour", "moving_rate": 0.5}, "--moving-rate is no option of downpour"),
        ({"algorithm": "pr-sgd-varying", "local_period": 4}, "--local-period is no option of pr-sgd-varying"),
        ({"algorithm": "sgd", "averaging_rate": 0.5}, "--averaging-rate is no option of sgd"),
    ],
)
def test_what_a_method_or_an_optimizer_cannot_have_is_told_with_its_flag(given, told):
    with pytest.raises(UsageError) as refused:
        make_train_options(given)
    assert str(refused.value).startswith(told)


class TestDefaultsOfMethods:
    @pytest.mark.parametrize(
        ("algorithm", "momentum", "nesterov"),
        [
            *((name, 0.9, False) for name in ("lsgd", "allreduce")),
            *((name, 0.0, False) for name in ("pr-sgd", "pr-sgd-varying")),
            *((name, 0.0, False) for name in ("easgd", "easgd-gauss-seidel", "downpour")),
            *((name, 0.0, False) for name in ("sgd", "asgd", "mvasgd")),
            *((name, 0.9, True) for name in ("eamsgd", "msgd")),
        ],
    )
    def test_momentum_is_what_the_methods_paper_takes(self, algorithm, momentum, nesterov):
        options = make_train_options({"algorithm": algorithm})
        assert (options.momentum, options.nesterov) == (momentum, nesterov)

    def test_what_is_given_is_kept(self):
        options = make_train_options({"algorithm": "easgd", "momentum": 0.5, "nesterov": True})
        assert (options.momentum, options.nesterov) == (0.5, True)
        options = make_train_options({"algorithm": "eamsgd", "momentum": 0.5, "nesterov": False})
        assert (options.momentum, options.nesterov) == (0.5, False)

    @pytest.mark.parametrize("algorithm", ["lsgd", "easgd"])
    def test_an_optimizer_without_momentum_gets_none(self, algorithm):
        options = make_train_options({"algorithm": algorithm, "optimizer": "adam"})
        assert (options.momentum, options.nesterov) == (None, None)
        options = make_train_options({"algorithm": algorithm, "optimizer": "lars"})
        assert options.momentum == (0.0 if algorithm == "easgd" else 0.9)
        assert options.nesterov is None

    @pytest.mark.parametrize("algorithm", ["easgd", "eamsgd", "downpour", "mvasgd", "pr-sgd-varying"])
    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    def test_they_can_be_given_back(self, config, algorithm, optimizer):
        options = make_train_options({"algorithm": algorithm, "optimizer": optimizer})
        plain = {name: value for name, value in options.as_dict().items() if name != "lr_milestones"}
        assert make_train_options(config(yaml.safe_dump(plain))) == options

    def test_eamsgd_without_momentum_is_easgd_and_no_mistake(self):
        # Nobody asked for Nesterov's form: it is a default, of which nothing is left without momentum.
        options = make_train_options({"algorithm": "eamsgd", "momentum": 0.0})
        assert (options.momentum, options.nesterov) == (0.0, False)
