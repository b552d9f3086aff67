import math

import pytest
import torch

from lsgd_mpi.evaluate import Evaluation, evaluate, recalibrated

LN2, LN3 = math.log(2), math.log(3)


class Alone:
    """A world of one rank, which remembers what it was given."""

    def __init__(self):
        self.sums = []
        self.averaged = []

    def sum(self, values):
        self.sums.append(list(values))
        return list(values)

    def average(self, flat, scope):
        assert scope == "global"
        self.averaged.append(flat.clone())


class BesideOther:
    """A world of two ranks, of which the other one did what ``other`` remembers."""

    def __init__(self, other):
        self._other = other

    def sum(self, values):
        return [mine + theirs for mine, theirs in zip(values, self._other.sums.pop(0), strict=True)]

    def average(self, flat, scope):
        assert scope == "global"
        flat.add_(self._other.averaged.pop(0)).mul_(0.5)


def batch(logits, targets):
    return torch.tensor(logits), torch.tensor(targets)


#: With logits (0, ln 3) the second class has a probability of 3/4.
SURE, UNSURE = [0.0, LN3], [LN2, 0.0]
MINE = [batch([SURE, SURE], [1, 0]), batch([UNSURE], [0])]
THEIRS = [batch([UNSURE, SURE], [1, 1])]
LOSSES = [math.log(4 / 3), math.log(4), math.log(3 / 2)]


class TestEvaluate:
    def test_loss_and_error_are_means_over_images_not_batches(self):
        result = evaluate(torch.nn.Identity(), MINE, Alone())
        assert result.images == 3
        assert result.loss == pytest.approx(sum(LOSSES) / 3, rel=1e-6)
        assert result.error_pct == pytest.approx(100 / 3)

    def test_all_ranks_images_count_alike(self):
        other = Alone()
        evaluate(torch.nn.Identity(), THEIRS, other)
        result = evaluate(torch.nn.Identity(), MINE, BesideOther(other))
        assert result.images == 5
        assert result.loss == pytest.approx((sum(LOSSES) + math.log(3) + math.log(4 / 3)) / 5, rel=1e-6)
        assert result.error_pct == pytest.approx(40.0)

    def test_a_rank_without_images_takes_part(self):
        other = Alone()
        evaluate(torch.nn.Identity(), MINE, other)
        assert evaluate(torch.nn.Identity(), [], BesideOther(other)) == Evaluation(
            pytest.approx(sum(LOSSES) / 3), pytest.approx(100 / 3), 3
        )

    @pytest.mark.parametrize("training", [True, False])
    def test_dropout_is_off_and_every_mode_is_back_afterwards(self, training):
        model = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Identity()).train(training)
        model[1].train(not training)
        modes = [each.training for each in model.modules()]
        generator = torch.get_rng_state()
        result = evaluate(model, MINE, Alone())
        assert result.loss == pytest.approx(sum(LOSSES) / 3, rel=1e-6)
        assert [each.training for each in model.modules()] == modes
        assert torch.equal(torch.get_rng_state(), generator)

    def test_makes_no_gradients(self):
        model = torch.nn.Linear(2, 2)
        evaluate(model, MINE, Alone())
        assert model.weight.grad is None


def normed_model():
    torch.manual_seed(5)
    model = torch.nn.Sequential(
        torch.nn.BatchNorm1d(2, momentum=0.3), torch.nn.Dropout(0.5), torch.nn.Linear(2, 2)
    )
    model(torch.randn(8, 2))
    return model


def inputs(seed):
    generator = torch.Generator().manual_seed(seed)
    return [(3 + 2 * torch.randn(size, 2, generator=generator), None) for size in (4, 4, 6)]


def plain_means(batches):
    return (
        torch.stack([data.mean(0) for data, _ in batches]).mean(0),
        torch.stack([data.var(0, unbiased=True) for data, _ in batches]).mean(0),
    )


def everything(model):
    norm = model[0]
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "momentum": norm.momentum,
        "modes": [each.training for each in model.modules()],
        "generator": torch.get_rng_state(),
    }


def same(before, after):
    return (
        before["momentum"] == after["momentum"]
        and before["modes"] == after["modes"]
        and torch.equal(before["generator"], after["generator"])
        and all(torch.equal(value, after["state"][name]) for name, value in before["state"].items())
    )


class TestRecalibrated:
    def test_statistics_are_the_plain_mean_over_the_batches(self):
        model = normed_model()
        with recalibrated(model, inputs(1), Alone()):
            mean, variance = plain_means(inputs(1))
            assert torch.allclose(model[0].running_mean, mean, rtol=1e-5)
            assert torch.allclose(model[0].running_var, variance, rtol=1e-5)

    def test_statistics_are_the_mean_over_all_ranks(self):
        other = Alone()
        with recalibrated(normed_model(), inputs(2), other):
            pass
        model = normed_model()
        with recalibrated(model, inputs(1), BesideOther(other)):
            (mean, variance), (others_mean, others_variance) = plain_means(inputs(1)), plain_means(inputs(2))
            assert torch.allclose(model[0].running_mean, (mean + others_mean) / 2, rtol=1e-5)
            assert torch.allclose(model[0].running_var, (variance + others_variance) / 2, rtol=1e-5)

    @pytest.mark.parametrize("training", [True, False])
    def test_everything_is_back_bit_for_bit(self, training):
        model = normed_model().train(training)
        # A frozen layer, as in fine-tuning, keeps its own mode.
        model[0].train(not training)
        before = everything(model)
        with recalibrated(model, inputs(1), Alone()):
            assert not torch.equal(model[0].running_mean, before["state"]["0.running_mean"])
            evaluate(
                model, [(data, torch.zeros(len(data), dtype=torch.int64)) for data, _ in inputs(3)], Alone()
            )
        assert same(before, everything(model))

    def test_everything_is_back_after_an_error(self):
        model = normed_model()
        before = everything(model)
        with pytest.raises(ZeroDivisionError), recalibrated(model, inputs(1), Alone()):
            raise ZeroDivisionError
        assert same(before, everything(model))

    def test_a_model_without_batch_norm_draws_no_batch_and_talks_to_nobody(self):
        def never():
            raise AssertionError("a batch was drawn")
            yield

        model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2, track_running_stats=False))
        other = Alone()
        with recalibrated(model, never(), other):
            assert model.training
        assert other.averaged == []
