"""Accuracy with a pool of K views against a fresh view in each epoch: ResNet-56 to ResNet-8, CIFAR-10 images.

Each seed has its validation split of the 4,000 images, views, order and initial weights; its variants (K = 1, 2, 4, 8,
16 and fresh) differ only in the number of views per image that are used in turn. They are compared on the validation
split after the last epoch; the test split is not read.

View v of an image is the same for every K, so the variants of a seed share one cache: `fresh` fills it, the others read
it. Results are stored in --work, where a killed benchmark continues. --plot-only only draws the plot.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import cifar
import torch
from finished import hash_settings, load_or_run
from results import RESULTS, make_row, parse_options, write_rows

import limbeck
from limbeck.data import Augmentation, DataModule, Split, horizontal_flip, random_crop
from limbeck.data.module import make_splits
from limbeck.models import resnet8
from limbeck.teachers import CachedTeacher, FrozenTeacher

ROOT = Path(__file__).resolve().parent.parent
PLOT = ROOT / "docs" / "images" / "view_pool.svg"
POOLS = (1, 2, 4, 8, 16)


def load_data(options: argparse.Namespace, seed: int, pool: int) -> DataModule:
    """The data of a seed with ``pool`` views per image; 0 means fresh views in each epoch."""
    splits = cifar.load_images(options.data_root)
    first, test = (
        Split.from_images(cifar.to_store(splits[split][0]), splits[split][1], first_id=first)
        for split, first in _SPLITS
    )
    return make_splits(
        "CIFAR-10",
        cifar.CLASSES,
        first,
        seed=seed,
        validation=options.validation / len(first),
        test=test,
        num_labeled=None,
        num_samples=options.num_images,
        augment=Augmentation((random_crop(4), horizontal_flip()), num_views=pool),
        normalize="imagenet",
    )


def train(options: argparse.Namespace, seed: int, pool: int, root: Path) -> dict:
    """Train one student; its accuracy on the validation split in percent, and the cost."""
    start = time.perf_counter()
    data, fresh_data = load_data(options, seed, pool), load_data(options, seed, options.epochs)
    frozen = FrozenTeacher(cifar.load_resnet("resnet56", options.data_root), backend=options.backend)
    teacher = CachedTeacher(frozen, fresh_data.batches(batch_size=cifar.BATCH), root=root)
    torch.manual_seed(seed)
    steps = options.epochs * data.batches(batch_size=cifar.BATCH).steps_per_epoch
    run = limbeck.fit(
        cifar.make_distiller(resnet8(classes=10), teacher), data, steps=steps, steps_per_epoch=-(-steps // 4),
        training=cifar.make_training_config(), seed=seed, callbacks=[cifar.EpochLogger(variant_name(pool))],
    )  # fmt: skip
    return {
        "accuracy": 100 * run.history[-1]["val/accuracy"], "train_accuracy": 100 * run.history[-1]["train/accuracy"],
        "seconds": time.perf_counter() - start, "misses": teacher.misses, "hits": teacher.hits,
    }  # fmt: skip


def variant_name(pool: int) -> str:
    """The name of a variant."""
    return f"K{pool}" if pool else "fresh"


def run_variants(options: argparse.Namespace) -> dict[str, list[dict]]:
    """All variants over the seeds."""
    results: dict[str, list[dict]] = {variant_name(pool): [] for pool in (0, *POOLS)}
    for seed in range(options.seeds):
        settings = {
            name: getattr(options, name) for name in ("epochs", "num_images", "validation", "backend", "data_root")
        }
        settings["seed"] = seed
        root = options.work / f"cache-{hash_settings(settings)}"
        for pool in (0, *POOLS):  # fresh views first: they include those of the others
            results[variant_name(pool)].append(
                load_or_run(
                    options.work, f"{variant_name(pool)}-{seed}", settings,
                    lambda pool=pool, seed=seed, root=root: train(options, seed, pool, root),
                )
            )  # fmt: skip
        shutil.rmtree(root, ignore_errors=True)
    return results


def make_rows(results: dict[str, list[dict]], data_text: str) -> list[dict]:
    """The difference of each pool to fresh views, paired by seed, and the accuracies."""
    accuracy = {name: [run["accuracy"] for run in runs] for name, runs in results.items()}
    pools = [name for name in accuracy if name != "fresh"]
    rows = [
        make_row(
            f"view_pool_{name}_minus_fresh",
            [run - fresh for run, fresh in zip(accuracy[name], accuracy["fresh"], strict=True)],
            unit="points", aim="report", data=data_text, digits=2,
        )
        for name in pools
    ]  # fmt: skip
    return rows + [
        make_row(
            f"view_pool_{name}_accuracy", accuracy[name], unit="% of the validation split", aim="report",
            data=data_text, digits=2,
        )
        for name in (*pools, "fresh")
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--validation", type=int, default=1000, help="validation images of the 4,000")
    parser.add_argument("--num-images", type=int, default=2560, help="training images of the others")
    parser.add_argument("--backend", default="eager", help="inference backend of the teacher")
    parser.add_argument("--data-root")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "view_pool")
    parser.add_argument("--plot-only", action="store_true", help="draw the plot from the results")
    options = parse_options(parser, local=("data_root", "work", "plot_only"))
    if not options.plot_only:
        torch.set_num_threads(1)
        results = run_variants(options)
        data_text = (
            f"CIFAR-10 without JPEG, {options.num_images:,} training and {options.validation:,} validation images, "
            f"ResNet-56 to ResNet-8, {options.epochs} epochs"
        )
        write_rows(make_rows(results, data_text), runs=results)
    from view_pool_plot import draw

    draw(json.loads((RESULTS / "view_pool.json").read_text()), PLOT)
    print(f"wrote {PLOT.relative_to(ROOT)}", flush=True)


_SPLITS = (("train", 0), ("test", 100_000))  # first sample ids, so that those of the two do not overlap

if __name__ == "__main__":
    main()
