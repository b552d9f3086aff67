"""Every preset against the option parser, the papers' tables, and what its own header says."""

import re

import pytest
import torch

from lsgd_mpi.algorithms import find_algorithm
from lsgd_mpi.config import make_train_options, read_config
from lsgd_mpi.errors import UsageError
from lsgd_mpi.groups import make_topology
from lsgd_mpi.local_optimizer import make_local_optimizer
from lsgd_mpi.presets import describe_preset, preset_names, preset_path, preset_text

CNN7_RATES, DEEP_RATES, THESIS_RATES = {0.1, 0.05, 0.01, 0.005, 0.001}, {0.2, 0.1, 0.05}, {0.05, 0.01, 0.005}
DOWNPOUR_RATES = {0.005, 0.001, 0.0005}
CNN7_PULLS = {0.5, 0.2, 0.1, 0.05, 0.025}

#: What the papers searched: {table: {algorithm: learning rates}}, copied from them.
RATES = {
    "2": {
        **dict.fromkeys(("sgd", "easgd", "lsgd"), CNN7_RATES),
        "downpour": {0.05, 0.01, 0.005, 0.001, 0.0005},
    },
    "3": {**dict.fromkeys(("sgd", "easgd", "lsgd"), DEEP_RATES), "downpour": {*DEEP_RATES, 0.01}},
    "4": {**dict.fromkeys(("sgd", "easgd", "lsgd"), DEEP_RATES), "downpour": {*DEEP_RATES, 0.01}},
    "4.1": {
        **dict.fromkeys(("easgd", "sgd", "asgd", "mvasgd"), THESIS_RATES),
        "eamsgd": {0.01, 0.005, 0.001},
        **dict.fromkeys(("downpour", "adownpour", "mvadownpour"), DOWNPOUR_RATES),
        "mdownpour": {5e-5, 1e-5, 5e-6},
        "msgd": {0.001, 0.0005, 0.0001},
    },
}
PULLS = {"2": CNN7_PULLS, "3": CNN7_PULLS, "4": {0.2, 0.1}}
TABLES = {"cnn7": "2", "resnet20": "3", "vgg16": "4"}

#: Iteration of a worker at which the rate drops, and CIFAR-10's training images.
DROPS = {"resnet20": 32_000, "vgg16": 25_000}
IMAGES = 50_000

NAMES = preset_names()


def options_of(name):
    return make_train_options(read_config(preset_path(name)))


def header(name):
    """The comment before the options, in one line."""
    text, _, _ = preset_text(name).partition("\n\n")
    lines = text.splitlines()
    assert all(line.startswith("#") for line in lines)
    return " ".join(line.removeprefix("#").strip() for line in lines)


def ranks_of(name):
    """How many ranks the header starts."""
    (ranks,) = re.findall(rf"mpirun -np (\d+) lsgd-mpi train --preset {name} ", header(name))
    return int(ranks)


def table_of(name):
    return "4.1" if name.endswith("-thesis") else TABLES[options_of(name).model]


