"""Images a second of the batched data path and of torchvision's per-image transforms, on one core.

Both read CIFAR-10-shaped images (generated here, in CIFAR-10's files) and make training batches as the
papers do for it. Expected: the batched path is far more than 10 times faster; takes a minute.

    python benchmarks/data_path.py
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from common import Spread, environment_lines, interleaved
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from lsgd_mpi import data


def write_cifar10(folder: Path, images: int) -> None:
    """Random images in the files and format of CIFAR-10, ``images`` of them for training."""
    generator = torch.Generator().manual_seed(0)
    sizes = {f"data_batch_{i}": images // 5 for i in range(1, 6)} | {"test_batch": 100}
    for name, size in sizes.items():
        pixels = torch.randint(0, 256, (size, 3072), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 10, (size,), generator=generator).tolist()
        (folder / name).write_bytes(pickle.dumps({"data": pixels.numpy(), "labels": labels}, protocol=2))


class PerImage(TorchDataset):
    """Images as torchvision's CIFAR10 class gives them: one PIL image or tensor, transformed, a call."""

    def __init__(self, images: data.Images, transform: transforms.Compose, *, pil: bool) -> None:
        self.images = images.images if not pil else images.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.transform = transform
        self.pil = pil

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self.images[i]) if self.pil else self.images[i]
        return self.transform(image), self.labels[i]


def per_image(images: data.Images, processing: data.Processing, batch_size: int, *, pil: bool) -> DataLoader:
    """Torch's DataLoader over the customary transforms; tensors are cropped and flipped as bytes."""
    to_float = transforms.ToTensor() if pil else transforms.ConvertImageDtype(torch.float32)
    transform = transforms.Compose(
        [
            transforms.RandomCrop(processing.crop, padding=processing.pad or None),
            transforms.RandomHorizontalFlip(),
            to_float,
            transforms.Normalize(processing.mean, processing.std),
        ]
    )
    dataset = PerImage(images, transform, pil=pil)
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True, num_workers=0)


def drain(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for _ in batches:
        pass


def measure(images: data.Images, processing: data.Processing, options: argparse.Namespace) -> list[str]:
    """Rows of the table: images/s of each way and its ratio to torchvision with PIL images."""
    share = {"batch_size": options.batch_size, "seed": 0, "rank": 0, "ranks": 1}
    ours = data.BatchLoader(images, processing, **share)
    few = images.first(options.few)
    pil, tensor = (per_image(few, processing, options.batch_size, pil=pil) for pil in (True, False))
    epochs = [lambda: drain(pil), lambda: drain(tensor), lambda: drain(ours.epoch(0))]
    per_epoch = [len(loader) * options.batch_size for loader in (pil, tensor, ours)]
    times = interleaved(epochs, options.repeats)
    rates = [[n / t for t in column] for n, column in zip(per_epoch, times, strict=True)]
    names = ("torchvision, PIL images", "torchvision, tensors", "lsgd_mpi, batched")
    rows = []
    for name, column in zip(names, rates, strict=True):
        rate = Spread.of(column)
        ratio = Spread.of([mine / base for mine, base in zip(column, rates[0], strict=True)])
        rows.append(
            f"| {name} | {rate.median:,.0f} | {rate.minimum:,.0f} to {rate.maximum:,.0f} "
            f"| {ratio.median:.1f} | {ratio.minimum:.1f} to {ratio.maximum:.1f} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50_000, help="training images (CIFAR-10 has 50000)")
    parser.add_argument("--few", type=int, default=6_400, help="of these, how many torchvision goes through")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write_cifar10(Path(folder), options.images)
        dataset = data.load("cifar10", Path(folder))
    print("# Data path: training images a second on one core\n")
    print("\n".join(environment_lines()))
    print(f"- 1 thread, no worker processes; {options.images} images of 3x32x32, batch {options.batch_size}")
    print(f"- an epoch each in turn, {options.repeats} rounds after one of warm-up; torchvision goes through")
    print(f"  {options.few} images an epoch; ratios are within a round; median and range")
    print("- not measured: several worker processes, transfers to a GPU, reading of the files")
    for model in ("resnet20", "vgg16"):
        processing = data.processing_for(dataset, model)
        print(f"\n## cifar10 for {model}: crop {processing.crop}, pad {processing.pad}, flip, normalise\n")
        print("| data path | images/s | range | times torchvision, PIL | range |\n|---|--:|--:|--:|--:|")
        print("\n".join(measure(dataset.train, processing, options)), flush=True)


if __name__ == "__main__":
    main()
