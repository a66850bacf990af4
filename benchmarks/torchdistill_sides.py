"""The runs that torchdistill_run.py compares, each in its own process: SIDE SETTINGS OUT.

Both train the same student, from the same initial weights, with the same teacher, images, augmentation, loss,
optimizer, schedule and number of steps, on one thread, and evaluate on the test images once at the end.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import cifar
import numpy as np
import torch


def run_torchdistill(settings: dict) -> dict:
    """A distillation box and its loop, as in the image_classification example of torchdistill."""
    splits, student = _prepare(settings)
    box = _make_box(settings, splits, student)
    start = time.perf_counter()
    for epoch in range(box.num_epochs):
        total = torch.zeros(())
        box.pre_epoch_process(epoch=epoch)
        for batch, target, extra in box.train_data_loader:
            loss = box.forward_process(batch, targets=target, supp_dict=extra)
            box.post_forward_process(loss=loss)
            total += loss.detach()
        box.post_epoch_process()
        mean, seconds = float(total) / len(box.train_data_loader), time.perf_counter() - start
        print(f"torchdistill: epoch {epoch + 1}/{box.num_epochs}, loss {mean:.4f}, {seconds:.0f} s", flush=True)
    return _evaluate(student, splits) | {"torchdistill": metadata.version("torchdistill")}


def run_limbeck(settings: dict) -> dict:
    """`limbeck.fit` with a cached teacher; the run that first uses a view fills the cache."""
    import limbeck
    from limbeck.data import Augmentation, Normalization, Split, horizontal_flip, random_crop
    from limbeck.teachers import CachedTeacher, FrozenTeacher

    splits, student = _prepare(settings)
    images, target = splits["train"]
    augment = Augmentation((random_crop(4), horizontal_flip()), num_views=settings["views"])
    data = TrainingData(
        Split.from_images(cifar.to_store(images), target),
        augment,
        Normalization(cifar.MEAN, cifar.STD),
        settings["seed"],
    )
    frozen = FrozenTeacher(cifar.load_resnet("resnet56", settings["data_root"]), backend=settings["backend"])
    teacher = CachedTeacher(frozen, data.batches(batch_size=cifar.BATCH), root=settings["cache"])
    limbeck.fit(
        cifar.make_distiller(student, teacher), data, epochs=settings["epochs"], training=cifar.make_training_config(),
        seed=settings["seed"], callbacks=[cifar.EpochLogger("limbeck")],
    )  # fmt: skip
    figures = {name: value for name, value in teacher.stats().items() if name != "folder"}
    backend = getattr(frozen, "backend", None)
    return _evaluate(student, splits) | {
        "cache": figures,
        "backend": str(getattr(backend, "report", settings["backend"])),
    }


def compare_losses(settings: dict) -> dict:
    """The loss of both on one batch before any step: it must be equal, or the runs would compare two methods."""
    splits, student = _prepare(settings)
    network = cifar.load_resnet("resnet56", settings["data_root"])
    box = _make_box(settings, splits, student)
    batch, target, extra = next(iter(box.train_data_loader))
    box.pre_epoch_process(epoch=0)
    theirs = box.forward_process(batch, targets=target, supp_dict=extra)
    ours = cifar.make_distiller(student.train(), network)({"input": batch, "target": target}).total
    return {"torchdistill": theirs.item(), "limbeck": ours.item()}


@dataclass(frozen=True)
class TrainingData:
    """Training images without a validation split: neither run evaluates during training."""

    split: Any
    augment: Any
    normalization: Any
    seed: int

    def batches(self, *, batch_size: int, subset: str = "all", rank: int = 0, world_size: int = 1):
        from limbeck.data.batch_sampler import BatchSampler

        return BatchSampler(
            self.split,
            self.augment,
            self.normalization,
            batch_size=batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    def validation_batches(self) -> Iterator[Any]:
        return iter(())


class PILDataset(torch.utils.data.Dataset):
    """As torchvision's CIFAR10: a transformed PIL image and its class."""

    def __init__(self, images: np.ndarray, target: torch.Tensor, transform) -> None:
        self.images, self.targets, self.transform = images, target.tolist(), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.targets[index]


def _make_box(settings: dict, splits: dict, student: torch.nn.Module):
    from torchdistill.core.distillation import get_distillation_box
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(cifar.MEAN, cifar.STD),
        ]
    )
    # Since version 1, torchdistill leaves the mode of the teacher to the user; load_resnet returns it in eval mode.
    network = cifar.load_resnet("resnet56", settings["data_root"])
    return get_distillation_box(
        network, student, {"train": PILDataset(*splits["train"], transform)},
        _config(settings, len(splits["train"][0])),
        torch.device("cpu"), None, False, 1,
    )  # fmt: skip


def _config(settings: dict, num_images: int) -> dict:
    """The configuration of its YAML files, in Python."""
    # KDLoss is alpha · CE + (1 − alpha) · tau² · KL. With batchmean, KL is the sum over classes and the mean over rows,
    # and CE the mean over rows: limbeck's convention, so the two losses are the same number (see `losses`). With any
    # other reduction KL would be smaller by the number of classes, or CE larger by that of rows.
    loss = {
        "student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".",
        "teacher_module_io": "output", "temperature": cifar.TEMPERATURE, "alpha": cifar.WEIGHTS["target"],
        "reduction": "batchmean",
    }  # fmt: skip
    return {
        "num_epochs": settings["epochs"],
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": torch.utils.data.RandomSampler, "kwargs": {}},
            # limbeck leaves out the last, smaller batch of an epoch: so both make equally many steps.
            "kwargs": {"batch_size": cifar.BATCH, "num_workers": 0, "drop_last": True},
        },
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": dict(cifar.SGD)},
        "scheduler": {
            "key": "CosineAnnealingLR",
            "kwargs": {"T_max": settings["epochs"] * (num_images // cifar.BATCH)},
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }


def _prepare(settings: dict) -> tuple[dict, torch.nn.Module]:
    """The images, and the student with its initial weights."""
    from limbeck.models import resnet20

    torch.set_num_threads(1)
    splits = cifar.load_images(settings["data_root"])
    images, target = splits["train"]
    splits["train"] = images[: settings["num_images"]], target[: settings["num_images"]]
    random.seed(settings["seed"])
    np.random.seed(settings["seed"])
    torch.manual_seed(settings["seed"])
    return splits, resnet20(classes=10)


def _evaluate(student: torch.nn.Module, splits: dict) -> dict:
    """Which test images the student classifies correctly, and a hash of its weights."""
    images, target = splits["test"]
    mean, std = (torch.tensor(numbers).reshape(1, 3, 1, 1) for numbers in (cifar.MEAN, cifar.STD))
    inputs = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
    student.eval()
    with torch.inference_mode():
        predicted = torch.cat([student(batch).argmax(1) for batch in inputs.split(250)])
    return {"correct": (predicted == target).tolist(), "student": cifar.hash_weights(student)}


SIDES = {"torchdistill": run_torchdistill, "limbeck": run_limbeck, "losses": compare_losses}

if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))))
