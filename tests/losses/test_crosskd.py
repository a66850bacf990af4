"""CrossKD: the student's features continue through the teacher's head, and are compared with its predictions."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from limbeck import Distiller, LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.losses import CrossKDLoss, crosskd_box_loss, crosskd_loss

CLASSES, ANCHORS = 3, 2
HEAD = ["head.1", "head.cls"]
LAYERS = {"c3": "head.0@0", "c4": "head.0@1"}


class Head(nn.ModuleDict):
    """Two convolutions and the predictions, as the heads of torchvision."""

    def __init__(self, width):
        super().__init__(
            {
                "0": nn.Conv2d(2, width, 3, padding=1),
                "1": nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(inplace=True)),
                "cls": nn.Conv2d(width, ANCHORS * CLASSES, 1),
                "box": nn.Conv2d(width, ANCHORS * 4, 1),
            }
        )


class Network(nn.Module):
    """A dense detector on two levels of the image."""

    def __init__(self, width):
        super().__init__()
        self.head = Head(width)

    def forward(self, images):
        predictions = {"cls": [], "box": []}
        for maps in (images, nn.functional.avg_pool2d(images, 2)):
            features = self.head["1"](self.head["0"](maps))
            for name, width in (("cls", CLASSES), ("box", 4)):
                n, _, height, wide = maps.shape
                out = self.head[name](features).view(n, ANCHORS, width, height, wide).permute(0, 3, 4, 1, 2)
                predictions[name].append(out.reshape(n, -1, width))
        return {name: torch.cat(levels, dim=1) for name, levels in predictions.items()}


class Boxes:
    """The task: rows are anchors."""

    def outputs(self, network, batch):
        raw = network(batch)
        return Outputs(
            logits=raw["cls"].flatten(0, 1), by_row={"box_deltas": raw["box"].flatten(0, 1)},
            row_to_sample=torch.arange(len(batch)).repeat_interleave(raw["cls"].shape[1]),
        )  # fmt: skip

    def target(self, batch):
        return None


def make_distiller(loss, student_width=4, teacher_width=6):
    torch.manual_seed(0)
    return Distiller(
        Network(student_width), {"teacher": Network(teacher_width)}, objective={"cross": loss}, task=Boxes(),
        feature_layers={"student": LAYERS},
    )  # fmt: skip


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("branch", ["classification", "boxes"])
def test_it_agrees_with_numpy_through_the_teachers_head(branch):
    name = {"classification": "cls", "boxes": "box"}[branch]
    loss = CrossKDLoss(list(LAYERS), ["head.1", f"head.{name}"], branch=branch)
    distiller, batch = make_distiller(loss), torch.randn(2, 2, 4, 6)
    distiller.prepare(batch)
    value = distiller(batch).total
    student, teacher = distiller.student.head, distiller.teachers["teacher"].network.head
    width, rows = {"classification": CLASSES, "boxes": 4}[branch], []
    for sample in range(2):
        for maps in (batch[sample], nn.functional.avg_pool2d(batch, 2)[sample]):
            crossed = teacher[name](teacher["1"](loss.projection(student["0"](maps[None]))))[0].detach().numpy()
            for i in range(maps.shape[1]):
                for j in range(maps.shape[2]):
                    rows += [crossed[a * width : (a + 1) * width, i, j] for a in range(ANCHORS)]
    own = distiller.teachers["teacher"].network(batch)
    cross, logits = np.stack(rows).astype(float), own["cls"].flatten(0, 1).detach().double().numpy()
    if branch == "classification":
        p, q = sigmoid(logits), sigmoid(cross)
        expected = (np.abs(p - q) * -(p * np.log(q) + (1 - p) * np.log(1 - q))).sum(axis=1).mean()
    else:
        d, weights = np.abs(cross - own["box"].flatten(0, 1).detach().double().numpy()), sigmoid(logits).max(axis=1)
        expected = (np.where(d < 1, d**2 / 2, d - 0.5).sum(axis=1) * weights).sum() / weights.sum()
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_the_student_learns_and_the_teacher_does_not():
    distiller, batch = make_distiller(CrossKDLoss(list(LAYERS), HEAD)), torch.randn(2, 2, 4, 4)
    distiller.prepare(batch)
    before = copy.deepcopy(distiller.teachers["teacher"].network.state_dict())
    first = distiller(batch).total
    for _ in range(8):
        distiller.zero_grad()
        distiller(batch).total.backward()
        with torch.no_grad():
            for parameter in distiller.parameters():
                parameter -= 0.0 if parameter.grad is None else parameter.grad
    assert distiller(batch).total < first
    gradients = [distiller.student.head[name].weight.grad for name in ("0", "cls")]
    assert gradients[0].any()
    assert gradients[1] is None  # the student's own predictions are not compared
    after = distiller.teachers["teacher"].network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any("head" in name for name in distiller.objective.state_dict())


def test_equal_networks_agree():
    loss = CrossKDLoss(list(LAYERS), HEAD)
    distiller, batch = make_distiller(loss, 4, 4), torch.randn(1, 2, 4, 4)
    distiller.student.load_state_dict(distiller.teachers["teacher"].network.state_dict())
    distiller.prepare(batch)
    assert distiller(batch).total.item() == pytest.approx(0.0, abs=1e-7)


def test_half_precision_and_no_rows():
    for dtype in (torch.float16, torch.bfloat16):
        assert crosskd_loss(torch.randn(3, 2).to(dtype), torch.randn(3, 2).to(dtype)).dtype == torch.float32
        box = torch.randn(3, 4).to(dtype)
        assert crosskd_box_loss(box, box + 1, torch.randn(3, 2).to(dtype)).dtype == torch.float32
    assert crosskd_loss(torch.zeros(0, 2), torch.zeros(0, 2)) == 0.0
    assert crosskd_box_loss(torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0, 2)) == 0.0


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimbeckError, match=r"must be modules of 'teacher', got 'head\.9'; available: head"):
        make_distiller(CrossKDLoss(["c3"], ["head.9"]))
    with pytest.raises(LimbeckError, match="the head of one teacher, got a, b: set its teacher"):
        Distiller(
            Network(2), {"a": Network(2), "b": Network(2)}, objective={"x": CrossKDLoss(["c3"], HEAD)}, task=Boxes()
        )
    with pytest.raises(LimbeckError, match="got none: set its teacher"):
        CrossKDLoss(["c3"], HEAD).set_teachers({})
    with pytest.raises(LimbeckError, match="CrossKDLoss uses the head of 'a', which has no network"):
        CrossKDLoss(["c3"], HEAD).set_teachers({"a": None})
    with pytest.raises(LimbeckError, match="branch must be classification or boxes, got 'mask'"):
        CrossKDLoss(["c3"], HEAD, branch="mask")
    batch = torch.randn(1, 2, 4, 4)
    with pytest.raises(LimbeckError, match=r"cross-head predictions have the shape \[32, 3\].* name all levels"):
        make_distiller(CrossKDLoss(["c3"], HEAD)).prepare(batch)(batch)
    with pytest.raises(LimbeckError, match=r"must return a multiple of 3 channels, got \[1, 6, 4, 4\]|multiple of 3"):
        make_distiller(CrossKDLoss(list(LAYERS), ["head.1", "head.box"]), 4, 7).prepare(batch)(batch)
    assert "student_features=('c3',)" in repr(CrossKDLoss(["c3"], HEAD))
