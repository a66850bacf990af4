"""FGD in NumPy from the paper's equations, with a loop over boxes; the masks are the same, computed for all at once."""

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
from limbeck.losses import FGDLoss, fgd_focal_loss, foreground_weights
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))
targets = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_boxes.py"))))
LEVELS = {"p3": (4, 8, 12), "p4": (4, 4, 6)}
BOXES = [[[2, 3, 20, 17], [5, 5, 9, 9]], [], [[0, 0, 48, 32]]]
make = partial(targets.with_boxes, BOXES, student_feature_shapes=LEVELS, teacher_feature_shapes=LEVELS)


def paper_mask(boxes, size, image=targets.IMAGE):
    """Equation 2 by a loop: cells that a box overlaps, from the largest box to the smallest."""
    mask, spans = np.zeros(size), []
    for left, top, right, bottom in boxes:
        scale_y, scale_x = size[0] / image[0], size[1] / image[1]
        rows = slice(int(np.floor(top * scale_y)), int(np.ceil(bottom * scale_y)))
        columns = slice(int(np.floor(left * scale_x)), int(np.ceil(right * scale_x)))
        spans.append(((rows.stop - rows.start) * (columns.stop - columns.start), rows, columns))
    for area, rows, columns in sorted(spans, key=lambda span: -span[0]):
        mask[rows, columns] = 1 / area
    return mask


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def paper_focal(student, teacher, boxes, alpha=1e-3, beta=5e-4, gamma=1e-3, temperature=0.5):
    total = 0.0
    for s, t, image_boxes in zip(student, teacher, boxes, strict=True):
        channels, height, width = t.shape
        spatial = [height * width * softmax(np.abs(f).mean(0) / temperature) for f in (s, t)]
        channel = [channels * softmax(np.abs(f).mean((1, 2)) / temperature) for f in (s, t)]
        foreground = paper_mask(image_boxes, (height, width))
        num_background = (foreground == 0).sum()
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    scale = alpha * foreground[i, j] if foreground[i, j] else beta / num_background
                    total += scale * spatial[1][i, j] * channel[1][c] * (t[c, i, j] - s[c, i, j]) ** 2
        total += gamma * (np.abs(spatial[1] - spatial[0]).sum() + np.abs(channel[1] - channel[0]).sum())
    return total / len(student)


def paper_context(maps, block):
    """R(F): softmax-pooled context through linear, LayerNorm, ReLU, linear, added to every position."""
    weight, bias = (p.detach().double().numpy() for p in block.attention.parameters())
    first, norm, _, second = block.transform
    values = {name: p.detach().double().numpy() for name, p in block.transform.named_parameters()}
    out = []
    for x in maps:
        flat = x.reshape(len(x), -1)
        pooled = flat @ softmax(weight[0, :, 0, 0] @ flat + bias)
        hidden = values["0.weight"] @ pooled + values["0.bias"]
        hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + norm.eps) * values["1.weight"] + values["1.bias"]
        out.append(x + (values["3.weight"] @ np.maximum(hidden, 0) + values["3.bias"])[:, None, None])
    assert (first.in_features, second.out_features) == (len(maps[0]), len(maps[0]))
    return np.stack(out)


@pytest.mark.parametrize("size", [(8, 12), (4, 6), (3, 5), (1, 1)])
def test_masks_of_all_boxes_at_once_are_those_of_a_loop(size):
    random = np.random.default_rng(0)
    boxes = [targets.random_boxes(random, count) for count in (0, 1, 7, 12)]
    fields = targets.sample_targets(boxes)
    is_box = torch.arange(fields["boxes"].shape[1]) < fields["num_boxes"][:, None]
    masks = foreground_weights(fields["boxes"].double(), is_box, fields["image_size"], size)
    expected = np.stack([paper_mask(np.float32(b).astype(float).tolist(), size) for b in boxes])
    np.testing.assert_allclose(masks.numpy(), expected, rtol=1e-12)


def test_a_box_on_the_border_of_a_cell_does_not_reach_into_the_next():
    # 700 pixels on 7 cells: the edges are 100, 200, …, which float32 does not divide exactly.
    boxes = torch.tensor([[[100.0, 0.0, 300.0, 100.0], [300.0, 0.0, 300.0001, 100.0]]])
    mask = foreground_weights(boxes, torch.tensor([[True, True]]), torch.tensor([[100, 700]]), (1, 7))
    assert mask.tolist() == [[[0.0, 0.5, 0.5, 1.0, 0.0, 0.0, 0.0]]]  # a box thinner than a cell has one cell
    assert foreground_weights(torch.zeros(2, 0, 4), torch.zeros(2, 0) > 0, torch.ones(2, 2), (2, 3)).shape == (2, 2, 3)


