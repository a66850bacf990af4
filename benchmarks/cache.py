"""What a run costs whose teacher's answers are on disk, and what they take there; the cache is full before it is timed.

- `cached_over_student_only`: `limbeck.fit` with a cached teacher and two terms beside a bare loop that trains the same
  student on the same batches by cross-entropy, without any teacher. CIFAR-10 pictures in memory.
- `shared_decode_over_student_only`: the same on JPEG files, each read once for 4 views; the bare loop has torchvision's
  ImageFolder, transforms and a DataLoader, as usual. Both show equally many pictures a step. The labels are arbitrary.
- `cost_growth_50k_over_1k`: seconds a sample of a cached run over 50,000 pictures of noise, over that of 1,000, in
  windows of 100 steps by turns; the student is small, so that what grows shows.
- The rest, see cache_disk.py: resident memory, bytes and microseconds, with answers that are made up.

Steps of two loops alternate in one process with one thread; a turn gives one ratio, of the medians of its steps. Both
loops profit from fit's making that process keep what it frees (the C library); without it, each would pay by
chance for what the other gave back. What the answers say costs nothing here, so the teachers are untrained.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import count, repeat
from pathlib import Path

import torch
from alternating import Alternating
from cache_disk import bytes_a_view, microseconds, resident
from results import row, write
from torch.nn import functional as F

import limbeck
from limbeck.data import CIFAR10, Augmentation, ImageFolder, Normalization, Split, horizontal_flip, random_crop
from limbeck.data.batch_sampler import BatchSampler
from limbeck.data.split import InMemory
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.models import resnet8, resnet20, small_cnn
from limbeck.teachers import CachedTeacher
from limbeck.training import TrainingConfig

BATCH, PIXELS, SHARED = 64, 64, 4
MOVED = (random_crop(4), horizontal_flip())
SIZES = (1_000, 10_000, 50_000)
optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)


def alone(build, batches: Iterator) -> Iterator[None]:
    """A bare loop without a teacher, one step at each `next`."""
    student = build()
    student.train()
    ours, total = optimizer(student.parameters()), torch.zeros(())
    for pictures, target in batches:
        loss = F.cross_entropy(student(pictures), target)
        ours.zero_grad(set_to_none=True)
        loss.backward()
        ours.step()
        total += loss.detach()
        yield


def of_stream(stream) -> Iterator:
    """The same batches that fit gets."""
    for step in count():
        batch = stream.batch(step)
        yield batch["input"], batch["target"]


def of_loader(root: Path) -> Iterator:
    """The usual way to read a folder of pictures."""
    from torchvision import datasets
    from torchvision.transforms import v2

    usual = Normalization.imagenet(3)
    change = v2.Compose(
        [
            v2.Resize(PIXELS), v2.CenterCrop(PIXELS), v2.RandomCrop(PIXELS, padding=4), v2.RandomHorizontalFlip(),
            v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(usual.mean, usual.std),
        ]
    )  # fmt: skip
    folder = datasets.ImageFolder(root / "train", change)
    loader = torch.utils.data.DataLoader(folder, batch_size=BATCH, shuffle=True, drop_last=True)
    while True:
        yield from loader


def filled(stream, root: Path) -> CachedTeacher:
    """A cached teacher that has answered about everything."""
    torch.manual_seed(1)
    teacher = CachedTeacher(small_cnn(channels=3, width=8), stream, root=root)
    for _ in teacher.populate(limbeck.tasks.Classification(10)):
        pass
    return teacher


def train(build, teacher: CachedTeacher, data, *, steps: int) -> None:
    """What is measured: a student that learns from the truth and from a teacher's answers."""
    distiller = limbeck.Distiller(
        build(), teacher, objective={"target": CrossEntropyLoss(), "kd": KDLoss(temperature=4.0)},
        weights={"target": 0.1, "kd": 0.9}, task=limbeck.tasks.Classification(10),
    )  # fmt: skip
    training = TrainingConfig(optimizer=optimizer, batch_size=BATCH)
    limbeck.fit(distiller, data, steps=steps, steps_per_epoch=steps, training=training, callbacks=[])


def medians(
    build, teacher: CachedTeacher, stream, other: Iterator, *, steps: int, turns: int
) -> list[tuple[float, float]]:
    """Milliseconds of a step, of the cached run and of the bare loop, for each turn after one that is not counted."""
    found = []
    for number in range(turns + 1):
        both = Alternating(stream, alone(build, other), first=number * steps)
        before = teacher.misses
        train(build, teacher, both, steps=steps)
        found.append(both.medians())
        assert teacher.misses == before, "the cache was full"
    return found[1:]


