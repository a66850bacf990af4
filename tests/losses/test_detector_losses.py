"""The losses of a detector together, on torchvision's RetinaNet; the recipe of the page is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from limbeck import Distiller
from limbeck.losses import (
    BinaryKDLoss,
    CrossKDLoss,
    FGDLoss,
    FPNAttentionLoss,
    FPNFeatureLoss,
    LDLoss,
    QualityFocalLoss,
)
from limbeck.models import detector
from limbeck.recipe import load_recipe, resolve_recipe
from limbeck.tasks import Detection

PAGE = Path(__file__).parents[2] / "docs" / "detection-losses.md"
LEVELS = {f"p{i + 3}": f"backbone.fpn#{i}" for i in range(3)}
HEAD = "head.classification_head"
INSIDE = {f"c{i + 3}": f"{HEAD}.conv.2@{i}" for i in range(3)}


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[[2.0, 3.0, 40.0, 36.0], [10.0, 10.0, 60.0, 50.0]], [[0.0, 0.0, 0.0, 0.0]] * 2])
    return {
        "input": torch.rand(2, 3, 64, 64, generator=generator), "boxes": boxes,
        "labels": torch.tensor([[0, 1], [-100, -100]]), "num_boxes": torch.tensor([2, 0]),
    }  # fmt: skip


def test_they_train_a_student_of_other_width(batch):
    torch.manual_seed(0)
    losses = {
        "features": FPNFeatureLoss(list(LEVELS)), "attention": FPNAttentionLoss(list(LEVELS)),
        "fgd": FGDLoss(list(LEVELS)), "binary": BinaryKDLoss(), "focal": QualityFocalLoss(), "ld": LDLoss(),
        "cross": CrossKDLoss(list(INSIDE), [f"{HEAD}.conv.3", f"{HEAD}.cls_logits"]),
        "cross_boxes": CrossKDLoss(
            [f"b{name}" for name in INSIDE],
            ["head.regression_head.conv.3", "head.regression_head.bbox_reg"], branch="boxes",
        ),
    }  # fmt: skip
    student, teacher = (
        detector(backbone="mobilenet_v3_small", fpn_channels=width, levels=3, classes=2) for width in (32, 64)
    )
    inside = {**INSIDE, **{f"b{name}": path.replace("classification", "regression") for name, path in INSIDE.items()}}
    distiller = Distiller(
        student, {"big": teacher}, objective=losses, task=Detection(2),
        feature_layers={"student": {**LEVELS, **inside}, "big": LEVELS},
    )  # fmt: skip
    distiller.prepare(batch)
    output = distiller(batch)
    output.total.backward()
    assert all(value > 0 and torch.isfinite(value) for value in output.by_loss.values()), output
    missing = [name for name, p in distiller.named_parameters() if p.grad is None and not name.startswith("student.")]
    assert missing == []
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_recipe_of_the_page_is_valid(tmp_path):
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "detector.yaml").write_text(text)
    recipe = resolve_recipe(load_recipe(tmp_path / "detector.yaml"))
    assert set(recipe.stages[0].losses) == {"target", "fgd", "classes", "boxes", "cross"}
