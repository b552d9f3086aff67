"""Which rank sees which image, and that chance is repeatable."""

from __future__ import annotations

import pytest
import torch
from image_samples import numbered_images, random_images

from lsgd_mpi import data
from lsgd_mpi.errors import DataError, UsageError

PLAIN = data.Processing((0.0,), (1.0,))
AUGMENTED = data.Processing((0.5,) * 3, (0.25,) * 3, crop=6, flip=0.5)
SHAPES = [(64, 4, 4), (67, 4, 4), (60, 5, 3), (11, 1, 4), (12, 12, 1), (7, 7, 1), (13, 2, 6)]


def loaders(images, batch_size, ranks, seed=0, processing=PLAIN):
    share = {"batch_size": batch_size, "ranks": ranks, "seed": seed}
    return [data.BatchLoader(images, processing, rank=rank, **share) for rank in range(ranks)]


def places(loader, epoch):
    return torch.cat([target for _, target in loader.epoch(epoch)])


def same(first, second):
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True))


@pytest.mark.parametrize(("n", "batch_size", "ranks"), SHAPES)
def test_ranks_share_the_images_without_overlap(n, batch_size, ranks):
    for epoch in (0, 1):
        parts = [places(loader, epoch) for loader in loaders(numbered_images(n), batch_size, ranks)]
        steps = n // (batch_size * ranks)
        assert [len(part) for part in parts] == [steps * batch_size] * ranks
        together = torch.cat(parts)
        assert len(together.unique()) == len(together)
        assert n - len(together) < batch_size * ranks


@pytest.mark.parametrize(("n", "batch_size", "ranks"), SHAPES)
def test_all_ranks_make_as_many_steps_as_they_say(n, batch_size, ranks):
    for loader in loaders(numbered_images(n), batch_size, ranks):
        batches = list(loader.epoch(0))
        assert len(loader) == len(batches) == n // (batch_size * ranks)
        assert {tuple(target.shape) for _, target in batches} == {(batch_size,)}


def test_a_step_of_all_ranks_is_one_large_batch_of_a_single_rank():
    images = numbered_images(70)
    few = [[target for _, target in loader.epoch(2)] for loader in loaders(images, 4, 4)]
    for step, (_, whole) in enumerate(loaders(images, 16, 1)[0].epoch(2)):
        assert torch.equal(torch.cat([rank[step] for rank in few]), whole)


def test_dropped_images_change_with_the_epoch():
    loader = loaders(numbered_images(19), 16, 1)[0]
    seen = torch.cat([places(loader, epoch) for epoch in range(30)]).bincount(minlength=19)
    assert (seen > 15).all()


def test_data_and_targets_belong_together():
    images = random_images(40, 3, 8, 8)
    processing = data.Processing((0.0,) * 3, (1 / 255,) * 3)
    loader = loaders(images, 8, 2, processing=processing)[1]
    for chosen, (pixels, target) in zip(loader.indices(0), loader.epoch(0), strict=True):
        assert torch.equal(pixels, images.images[chosen].float())
        assert torch.equal(target, images.labels[chosen])


def test_types_and_shapes():
    batch, target = next(loaders(random_images(40, 3, 8, 8), 5, 2, processing=AUGMENTED)[0].epoch(0))
    assert (batch.dtype, tuple(batch.shape)) == (torch.float32, (5, 3, 6, 6))
    assert (target.dtype, tuple(target.shape)) == (torch.int64, (5,))


