"""boundary_kd_loss is KDLoss with more weight on pixels whose window has two classes."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import BoundaryKDLoss, KDLoss, boundary_kd_loss, kd_loss
from limbeck.losses._masks import is_boundary
from limbeck.losses.temperature import PerSample
from limbeck.models import unet
from limbeck.tasks import Segmentation
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))
TASK = Segmentation(3, stride=2)


def paper(student, teacher, weights, tau):
    log_q, log_p = shared.log_softmax(student / tau), shared.log_softmax(teacher / tau)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return tau**2 * (weights * divergence).sum() / weights.sum()


def near_boundary(mask, radius):
    """Whether the window around each pixel has two classes, pixel by pixel."""
    out = np.zeros(mask.shape, dtype=bool)
    for image, row, column in np.ndindex(mask.shape):
        rows, columns = (slice(max(x - radius, 0), x + radius + 1) for x in (row, column))
        window = mask[image, rows, columns]
        out[image, row, column] = len(set(window[window >= 0])) > 1
    return out


def make_rows_context(*, classes=5, **options):
    """Six images of 2×3 pixels, all of a class, as rows."""
    context, rows = make_context(rows=36, classes=classes, **options), torch.arange(6).repeat_interleave(6)
    student, teacher = (replace(x, row_to_sample=rows, features={}) for x in (context.student, context.teacher))
    mask = torch.randint(0, 3, (6, 2, 3), generator=torch.Generator().manual_seed(options.get("seed", 0)))
    return replace(
        context, student=student, teacher=teacher, teachers={"teacher": teacher}, sample_targets={"mask": mask}
    )


@pytest.fixture(scope="module")
def context():
    """Student and teacher on images of which one has no mask, and one no class on the grid."""
    torch.manual_seed(0)
    mask = torch.randint(0, 3, (4, 9, 12)).repeat_interleave(3, dim=2)[:, :, :12]
    mask[:, :2], mask[1] = 255, 255
    mask[2, ::2], mask[2, 1] = 255, 1
    networks = unet(width=2, depth=1, classes=3), unet(width=4, depth=1, classes=3)
    distiller = limbeck.Distiller(networks[0], {"teacher": networks[1]}, objective=BoundaryKDLoss(), task=TASK)
    return distiller.forward_context({"input": torch.rand(4, 3, 9, 12), "target": mask})


@pytest.mark.parametrize("options", [{}, {"radius": 1, "temperature": 2.0}, {"temperature": PerSample()}])
def test_it_passes_every_check(options):
    check_loss(BoundaryKDLoss(**options), context_factory=make_rows_context)


def test_the_value_computed_by_hand():
    # q = (3/4, 1/4), p = (1/2, 1/2): ½ ln(2/3) + ½ ln 2 = ½ ln(4/3) = 0.143841, with weight 5 of 6.
    student = torch.tensor([[np.log(3.0), 0.0], [1.0, 1.0]])
    value = boundary_kd_loss(student, torch.zeros(2, 2), row_weights=torch.tensor([5.0, 1.0]), temperature=1.0)
    assert float(value) == pytest.approx(0.143841 * 5 / 6, abs=1e-6)


@shared.FEW
@given(shared.logits(), st.sampled_from([0.5, 1.0, 4.0]), st.integers(0, 99))
def test_it_agrees_with_numpy(pair, tau, seed):
    weights = 1 + 4 * np.random.default_rng(seed).integers(0, 2, size=len(pair[0])).astype(float)
    student, teacher = map(torch.tensor, pair)
    for temperature in (tau, torch.full((len(student),), tau)):
        value = boundary_kd_loss(student, teacher, row_weights=torch.tensor(weights), temperature=temperature)
        assert value.item() == pytest.approx(paper(*pair, weights, tau), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("radius", [1, 2, 9])
def test_boundaries_are_those_of_a_window_by_window_search(radius):
    mask = torch.randint(-1, 3, (3, 5, 7), generator=torch.Generator().manual_seed(radius)).repeat_interleave(4, dim=2)
    expected = near_boundary(mask.numpy(), radius)
    assert np.array_equal(is_boundary(torch.where(mask < 0, -100, mask), radius=radius).numpy(), expected)
    assert is_boundary(torch.zeros(0, 5, 7, dtype=torch.long), radius=radius).shape == (0, 5, 7)


def test_the_class_weights_the_rows_of_the_task(context):
    mask = context.sample_target("mask")
    weights, rows = 1 + 3 * near_boundary(mask.numpy(), 1), []
    for image in range(4):
        if image != 2:  # the image with a class, but none on the grid, has no row
            rows.append(weights[image][mask[image] >= 0] if (mask[image] >= 0).any() else weights[image].ravel())
    logits = [outputs.logits.detach().double().numpy() for outputs in (context.student, context.teacher)]
    value = BoundaryKDLoss(boundary_weight=3.0, radius=1, temperature=2.0)(context)
    assert value.item() == pytest.approx(paper(*logits, np.concatenate(rows), 2.0), rel=1e-5)


@pytest.mark.parametrize("temperature", [None, 1.0, 3.0, PerSample()])
def test_with_weight_zero_it_is_kd_loss_to_the_bit(context, temperature):
    student = context.student.logits.detach().requires_grad_()
    gradients, values = [], []
    for loss_fn in (BoundaryKDLoss(boundary_weight=0.0, temperature=temperature), KDLoss(temperature=temperature)):
        values.append(loss_fn(replace(context, student=replace(context.student, logits=student))))
        gradients.append(torch.autograd.grad(values[-1], student)[0])
    assert torch.equal(*values)
    assert torch.equal(*gradients)


def test_many_equal_weights_are_exactly_kd_loss():
    student, teacher = torch.randn(100_003, 3), torch.randn(100_003, 3)
    weights = torch.full((100_003,), 0.3)
    assert torch.equal(boundary_kd_loss(student, teacher, row_weights=weights), kd_loss(student, teacher))


def test_without_rows_it_is_zero():
    student = torch.zeros(0, 3, requires_grad=True)
    value = boundary_kd_loss(student, torch.zeros(0, 3), row_weights=torch.zeros(0))
    value.backward()
    assert value.item() == 0.0


def test_only_samples_that_are_valid_for_the_teacher_are_compared(context):
    valid = torch.tensor([True, False, True, False])
    teacher = replace(context.teacher, valid=valid)
    value = BoundaryKDLoss()(replace(context, teacher=teacher))
    first = context.sample_target("mask")[:1]
    selected = LossContext(
        student=context.student.masked_select(torch.arange(4) == 0), teacher=context.teacher.masked_select(
            torch.arange(4) == 0
        ), sample_targets={"mask": first}, default_temperature=context.default_temperature,
    )  # fmt: skip
    torch.testing.assert_close(value, BoundaryKDLoss()(selected))


def test_what_does_not_fit_is_refused(context):
    with pytest.raises(LimbeckError, match=r"boundary_weight must be in \[0, inf\), got -1"):
        BoundaryKDLoss(boundary_weight=-1.0)
    with pytest.raises(LimbeckError, match=r"radius must be in \[1, inf\), got 0"):
        BoundaryKDLoss(radius=0)
    with pytest.raises(LimbeckError, match="this loss needs the target 'mask' of each sample"):
        BoundaryKDLoss()(make_context())
    logits = torch.zeros(3, 3)
    other = replace(context, student=Outputs(logits=logits), teacher=Outputs(logits=logits))
    with pytest.raises(LimbeckError, match=r"rows must be the pixels of the mask that have a class, \d+, got 3: use"):
        BoundaryKDLoss()(other)
    with pytest.raises(LimbeckError, match=r"row_weights must be \[3\], one for each row, got \[2\]"):
        boundary_kd_loss(logits, logits, row_weights=torch.ones(2))
