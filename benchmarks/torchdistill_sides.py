"""The sides that torchdistill_run.py compares, each a process of its own: SIDE SETTINGS OUT.

Both train the same student, from the same start, with the same teacher, pictures, augmentation, loss, optimizer,
schedule and number of steps, on one thread, and look at the test pictures once, at the end.
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


def with_torchdistill(settings: dict) -> dict:
    """A distillation box and the loop around it, as torchdistill's own image_classification example has them."""
    parts, student = _beginning(settings)
    box = _box(settings, parts, student)
    begun = time.perf_counter()
    for epoch in range(box.num_epochs):
        total = torch.zeros(())
        box.pre_epoch_process(epoch=epoch)
        for batch, target, more in box.train_data_loader:
            loss = box.forward_process(batch, targets=target, supp_dict=more)
            box.post_forward_process(loss=loss)
            total += loss.detach()
        box.post_epoch_process()
        mean, seconds = float(total) / len(box.train_data_loader), time.perf_counter() - begun
        print(f"torchdistill: epoch {epoch + 1}/{box.num_epochs}, loss {mean:.4f}, {seconds:.0f} s", flush=True)
    return _ending(student, parts) | {"torchdistill": metadata.version("torchdistill")}


def with_limbeck(settings: dict) -> dict:
    """`limbeck.fit` with a cached teacher; the cache is filled by the run that first shows a view."""
    import limbeck
    from limbeck.data import Augmentation, Normalization, Split, horizontal_flip, random_crop
    from limbeck.teachers import CachedTeacher

    parts, student = _beginning(settings)
    images, target = parts["train"]
    views = Augmentation((random_crop(4), horizontal_flip()), num_views=settings["views"])
    shown = Shown(
        Split.from_images(cifar.stored(images), target), views, Normalization(cifar.MEAN, cifar.STD), settings["seed"]
    )
    source = cifar.freeze(cifar.teacher(settings["data_root"]), settings["backend"])
    cached = CachedTeacher(source, shown.batches(batch_size=cifar.BATCH), root=settings["cache"])
    limbeck.fit(
        cifar.distiller(student, cached), shown, epochs=settings["epochs"], training=cifar.training(),
        seed=settings["seed"], callbacks=[cifar.Lines("limbeck")],
    )  # fmt: skip
    figures = {name: value for name, value in cached.stats().items() if name != "folder"}
    backend = getattr(source, "backend", None)
    return _ending(student, parts) | {"cache": figures, "backend": str(getattr(backend, "report", settings["backend"]))}


def losses(settings: dict) -> dict:
    """What both say about one batch, before any step: the same number, or the comparison would be of two methods."""
    parts, student = _beginning(settings)
    network = cifar.teacher(settings["data_root"])
    box = _box(settings, parts, student)
    batch, target, more = next(iter(box.train_data_loader))
    box.pre_epoch_process(epoch=0)
    theirs = box.forward_process(batch, targets=target, supp_dict=more)
    ours = cifar.distiller(student.train(), network)({"input": batch, "target": target}).total
    return {"torchdistill": theirs.item(), "limbeck": ours.item()}


@dataclass(frozen=True)
class Shown:
    """Training pictures without a validation part: neither side looks at anything on the way."""

    split: Any
    views: Any
    normalization: Any
    seed: int

    def batches(self, *, batch_size: int, subset: str = "all", rank: int = 0, world_size: int = 1):
        from limbeck.data.batch_sampler import BatchSampler

        return BatchSampler(
            self.split,
            self.views,
            self.normalization,
            batch_size=batch_size,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )

    def validation_batches(self) -> Iterator[Any]:
        return iter(())


class Pictures(torch.utils.data.Dataset):
    """What torchvision's CIFAR10 gives: a PIL picture through the transforms, and its class."""

    def __init__(self, images: np.ndarray, target: torch.Tensor, transform) -> None:
        self.images, self.targets, self.transform = images, target.tolist(), transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), self.targets[index]


def _box(settings: dict, parts: dict, student: torch.nn.Module):
    from torchdistill.core.distillation import get_distillation_box
    from torchvision import transforms

    change = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(cifar.MEAN, cifar.STD),
        ]
    )
    # Since version 1, torchdistill leaves the teacher's mode to its user; cifar.teacher gives it in eval mode.
    network = cifar.teacher(settings["data_root"])
    return get_distillation_box(
        network, student, {"train": Pictures(*parts["train"], change)}, _config(settings, len(parts["train"][0])),
        torch.device("cpu"), None, False, 1,
    )  # fmt: skip


def _config(settings: dict, many: int) -> dict:
    """What its YAML files say, in Python."""
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
            "kwargs": {"T_max": settings["epochs"] * (many // cifar.BATCH)},
            "scheduling_step": 1,
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}},
        },
    }


def _beginning(settings: dict) -> tuple[dict, torch.nn.Module]:
    """The pictures, and the student as it starts on both sides."""
    from limbeck.models import resnet20

    torch.set_num_threads(1)
    parts = cifar.pictures(settings["data_root"])
    images, target = parts["train"]
    parts["train"] = images[: settings["take"]], target[: settings["take"]]
    random.seed(settings["seed"])
    np.random.seed(settings["seed"])
    torch.manual_seed(settings["seed"])
    return parts, resnet20(classes=10)


def _ending(student: torch.nn.Module, parts: dict) -> dict:
    """Which test pictures the student gets right, and which student it is."""
    images, target = parts["test"]
    mean, std = (torch.tensor(numbers).reshape(1, 3, 1, 1) for numbers in (cifar.MEAN, cifar.STD))
    inputs = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std
    student.eval()
    with torch.inference_mode():
        said = torch.cat([student(batch).argmax(1) for batch in inputs.split(250)])
    return {"right": (said == target).tolist(), "student": cifar.fingerprint(student)}


SIDES = {"torchdistill": with_torchdistill, "limbeck": with_limbeck, "losses": losses}

if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(SIDES[sys.argv[1]](json.loads(sys.argv[2]))))
