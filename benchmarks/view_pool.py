"""Does a pool of K views cost accuracy against a fresh view in each epoch? ResNet-56 to ResNet-8, CIFAR-10 pictures.

Each seed cuts its own validation part off the 4,000 pictures and has its own views, order and starting weights; its
variants (K = 1, 2, 4, 8, 16 and fresh) differ in nothing but how many views of each picture are shown in turn. They are
compared on the validation part after the last epoch, and the test part stays shut.

View v of a picture is the same whatever K, so the arms of a seed share one cache: `fresh` fills it, the others read it.
What was measured is kept in --work, where a killed benchmark goes on. --plot-only draws the picture again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import cifar
import torch
from finished import kept, known_by
from results import HERE, parsed, row, write

import limbeck
from limbeck.data import Augmentation, DataModule, Split, horizontal_flip, random_crop
from limbeck.data.module import make_splits
from limbeck.models import resnet8
from limbeck.teachers import CachedTeacher

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "view_pool.svg"
POOLS = (1, 2, 4, 8, 16)


def data(options: argparse.Namespace, seed: int, pool: int) -> DataModule:
    """The pictures of a seed, each in ``pool`` views; 0 makes them anew in each epoch."""
    parts = cifar.pictures(options.data_root)
    first, test = (
        Split.from_images(cifar.stored(parts[part][0]), parts[part][1], first_id=first) for part, first in _PARTS
    )
    return make_splits(
        "CIFAR-10",
        cifar.CLASSES,
        first,
        seed=seed,
        validation=options.validation / len(first),
        test=test,
        num_labeled=None,
        num_samples=options.take,
        augment=Augmentation((random_crop(4), horizontal_flip()), num_views=pool),
        normalize="imagenet",
    )


def trained(options: argparse.Namespace, seed: int, pool: int, root: Path) -> dict:
    """One student's accuracy on the validation part, in per cent, and what it cost."""
    begun = time.perf_counter()
    shown, widest = data(options, seed, pool), data(options, seed, options.epochs)
    source = cifar.freeze(cifar.teacher(options.data_root), options.backend)
    cached = CachedTeacher(source, widest.batches(batch_size=cifar.BATCH), root=root)
    torch.manual_seed(seed)
    steps = options.epochs * shown.batches(batch_size=cifar.BATCH).steps_per_epoch
    run = limbeck.fit(
        cifar.distiller(resnet8(classes=10), cached), shown, steps=steps, steps_per_epoch=-(-steps // 4),
        training=cifar.training(), seed=seed, callbacks=[cifar.Lines(arm(pool))],
    )  # fmt: skip
    return {
        "accuracy": 100 * run.history[-1]["val/accuracy"], "train_accuracy": 100 * run.history[-1]["train/accuracy"],
        "seconds": time.perf_counter() - begun, "misses": cached.misses, "hits": cached.hits,
    }  # fmt: skip


def arm(pool: int) -> str:
    """What an arm is called."""
    return f"K{pool}" if pool else "fresh"


def measured(options: argparse.Namespace) -> dict[str, list[dict]]:
    """Every arm over the seeds."""
    found: dict[str, list[dict]] = {arm(pool): [] for pool in (0, *POOLS)}
    for seed in range(options.seeds):
        settings = {name: getattr(options, name) for name in ("epochs", "take", "validation", "backend", "data_root")}
        settings["seed"] = seed
        root = options.work / f"cache-{known_by(settings)}"
        for pool in (0, *POOLS):  # fresh views first: they are all that the others show
            found[arm(pool)].append(
                kept(
                    options.work, f"{arm(pool)}-{seed}", settings,
                    lambda pool=pool, seed=seed, root=root: trained(options, seed, pool, root),
                )
            )  # fmt: skip
        shutil.rmtree(root, ignore_errors=True)
    return found


def rows(found: dict[str, list[dict]], told: str) -> list[dict]:
    """Each pool's difference to fresh views, in pairs by seed, and the accuracies themselves."""
    accuracy = {name: [run["accuracy"] for run in runs] for name, runs in found.items()}
    pools = [name for name in accuracy if name != "fresh"]
    made = [
        row(
            f"view_pool_{name}_minus_fresh",
            [one - other for one, other in zip(accuracy[name], accuracy["fresh"], strict=True)],
            unit="points", aim="report", data=told, digits=2,
        )
        for name in pools
    ]  # fmt: skip
    return made + [
        row(
            f"view_pool_{name}_accuracy", accuracy[name], unit="% of the validation part", aim="report", data=told,
            digits=2,
        )
        for name in (*pools, "fresh")
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--validation", type=int, default=1000, help="pictures cut off the 4,000 to compare on")
    parser.add_argument("--take", type=int, default=2560, help="of those that are left, to train on")
    parser.add_argument("--backend", default="eager", help="what computes the teacher")
    parser.add_argument("--data-root")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "view_pool")
    parser.add_argument("--plot-only", action="store_true", help="draw the picture of the figures that are there")
    options = parsed(parser, places=("data_root", "work", "plot_only"))
    if not options.plot_only:
        torch.set_num_threads(1)
        found = measured(options)
        told = (
            f"CIFAR-10 as published, {options.take:,} pictures to train on, {options.validation:,} to validate, "
            f"ResNet-56 to ResNet-8, {options.epochs} epochs"
        )
        write(rows(found, told), runs=found)
    from view_pool_plot import draw

    draw(json.loads((HERE / "view_pool.json").read_text()), PICTURE)
    print(f"{PICTURE.relative_to(ROOT)} is drawn", flush=True)


_PARTS = (("train", 0), ("test", 100_000))  # a number is one sample's name, so those of the two must not meet

if __name__ == "__main__":
    main()
