"""Step time of distilled over student-only training for dense tasks, with a cached teacher and without.

Segmentation: the networks and losses of the recipe camvid with KD and CWD, on CamVid. Detection: those of the recipe
bccd with PKD on two levels of the pyramid, on BCCD. The steps of the three loops alternate in one process with one
thread, on the same batches; each turn gives one ratio, of the medians of its steps. The cache is full before it is
timed. Networks have random weights, which do not change the cost. Reads $LIMBECK_DATA.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from results import make_row, parse_options, write_rows

import limbeck
from limbeck.core.protocols import Loss
from limbeck.core.task import Task
from limbeck.data import Augmentation, SegmentationFolder, VOCDetection, horizontal_flip
from limbeck.losses import CrossEntropyLoss, CWDLoss, DetectionLoss, KDLoss, PKDLoss
from limbeck.models import detector, unet
from limbeck.tasks import Detection, Segmentation
from limbeck.teachers import CachedTeacher

CLASSES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
LOOPS = ("student_only", "cached", "uncached")


def segmentation():
    data = SegmentationFolder(
        name="camvid",
        classes=CLASSES,
        ignore_index=11,
        size=(72, 96),
        augment=Augmentation((horizontal_flip(),), num_views=2),
    ).load(seed=0)
    networks = {"student": lambda: unet(width=4, classes=11), "teacher": lambda: unet(width=16, classes=11)}
    losses = {"target": CrossEntropyLoss(), "kd": KDLoss(temperature=1), "cwd": CWDLoss(temperature=1)}
    return data.batches(batch_size=12), networks, losses, {}, Segmentation(classes=11, stride=2)


def detection():
    data = VOCDetection(
        name="bccd/BCCD", size=(120, 160), invalid_boxes="drop", augment=Augmentation((horizontal_flip(),), num_views=2)
    ).load(seed=0)
    options = {"classes": 3, "fpn_channels": 64, "levels": 4, "anchor_scale": 3}
    networks = {
        "student": lambda: detector(backbone="mobilenet_v3_small", **options),
        "teacher": lambda: detector(backbone="resnet18", **options),
    }
    losses = {"target": DetectionLoss(), "p3": PKDLoss("p3"), "p4": PKDLoss("p4")}
    layers = {"p3": "backbone.fpn#0", "p4": "backbone.fpn#1"}
    return data.batches(batch_size=8), networks, losses, {"student": layers, "teacher": layers}, Detection(classes=3)


def train(distiller: limbeck.Distiller, batches: list) -> Iterator[None]:
    """A training loop; runs one step per `next`."""
    distiller.prepare(batches[0])
    distiller.train()
    optimizer = torch.optim.AdamW([p for p in distiller.parameters() if p.requires_grad], lr=1e-3)
    while True:
        for batch in batches:
            loss = distiller(batch).total
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            yield


def make_loops(
    stream, networks: Mapping, losses: Mapping[str, Loss], layers: Mapping, task: Task, root: Path, num_batches: int
) -> dict[str, Iterator[None]]:
    batches = [stream.batch(step) for step in range(num_batches)]
    teacher = networks["teacher"]().eval()
    loops = {}
    for name in LOOPS:
        torch.manual_seed(0)
        student = networks["student"]()
        if name == "student_only":
            distiller = limbeck.Distiller(student, objective=losses["target"], task=task)
        else:
            frozen = limbeck.teachers.FrozenTeacher(teacher, layers.get("teacher"))
            source = frozen if name == "uncached" else CachedTeacher(frozen, stream, root=root)
            if name == "cached":
                for batch in batches:
                    source.predict(batch, task)
            distiller = limbeck.Distiller(student, source, objective=losses, task=task, feature_layers=layers or None)
        loops[name] = train(distiller, batches)
    return loops


def measure(loops: Mapping[str, Iterator[None]], *, steps: int, turns: int) -> dict[str, list[float]]:
    """Median milliseconds of a step of each loop, for each turn after a warm-up turn."""
    medians = {name: [] for name in loops}
    for _ in range(turns + 1):
        seconds = {name: [] for name in loops}
        for _ in range(steps):
            for name, loop in loops.items():
                start = time.perf_counter()
                next(loop)
                seconds[name].append(time.perf_counter() - start)
        for name in loops:
            medians[name].append(1e3 * statistics.median(seconds[name]))
    return {name: values[1:] for name, values in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--turns", type=int, default=8)
    options = parse_options(parser, local=())
    torch.set_num_threads(1)
    rows, all_medians, cached_ratios = [], {}, []
    for name, data in (("segmentation", "CamVid, 96×72 pixels"), ("detection", "BCCD, 160×120 pixels")):
        with tempfile.TemporaryDirectory() as root:
            loops = make_loops(*{"segmentation": segmentation, "detection": detection}[name](), Path(root), 8)
            medians = measure(loops, steps=options.steps, turns=options.turns)
        for loop, aim in (("cached", "<= 1.1"), ("uncached", "report")):
            ratios = [a / b for a, b in zip(medians[loop], medians["student_only"], strict=True)]
            row = f"{name}_step_over_student_only_{loop}"
            rows.append(make_row(row, ratios, unit="ratio", aim=aim, data=data, digits=3))
            if loop == "cached":
                cached_ratios.append(ratios)
        all_medians[name] = medians
    larger = [max(pair) for pair in zip(*cached_ratios, strict=True)]
    name = "dense_step_over_student_only_cached"
    rows.insert(0, make_row(name, larger, unit="ratio", aim="<= 1.1", data="the larger of both tasks", digits=3))
    write_rows(rows, median_milliseconds_per_step=all_medians)


if __name__ == "__main__":
    main()