def test_the_same_seed_gives_the_same_bits_whatever_torchs_generator_does():
    images = random_images(50, 3, 8, 8)
    torch.manual_seed(1)
    first = list(loaders(images, 4, 3, processing=AUGMENTED)[1].epoch(5))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = list(loaders(images, 4, 3, processing=AUGMENTED)[1].epoch(5))
    assert same(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_can_come_in_any_order_and_again():
    loader = loaders(random_images(50, 3, 8, 8), 4, 3, processing=AUGMENTED)[0]
    third = list(loader.epoch(3))
    list(loader.epoch(0))
    assert same(loader.epoch(3), third)


@pytest.mark.parametrize("start", [0, 1, 3, 4])
def test_an_epoch_from_its_middle_is_the_rest_of_it(start):
    loader = loaders(random_images(50, 3, 8, 8), 4, 3, processing=AUGMENTED)[2]
    whole = list(loader.epoch(1))
    assert same(loader.epoch(1, start=start), whole[start:])


@pytest.mark.parametrize(("epoch", "start"), [(-1, 0), (0, -1), (0, 5)])
def test_impossible_places_in_the_run_are_refused_at_once(epoch, start):
    with pytest.raises(ValueError, match="steps from 0 to 4"):
        loaders(numbered_images(50), 4, 3)[0].epoch(epoch, start=start)


def test_batches_are_tensors_of_their_own():
    loader = loaders(random_images(50, 3, 8, 8), 4, 3, processing=AUGMENTED)[0]
    expected = list(loader.epoch(0))
    for batch, target in loader.epoch(0):
        batch.zero_()
        target.zero_()
    assert same(loader.epoch(0), expected)


def test_seed_and_epoch_each_make_another_order():
    images = numbered_images(64)
    keys = [(seed, epoch) for seed in range(3) for epoch in range(3)]
    orders = {tuple(places(loaders(images, 8, 1, seed=s)[0], e).tolist()) for s, e in keys}
    assert len(orders) == len(keys)


def test_crops_and_flips_differ_between_ranks_epochs_and_seeds():
    images = random_images(1, 3, 16, 16)
    images = data.Images(images.images.expand(96, -1, -1, -1), images.labels.expand(96))
    processing = data.Processing((0.5,) * 3, (0.25,) * 3, crop=8, flip=0.5)
    epochs = [
        torch.cat([batch for batch, _ in loader.epoch(epoch)])
        for seed in (0, 1)
        for loader in loaders(images, 8, 2, seed=seed, processing=processing)
        for epoch in (0, 1)
    ]
    for i, first in enumerate(epochs):
        assert not any(torch.equal(first, second) for second in epochs[i + 1 :])


def test_recalibration_batches_are_fixed_and_not_trainings():
    images = random_images(50, 3, 8, 8)
    share = {"batch_size": 4, "rank": 1, "ranks": 3}
    recalibration = [data.recalibration_batches(images, AUGMENTED, **share) for _ in range(2)]
    assert len(recalibration[0]) == 4
    assert same(recalibration[0].epoch(0), recalibration[1].epoch(0))
    training = data.BatchLoader(images, AUGMENTED, seed=0, **share)
    assert not torch.equal(recalibration[0].indices(0), training.indices(0))


def test_too_few_images_say_all_three_numbers():
    with pytest.raises(
        DataError, match=r"^15 training images .* batch of 4 for each of 4 ranks \(16\): choose"
    ):
        loaders(numbered_images(15), 4, 4)
    assert len(loaders(numbered_images(16), 4, 4)[0]) == 1


def test_impossible_arguments():
    with pytest.raises(UsageError, match="not 0"):
        loaders(numbered_images(15), 0, 4)
    with pytest.raises(UsageError, match="not -1"):
        loaders(numbered_images(15), 1, 4, seed=-1)
    with pytest.raises(ValueError, match="rank 2"):
        data.BatchLoader(numbered_images(9), PLAIN, batch_size=1, seed=0, rank=2, ranks=2)


@pytest.mark.parametrize(("n", "ranks"), [(10, 1), (10, 3), (12, 4), (3, 5), (1, 4)])
def test_ranks_share_the_test_set_in_order_and_completely(n, ranks):
    images = numbered_images(n)
    shares = [
        [target for _, target in data.test_batches(images, PLAIN, batch_size=2, rank=rank, ranks=ranks)]
        for rank in range(ranks)
    ]
    sizes = [sum(map(len, share)) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert all(len(target) == 2 for share in shares for target in share[:-1])
    assert torch.equal(torch.cat([target for share in shares for target in share]), images.labels)


def test_the_test_set_has_test_processing():
    images = random_images(5, 3, 8, 8)
    batches = data.test_batches(images, AUGMENTED, batch_size=3, rank=0, ranks=1)
    assert torch.equal(torch.cat([batch for batch, _ in batches]), AUGMENTED.test(images.images))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_batches_of_the_cpu():
    images = random_images(200, 3, 8, 8)
    share = {"batch_size": 16, "seed": 0, "rank": 1, "ranks": 2}
    cpu, gpu = (data.BatchLoader(images, AUGMENTED, device=device, **share) for device in ("cpu", "cuda"))
    for (batch, target), (batch_gpu, target_gpu) in zip(cpu.epoch(1), gpu.epoch(1), strict=True):
        assert batch_gpu.is_cuda
        torch.testing.assert_close(batch_gpu.cpu(), batch, rtol=0, atol=1e-6)
        assert torch.equal(target_gpu.cpu(), target)


def test_images_refuse_other_types_and_lengths():
    pixels, labels = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    data.Images(pixels, labels)
    for wrong in (
        (pixels.float(), labels),
        (pixels[0], labels),
        (pixels, labels[:2]),
        (pixels, labels.int()),
    ):
        with pytest.raises(ValueError, match="are"):
            data.Images(*wrong)
