"""Trains the teachers of the studies of methods.py once, for all seeds and variants. About 40 minutes on two cores.

CIFAR-10: the published ResNet-20 (trained on the images without JPEG), fine-tuned for two epochs, and a CNN and a ViT
from scratch, all on 47,500 training images; the students' 2,500 validation images are left out, though the published
network was trained on their lossless form. Tiny-ImageNet: a wide ResNet for each set of classes, and a narrower one for
the second; none has seen a validation or test image.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cifar import load_published
from results import parse_options

from limbeck.models import save_weights
from limbeck.recipe import find_recipe, load_recipe
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import evaluate_split

ADAMW = ["training.optimizer={use: AdamW, lr: 0.001, weight_decay: 0.05}",
         "training.scheduler={use: OneCycleLR, max_lr: 0.001}"]  # fmt: skip
LOW_LR = ["training.optimizer.lr=0.02", "training.scheduler.max_lr=0.02"]
FRESH = ["data.augment.num_views=0", "cache=null"]
CIFAR = [*FRESH, "data.num_samples=null"]
CNN, VIT = "use: small_cnn, width: 64, depth: 4", "use: small_vit, patch_size: 4, width: 64, depth: 4, num_heads: 4"
TEACHERS = {
    "resnet": ("cifar10_methods", "resnet", [*CIFAR, *LOW_LR, "teacher_training.epochs=2"]),
    "cnn": ("cifar10_methods", "cnn", [*CIFAR, f"teachers={{cnn: {{{CNN}}}}}", "teacher_training.epochs=10"]),
    "vit": ("cifar10_methods", "vit", [*CIFAR, *ADAMW, f"teachers={{vit: {{{VIT}}}}}", "teacher_training.epochs=5"]),
    "fine": ("tinyimagenet_fine", "teacher", [*FRESH, "teacher_training.epochs=18"]),
    "wide": ("tinyimagenet_first", "teacher", FRESH),
    "narrow": ("tinyimagenet_first", "teacher", [
        *FRESH, "teachers.teacher.width=2", "teacher_training.epochs=16", "training.precision=bf16-mixed", "seed=1",
    ]),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/method-teachers"))
    parser.add_argument("--only", nargs="+", default=list(TEACHERS), choices=list(TEACHERS))
    parser.add_argument("--cifar10", default="data/cifar10", help="folder of the images")
    parser.add_argument("--tinyimagenet", default="data/tinyimagenet32", help="folder of the images")
    parser.add_argument("--data-root", help="folder of cifar10_resnets")
    options = parse_options(parser, local=("out", "cifar10", "tinyimagenet", "data_root"))
    for name in options.only:
        file = options.out / f"{name}.safetensors"
        if file.exists():
            continue
        recipe, teacher_name, settings = TEACHERS[name]
        root = options.cifar10 if recipe.startswith("cifar10") else options.tinyimagenet
        job = Job.from_recipe(
            load_recipe(find_recipe(recipe), [f"data.root={root}", "study=null", *settings]), options.out / name
        )
        network = job.build_teacher(teacher_name)
        if name == "resnet":
            load_published(network, "resnet20", options.data_root)
        run = job.train_teacher(teacher_name, network, resume=True, callbacks=None)
        metrics = evaluate_split(network, job.data, job.task, job.data.validation).metrics
        print(f"{name}: {100 * metrics['accuracy']:.1f} % on validation, {run.seconds:.0f} s", flush=True)
        save_weights(network, file, metadata={"recipe": recipe})


if __name__ == "__main__":
    main()
