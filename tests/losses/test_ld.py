"""LD: KL of the distributions of edges in the main and in the valuable localization region, or smooth L1 of boxes."""

from __future__ import annotations

import runpy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from limbeck import LimbeckError
from limbeck.core.schedules import linear
from limbeck.losses import LDLoss, box_deltas_loss, ld_loss, pairwise_diou
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))
targets = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_boxes.py"))))
BINS, PER_IMAGE = 5, 30
BOXES = [targets.random_boxes(np.random.default_rng(i), count) for i, count in enumerate((3, 0, 2))]
ANCHORS = [targets.random_boxes(np.random.default_rng(9), PER_IMAGE - 4) for _ in BOXES]
ANCHORS = [[*anchors, *((boxes or [[0, 0, 9, 9]]) * 4)[:4]] for anchors, boxes in zip(ANCHORS, BOXES, strict=True)]


def make(*, distributions=True, scale=1.0, dtype=torch.float32, seed=0):
    """Anchors of three images, some of them boxes; random distributions or box deltas."""
    generator = torch.Generator().manual_seed(seed)
    rows = 3 * PER_IMAGE
    shape = (rows, 4, BINS) if distributions else (rows, 4)
    name = "box_logits" if distributions else "box_deltas"
    context = make_context(rows=3, dtype=dtype, scale=scale, seed=seed)
    anchors, samples = torch.tensor(ANCHORS).flatten(0, 1), torch.arange(3).repeat_interleave(PER_IMAGE)

    def outputs(old):
        values = (scale * torch.randn(*shape, generator=generator)).to(dtype).requires_grad_()
        return replace(
            old, logits=torch.zeros(rows, 2, requires_grad=True), by_row={"anchors": anchors, name: values},
            row_to_sample=samples,
        )  # fmt: skip

    teacher = outputs(context.teacher)
    return replace(
        context, student=outputs(context.student), teacher=teacher, teachers={"teacher": teacher},
        sample_targets=targets.sample_targets(BOXES),
    )  # fmt: skip


def diou(a, b):
    """Zheng et al. 2020, Eq. 7."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(wide, 0) * max(high, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    centers = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    hull = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    return overlap / union - centers / hull


def regions(alpha=0.5, gamma=0.25, scale=1.0):
    def grow(anchor):
        left, top, right, bottom = anchor
        x, y = (left + right) / 2, (top + bottom) / 2
        w, h = scale * (right - left) / 2, scale * (bottom - top) / 2
        return [x - w, y - h, x + w, y + h]

    best = [
        max((diou(grow(anchor), box) for box in boxes), default=-1.0)
        for anchors, boxes in zip(ANCHORS, BOXES, strict=True)
        for anchor in anchors
    ]
    best = np.array(best)
    return best > alpha, (best >= gamma * alpha) & (best <= alpha)


def paper_rows(student, teacher, tau):
    def softmax(x):
        e = np.exp(x / tau)
        return e / e.sum(axis=2, keepdims=True)

    p, q = softmax(teacher), softmax(student)
    return tau**2 * (p * np.log(p / q)).sum(axis=(1, 2))


def smooth_l1_rows(student, teacher):
    d = np.abs(student - teacher)
    return np.where(d < 1, d**2 / 2, d - 0.5).sum(axis=1)


def paper(context, rows, *, main=1.0, valuable=1.0, **options):
    in_main, in_valuable = regions(**options)
    assert in_main.sum() > 3
    assert in_valuable.sum() > 3
    return main * rows[in_main].mean() + valuable * rows[in_valuable].mean()


def arrays(context, name):
    return (outputs.by_row[name].detach().double().numpy() for outputs in (context.student, context.teacher))


def test_diou_of_all_pairs_is_that_of_each():
    random = np.random.default_rng(1)
    anchors, boxes = targets.random_boxes(random, 5), targets.random_boxes(random, 4)
    expected = [[diou(anchor, box) for box in boxes] for anchor in anchors]
    torch.testing.assert_close(
        pairwise_diou(torch.tensor(anchors).double(), torch.tensor(boxes).double()), torch.tensor(expected).double(),
        atol=1e-6, rtol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("distributions", [True, False])
def test_it_passes_every_check(distributions):
    # A repeated batch has its boxes twice, so all rows are those of the first half.
    check_loss(LDLoss(), context_factory=partial(make, distributions=distributions))


@pytest.mark.parametrize("options", [{}, {"alpha": 0.6, "gamma": 0.1}, {"scale": 1.3}])
def test_it_agrees_with_the_paper_in_numpy(options):
    names = {"alpha": "positive_threshold", "gamma": "valuable_fraction", "scale": "anchor_scale"}
    settings = {names[key]: value for key, value in options.items()}
    context = make(dtype=torch.float64)
    rows = paper_rows(*arrays(context, "box_logits"), tau=3.0)
    expected = paper(context, rows, main=2.0, valuable=0.5, **options)
    shared.close(LDLoss(3.0, main_weight=2.0, valuable_weight=0.5, **settings)(context), expected)
    context = make(dtype=torch.float64, distributions=False)
    expected = paper(context, smooth_l1_rows(*arrays(context, "box_deltas")), **options)
    shared.close(LDLoss(**settings)(context), expected)


def test_a_scheduled_temperature_is_read_at_each_step():
    context = make()  # a quarter of training is over
    assert LDLoss(linear(4.0, 2.0))(context) == LDLoss(3.5)(context)


def test_images_without_boxes_have_no_rows():
    context = make()
    empty = replace(context, sample_targets=targets.sample_targets([[], [], []]))
    value = LDLoss()(empty)
    value.backward()
    assert value.item() == 0.0
    assert not context.student.by_row["box_logits"].grad.any()


def test_functions_in_half_precision_and_of_no_rows():
    region = torch.tensor([True, False])
    for dtype in (torch.float16, torch.bfloat16):
        student, teacher = torch.randn(2, 4, 6).to(dtype), torch.randn(2, 4, 6).to(dtype)
        value = ld_loss(student, teacher, region)
        assert value.dtype == torch.float32
        expected = paper_rows(student[:1].double().numpy(), teacher[:1].double().numpy(), 10.0)
        assert value.item() == pytest.approx(expected.mean(), rel=1e-4)
        assert box_deltas_loss(student[..., 0], teacher[..., 0], region).dtype == torch.float32
    assert ld_loss(torch.zeros(0, 4, 3), torch.zeros(0, 4, 3), torch.zeros(0) > 0) == 0.0
    shared.check_gradient(partial(ld_loss, region=region), (2, 4, 3), (2, 4, 3))


def test_what_does_not_fit_is_refused():
    context = make()
    moved = replace(context.teacher, by_row={**context.teacher.by_row, "anchors": torch.zeros(3, 4)})
    with pytest.raises(LimbeckError, match=r"anchors have the shape \[90, 4\].*\[3, 4\]: use heads of the same levels"):
        LDLoss()(replace(context, teacher=moved))
    with pytest.raises(LimbeckError, match="LDLoss needs anchors of each row, got none: use the task Detection"):
        LDLoss()(make_context())
    bare = replace(context.student, by_row={"anchors": context.student.by_row["anchors"]})
    with pytest.raises(LimbeckError, match="LDLoss needs box_deltas of each row, got anchors"):
        LDLoss()(replace(context, student=bare))
    for settings in ({"positive_threshold": 1.0}, {"valuable_fraction": 2.0}, {"anchor_scale": 0.0}):
        with pytest.raises(LimbeckError, match=rf"{next(iter(settings))} must be in"):
            LDLoss(**settings)