def in_memory(root: Path, *, steps: int, turns: int) -> list[tuple[float, float]]:
    stream = CIFAR10(num_samples=4000, augment=Augmentation(MOVED, num_views=2)).load().batches(batch_size=BATCH)
    return medians(resnet20, filled(stream, root), stream, of_stream(stream), steps=steps, turns=turns)


def in_files(build, photos: Path, root: Path, *, steps: int, turns: int) -> tuple[list[tuple[float, float]], int]:
    """Medians as above, and how many photographs there are."""
    folder = root / "pictures"
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for number, path in enumerate(paths):
        for part in ("train", "val", "test") if number < 2 else ("train",):
            place = folder / part / str(number % 2)
            place.mkdir(parents=True, exist_ok=True)
            if not (place / path.name).exists():
                (place / path.name).symlink_to(path.resolve())
    views = Augmentation(MOVED, num_views=SHARED, repeats=SHARED)
    stream = ImageFolder(root=str(folder), size=PIXELS, cache_mb=0, augment=views).load().batches(batch_size=BATCH)
    teacher = filled(stream, root)
    return medians(build, teacher, stream, of_loader(folder), steps=steps, turns=turns), len(paths)


def growth(root: Path, *, steps: int, rounds: int) -> list[dict[int, float]]:
    """Microseconds a sample at each size, for each round of windows after one that is not counted."""
    streams, teachers = {}, {}
    for size in SIZES:
        noise = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        part, views = Split.from_images(InMemory(noise), torch.arange(size) % 10), Augmentation(MOVED, num_views=1)
        streams[size] = BatchSampler(part, views, Normalization.imagenet(3), batch_size=BATCH, seed=0)
        teachers[size] = filled(streams[size], root)
    found = []
    for number in range(rounds + 1):
        spent = {}
        for size in SIZES if number % 2 else reversed(SIZES):
            window = Alternating(streams[size], repeat(None), first=number * steps)
            train(partial(small_cnn, channels=3, width=8), teachers[size], window, steps=steps)
            spent[size] = 1e6 * statistics.mean(window.seconds[0]) / BATCH
        found.append(spent)
    return found[1:]


def main() -> None:
    usual = Path(os.environ.get("LIMBECK_DATA", "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=usual / "bccd/BCCD/JPEGImages", help="a folder of JPEG files")
    parser.add_argument("--quick", action="store_true", help="a few steps of each, to see that it runs; writes nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    few = given.quick
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        memory = in_memory(root, steps=3 if few else 60, turns=2 if few else 6)
        files, photos = in_files(resnet20, given.photos, root, steps=2 if few else 12, turns=2 if few else 5)
        smaller, _ = in_files(resnet8, given.photos, root, steps=2 if few else 12, turns=2 if few else 3)
        grown = growth(root, steps=5 if few else 100, rounds=2 if few else 10)
        ours, mapped = (resident(root, kind, megabytes=50 if few else 2000) for kind in ("cache", "memmap"))
        taken = bytes_a_view(root, samples=1000 if few else 50_000, views=16)
        micro = microseconds(root, batches=20 if few else 400)
    pictures = f"{photos} JPEG files at {PIXELS} px, resnet20"
    rows = [
        row("cached_over_student_only", ratios(memory), unit="ratio", aim="<= 1.05", data="CIFAR-10, resnet20"),
        row("shared_decode_over_student_only", ratios(files), unit="ratio", aim="<= 0.90", data=pictures),
        row(
            "cost_growth_50k_over_1k", [one[SIZES[-1]] / one[SIZES[0]] for one in grown], unit="ratio",
            aim="0.95 to 1.05", data="noise, 32 px",
        ),
        row("cache_resident_mb", [ours["growth"]], unit="MB", aim="<= 50", data=ours["data"], digits=1),
        row(
            "cache_bytes_per_view_top10", [taken["bytes"] / taken["answers"]], unit="bytes",
            aim="50,000 x 16 < 45 MB", data=f"{taken['answers']:,} answers about 1,000 classes",
        ),
    ]  # fmt: skip
    more = {
        "milliseconds_a_step": {
            "cached, bare; in memory": memory, "shared, usual; files, resnet20": files,
            "shared, usual; files, resnet8": smaller,
        },
        "shared_decode_over_student_only_resnet8": ratios(smaller),
        "microseconds_a_sample": {size: [one[size] for one in grown] for size in SIZES},
        "resident": {"cache": ours, "memmap": mapped},
        "bytes": taken,
        "microseconds_a_batch_of_64": micro,
    }  # fmt: skip
    print(more) if few else write(rows, **more)


def ratios(turns: list[tuple[float, float]]) -> list[float]:
    return [ours / theirs for ours, theirs in turns]


if __name__ == "__main__":
    main()