def test_it_passes_every_check():
    check_loss(FGDLoss(list(LEVELS)), context_factory=make)
    wide = {name: (6, *shape[1:]) for name, shape in LEVELS.items()}
    projected = partial(make, teacher_feature_shapes=wide)
    check_loss(FGDLoss(list(LEVELS)), context_factory=projected, skip={"zero at agreement"})


@pytest.mark.parametrize("channels", [4, 6])
def test_it_agrees_with_the_paper_in_numpy(channels):
    wide = {name: (channels, *shape[1:]) for name, shape in LEVELS.items()}
    context = make(teacher_feature_shapes=wide, dtype=torch.float64)
    loss, expected = shared.prepared(FGDLoss(list(LEVELS), global_weight=0.1), context), 0.0
    for level, name in zip(loss.levels, LEVELS, strict=True):
        for block in (level.student_context, level.teacher_context):
            torch.nn.init.normal_(block.transform[-1].weight)
        student, teacher = (o.feature(name).detach().numpy() for o in (context.student, context.teacher))
        student = student if channels == 4 else shared.convolved(student, level.projection.layer)
        contexts = paper_context(student, level.student_context), paper_context(teacher, level.teacher_context)
        expected += paper_focal(student, teacher, BOXES) + 0.1 * np.square(contexts[0] - contexts[1]).sum() / 3
    shared.close(loss(context), expected)


def test_images_without_annotations_count_in_the_attention_only():
    context = make(dtype=torch.float64)
    loss = shared.prepared(FGDLoss(["p3"], global_weight=0.0), context)
    unlabeled = replace(context, sample_targets=targets.sample_targets(BOXES, [False, False, False]))
    only_attention = FGDLoss(["p3"], foreground_weight=0.0, background_weight=0.0, global_weight=0.0)
    assert loss(unlabeled) == shared.prepared(only_attention, context)(context) < loss(context)


def test_only_the_samples_valid_for_the_teacher_count():
    context = make()
    loss = shared.prepared(FGDLoss(list(LEVELS)), context)
    teacher = replace(context.teacher, valid=torch.tensor([True, False, True]))
    partly = replace(context, teacher=teacher, teachers={"teacher": teacher})
    valid = targets.with_boxes([BOXES[0], BOXES[2]], student_feature_shapes=LEVELS)
    keep = torch.tensor([True, False, True])
    valid = replace(
        valid, student=context.student.masked_select(keep), teacher=context.teacher.masked_select(keep), teachers={}
    )
    torch.testing.assert_close(loss(partly), loss(valid))
    no_sample = replace(teacher, valid=torch.zeros(3, dtype=torch.bool))
    value = loss(replace(context, teacher=no_sample, teachers={"teacher": no_sample}))
    value.backward()
    assert value.item() == 0.0


def test_half_precision_and_gradients():
    foreground = torch.rand(2, 3, 3)
    for dtype in (torch.float16, torch.bfloat16):
        student, teacher = torch.randn(2, 4, 3, 3).to(dtype), torch.randn(2, 4, 3, 3).to(dtype)
        assert fgd_focal_loss(student, teacher, foreground).dtype == torch.float32
    student, teacher = torch.randn(2, 2, 2, 2, 2).double().unbind(0)
    mask = torch.tensor([[[0.0, 0.5], [0.0, 0.5]], [[0.0, 0.0], [0.0, 0.0]]])
    options = {"foreground_weight": 1.0, "background_weight": 1.0, "attention_weight": 1.0}
    assert torch.autograd.gradcheck(lambda x: fgd_focal_loss(x, teacher, mask, **options), student.requires_grad_())


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimbeckError, match="this loss needs the target 'boxes' of each sample"):
        FGDLoss(["p3"]).prepare(make_context(student_feature_shapes=LEVELS))
    with pytest.raises(LimbeckError, match=r"foreground_weight must be in \[0, inf\), got -1"):
        FGDLoss(["p3"], foreground_weight=-1)
    with pytest.raises(LimbeckError, match=r"attention_temperature must be in \(0, inf\), got 0"):
        FGDLoss(["p3"], attention_temperature=0)
    context = make()
    wrong = replace(context, sample_targets={**context.sample_targets, "image_size": torch.ones(2, 2)})
    with pytest.raises(LimbeckError, match=r"boxes must be \[batch, k, 4\] .* got \[3, 2, 4\] and \[2, 2\]"):
        FGDLoss(["p3"]).prepare(wrong)
    assert "layers=('p3',)" in repr(FGDLoss(["p3"]))
