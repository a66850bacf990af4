"""What a run costs whose teacher outputs are cached, and the size of the cache; it is full before it is timed.

- `cached_over_student_only`: `limbeck.fit` with a cached teacher and two losses over a bare loop that trains the same
  student on the same batches by cross-entropy without a teacher. CIFAR-10 images in memory.
- `shared_decode_over_student_only`: the same on JPEG files, each decoded once for 4 views; the bare loop uses
  torchvision's ImageFolder and transforms with a DataLoader. Both use equally many images per step. The labels are
  arbitrary.
- `cost_growth_50k_over_1k`: seconds per sample of a cached run over 50,000 random images, over that of 1,000, in
  alternating windows of 100 steps; the student is small, so that any growth is visible.
- The other rows, see cache_disk.py: resident memory, bytes and microseconds, with generated outputs.

Steps of two loops alternate in one process with one thread; a turn gives one ratio, of the medians of its steps. Both
loops profit from the memory that the C library keeps for fit; in separate processes each would pay at random for pages
that were returned. The values of the outputs do not change the cost, so the teachers are untrained.
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
from cache_disk import measure_bytes, measure_microseconds, measure_resident
from results import make_row, write_rows
from torch.nn import functional as F

import limbeck
from limbeck.data import CIFAR10, Augmentation, ImageFolder, Normalization, Split, horizontal_flip, random_crop
from limbeck.data.batch_sampler import BatchSampler
from limbeck.data.split import InMemory
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.models import resnet8, resnet20, small_cnn
from limbeck.teachers import CachedTeacher
from limbeck.training import TrainingConfig

BATCH, PIXELS, VIEWS = 64, 64, 4
TRANSFORMS = (random_crop(4), horizontal_flip())
SIZES = (1_000, 10_000, 50_000)
make_optimizer = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)


def bare_loop(build, batches: Iterator) -> Iterator[None]:
    """A bare loop without a teacher; runs one step per `next`."""
    student = build()
    student.train()
    optimizer, total = make_optimizer(student.parameters()), torch.zeros(())
    for images, target in batches:
        loss = F.cross_entropy(student(images), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
        yield


def iterate_stream(stream) -> Iterator:
    """The same batches that fit gets."""
    for step in count():
        batch = stream.batch(step)
        yield batch["input"], batch["target"]


def iterate_loader(root: Path) -> Iterator:
    """An image folder read by torchvision and a DataLoader."""
    from torchvision import datasets
    from torchvision.transforms import v2

    normalization = Normalization.imagenet(3)
    transform = v2.Compose(
        [
            v2.Resize(PIXELS), v2.CenterCrop(PIXELS), v2.RandomCrop(PIXELS, padding=4), v2.RandomHorizontalFlip(),
            v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(normalization.mean, normalization.std),
        ]
    )  # fmt: skip
    folder = datasets.ImageFolder(root / "train", transform)
    loader = torch.utils.data.DataLoader(folder, batch_size=BATCH, shuffle=True, drop_last=True)
    while True:
        yield from loader


def fill_cache(stream, root: Path) -> CachedTeacher:
    """A cached teacher with all outputs of ``stream``."""
    torch.manual_seed(1)
    teacher = CachedTeacher(small_cnn(channels=3, width=8), stream, root=root)
    for _ in teacher.populate(limbeck.tasks.Classification(10)):
        pass
    return teacher


def train(build, teacher: CachedTeacher, data, *, steps: int) -> None:
    """The timed run: a student trained on targets and cached teacher outputs."""
    distiller = limbeck.Distiller(
        build(), teacher, objective={"target": CrossEntropyLoss(), "kd": KDLoss(temperature=4.0)},
        weights={"target": 0.1, "kd": 0.9}, task=limbeck.tasks.Classification(10),
    )  # fmt: skip
    training = TrainingConfig(optimizer=make_optimizer, batch_size=BATCH)
    limbeck.fit(distiller, data, steps=steps, steps_per_epoch=steps, training=training, callbacks=[])


def measure_medians(
    build, teacher: CachedTeacher, stream, batches: Iterator, *, steps: int, turns: int
) -> list[tuple[float, float]]:
    """Milliseconds of a step, of the cached run and of the bare loop, for each turn after a warm-up turn."""
    medians = []
    for turn in range(turns + 1):
        alternating = Alternating(stream, bare_loop(build, batches), first=turn * steps)
        misses = teacher.misses
        train(build, teacher, alternating, steps=steps)
        medians.append(alternating.medians())
        assert teacher.misses == misses, "the cache was not full"
    return medians[1:]


def measure_in_memory(root: Path, *, steps: int, turns: int) -> list[tuple[float, float]]:
    stream = CIFAR10(num_samples=4000, augment=Augmentation(TRANSFORMS, num_views=2)).load().batches(batch_size=BATCH)
    return measure_medians(resnet20, fill_cache(stream, root), stream, iterate_stream(stream), steps=steps, turns=turns)


def measure_files(build, photos: Path, root: Path, *, steps: int, turns: int) -> tuple[list[tuple[float, float]], int]:
    """Medians as above, and the number of photographs."""
    folder = root / "images"
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    for index, path in enumerate(paths):
        for split in ("train", "val", "test") if index < 2 else ("train",):
            link = folder / split / str(index % 2) / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(path.resolve())
    augment = Augmentation(TRANSFORMS, num_views=VIEWS, repeats=VIEWS)
    stream = ImageFolder(root=str(folder), size=PIXELS, cache_mb=0, augment=augment).load().batches(batch_size=BATCH)
    teacher = fill_cache(stream, root)
    return measure_medians(build, teacher, stream, iterate_loader(folder), steps=steps, turns=turns), len(paths)


def measure_growth(root: Path, *, steps: int, rounds: int) -> list[dict[int, float]]:
    """Microseconds per sample at each size, for each round of windows after a warm-up round."""
    streams, teachers = {}, {}
    for size in SIZES:
        images = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        split, augment = (
            Split.from_images(InMemory(images), torch.arange(size) % 10),
            Augmentation(TRANSFORMS, num_views=1),
        )
        streams[size] = BatchSampler(split, augment, Normalization.imagenet(3), batch_size=BATCH, seed=0)
        teachers[size] = fill_cache(streams[size], root)
    results = []
    for index in range(rounds + 1):
        microseconds = {}
        for size in SIZES if index % 2 else reversed(SIZES):
            window = Alternating(streams[size], repeat(None), first=index * steps)
            train(partial(small_cnn, channels=3, width=8), teachers[size], window, steps=steps)
            microseconds[size] = 1e6 * statistics.mean(window.fit_seconds) / BATCH
        results.append(microseconds)
    return results[1:]


def main() -> None:
    data_root = Path(os.environ.get("LIMBECK_DATA", "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photos", type=Path, default=data_root / "bccd/BCCD/JPEGImages", help="a folder of JPEG files"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps of each, as a smoke test; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick = options.quick
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        memory = measure_in_memory(root, steps=3 if quick else 60, turns=2 if quick else 6)
        files, photos = measure_files(resnet20, options.photos, root, steps=2 if quick else 12, turns=2 if quick else 5)
        files8, _ = measure_files(resnet8, options.photos, root, steps=2 if quick else 12, turns=2 if quick else 3)
        growth = measure_growth(root, steps=5 if quick else 100, rounds=2 if quick else 10)
        resident, memmap = (
            measure_resident(root, kind, megabytes=50 if quick else 2000) for kind in ("cache", "memmap")
        )
        size = measure_bytes(root, samples=1000 if quick else 50_000, views=16)
        microseconds = measure_microseconds(root, batches=20 if quick else 400)
    jpeg = f"{photos} JPEG files at {PIXELS} px, resnet20"
    rows = [
        make_row("cached_over_student_only", ratios(memory), unit="ratio", aim="<= 1.05", data="CIFAR-10, resnet20"),
        make_row("shared_decode_over_student_only", ratios(files), unit="ratio", aim="<= 0.90", data=jpeg),
        make_row(
            "cost_growth_50k_over_1k", [spent[SIZES[-1]] / spent[SIZES[0]] for spent in growth], unit="ratio",
            aim="0.95 to 1.05", data="random images, 32 px",
        ),
        make_row("cache_resident_mb", [resident["growth"]], unit="MB", aim="<= 50", data=resident["data"], digits=1),
        make_row(
            "cache_bytes_per_view_top10", [size["bytes"] / size["outputs"]], unit="bytes",
            aim="50,000 x 16 < 45 MB", data=f"{size['outputs']:,} outputs of 1,000 classes",
        ),
    ]  # fmt: skip
    extra = {
        "milliseconds_per_step": {
            "cached, bare; in memory": memory, "shared, torchvision; files, resnet20": files,
            "shared, torchvision; files, resnet8": files8,
        },
        "shared_decode_over_student_only_resnet8": ratios(files8),
        "microseconds_per_sample": {size: [spent[size] for spent in growth] for size in SIZES},
        "resident": {"cache": resident, "memmap": memmap},
        "bytes": size,
        "microseconds_per_batch_of_64": microseconds,
    }  # fmt: skip
    print(extra) if quick else write_rows(rows, **extra)


def ratios(turns: list[tuple[float, float]]) -> list[float]:
    return [fit / bare for fit, bare in turns]


if __name__ == "__main__":
    main()