def test_there_is_one_for_each_method_and_network_of_the_tables():
    lsgd = {f"{algorithm}-{model}-cifar10" for model, table in TABLES.items() for algorithm in RATES[table]}
    sixteen = {"lsgd-cnn7-cifar10-16", "lsgd-resnet20-cifar10-16"}
    thesis = {f"{algorithm}-cnn7-cifar10-thesis" for algorithm in RATES["4.1"]}
    assert set(NAMES) == lsgd | sixteen | thesis
    assert list(NAMES) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestEveryPreset:
    def test_is_named_after_what_it_trains(self, name):
        options = options_of(name)
        named, suffix = re.fullmatch(r"(.+?)(-16|-thesis)?", name).groups()
        assert named == f"{options.algorithm}-{options.model}-{options.dataset}"
        assert (suffix == "-16") == (ranks_of(name) == 16)

    def test_has_options_that_its_ranks_can_run(self, name):
        options = options_of(name)
        topology = make_topology(options.groups, ["node"] * ranks_of(name))
        assert options.method.useless(topology) == []
        assert options.method.resolved(topology).doubts(topology) == []
        parameter = torch.nn.Parameter(torch.zeros(1))
        find_algorithm(options.algorithm).check_optimizer(make_local_optimizer([parameter], options))

    def test_takes_values_that_the_paper_searched(self, name):
        options, table = options_of(name), table_of(name)
        assert options.lr in RATES[table][options.algorithm]
        if options.algorithm == "lsgd":
            assert options.method.local_pull in PULLS[table]
            assert options.method.global_pull in (None, options.method.local_pull)

    def test_has_the_values_that_the_paper_fixed(self, name):
        options, method = options_of(name), options_of(name).method
        assert (options.batch_size, options.weight_decay, options.optimizer) == (128, 1e-4, "sgd")
        momentum = options.algorithm in ("msgd", "eamsgd", "mdownpour")
        assert (options.momentum, options.nesterov) == ((0.99, True) if momentum else (0.0, False))
        fixed = {
            "lsgd": {"local_period": 64, "loss_window": 10, "pull": "once"},
            "easgd": {"local_period": 64, "moving_rate": 0.43},
            "downpour": {"local_period": 1},
        }
        thesis = {
            "easgd": {"local_period": 10, "moving_rate": 0.9},
            "eamsgd": {"local_period": 10, "moving_rate": 0.9},
            "downpour": {"local_period": 1},
            "adownpour": {"local_period": 1},
            "mvadownpour": {"local_period": 1, "averaging_rate": 0.001},
            "mvasgd": {"averaging_rate": 0.001},
        }
        expected = (thesis if name.endswith("-thesis") else fixed).get(options.algorithm, {})
        assert {option: getattr(method, option) for option in expected} == expected

    def test_drops_the_rate_where_the_header_says(self, name):
        options, ranks = options_of(name), ranks_of(name)
        if options.model not in DROPS:
            assert options.lr_milestones == ()
            return
        (epoch,) = options.lr_milestones
        epoch_steps = IMAGES // (options.batch_size * ranks)
        assert abs(epoch * epoch_steps - DROPS[options.model]) <= epoch_steps / 2
        assert options.lr_decay == 0.1
        assert options.steps > epoch * epoch_steps
        assert f"iteration {DROPS[options.model]:,}" in header(name)
        assert f"epoch {epoch:.0f} of {epoch_steps} iterations" in header(name)

    def test_stops_where_the_header_says(self, name):
        assert f"{options_of(name).steps:,} iterations of each worker" in header(name)

    def test_cites_its_table_and_says_what_to_expect(self, name):
        said, options = header(name), options_of(name)
        thesis = name.endswith("-thesis")
        only_first = options.algorithm in ("adownpour", "mvadownpour")
        thesis_tables = "Table 4.1;" if only_first else "Tables 4.1 and 4.2"
        assert (thesis_tables if thesis else f"Table {table_of(name)};") in said
        assert ("Zhang" if thesis else "Teng et al.") in said
        parts = ["Source", "Run", "Searched", "Fixed in the", "Length", "Expect", "Time"]
        assert all(f" {part}" in said for part in parts)
        in_step = ranks_of(name) > 1 and options.clock == "step"
        assert ("workers keep step here" in said) == in_step
        if in_step:
            asynchronous = "shared" if options.algorithm == "lsgd" else "own"
            assert f"--clock {asynchronous}" in said
            find_algorithm(options.algorithm, asynchronous)
        assert f"{options.lr:g}".replace("e-0", "e-") in said.partition("Searched: ")[2].partition("Fixed")[0]

    def test_describes_itself_in_a_line(self, name):
        described = describe_preset(name)
        assert 20 < len(described) <= 100
        assert described.isascii()
        assert re.search(r"\((LSGD paper, Table \d|EASGD thesis, Tables? 4\.1( and 4\.2)?)\)$", described)


def test_sixteen_workers_are_four_groups_with_global_rounds():
    for name in ("lsgd-cnn7-cifar10-16", "lsgd-resnet20-cifar10-16"):
        options = options_of(name)
        assert [len(group) for group in make_topology(options.groups, ["node"] * 16).groups] == [4] * 4
        assert options.method.global_period == 128


@pytest.mark.parametrize("name", ["lsgd-cnn7-cifar10", "lsgd-vgg16-cifar10"])
def test_four_workers_are_one_group(name):
    assert len(make_topology(options_of(name).groups, ["node"] * 4).groups) == 1


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("lsdg-cnn7-cifar10", "lsgd-cnn7-cifar10"),
        ("lsgd-cnn7", "lsgd-cnn7-cifar10"),
        ("LSGD-resnet20-cifar10", "lsgd-resnet20-cifar10"),
        ("eamsgd-cnn7-cifar10", "eamsgd-cnn7-cifar10-thesis"),
        ("lsgd-vgg16-cifar10.yaml", "lsgd-vgg16-cifar10"),
    ],
)
def test_an_unknown_name_is_told_with_near_ones(given, near):
    with pytest.raises(UsageError, match=rf"unknown preset '{given}': did you mean [^?]*\b{near}\b"):
        preset_path(given)


@pytest.mark.parametrize("given", ["", "zzz", "../config", "/etc/passwd", "__init__"])
def test_a_name_like_no_other_is_told_where_all_are(given):
    with pytest.raises(UsageError) as refused:
        preset_path(given)
    assert str(refused.value) == f"unknown preset {given!r}: 'lsgd-mpi presets' lists all {len(NAMES)}"
