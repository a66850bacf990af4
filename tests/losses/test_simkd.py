"""simkd_loss is the mean squared error of projected features; the projector is part of the deployed model."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import SimKDLoss, simkd_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))
LEARNED = {"zero at agreement"}  # equal features are not so behind a projector that has not learned


def build_context(student, teacher, valid=None):
    return LossContext(
        student=Outputs(features={"mid": student}), teacher=Outputs(features={"mid": teacher}, valid=valid)
    )


def prepared(context, **options):
    torch.manual_seed(0)
    loss_fn = SimKDLoss("mid", **options)
    loss_fn.prepare(context)
    return loss_fn


def normalized(x):
    """BatchNorm of a fresh layer in training, then ReLU; channels at axis 1."""
    axes = (0, *range(2, x.ndim))
    return np.maximum((x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5), 0)


def convolved(x, weight):
    reach = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    return np.einsum("oiuv,bihwuv->bohw", weight, windows)


@pytest.mark.parametrize(("student", "teacher"), [((8, 4, 4), (6, 4, 4)), ((8, 6, 6), (8, 3, 3)), ((5,), (7,))])
def test_it_passes_every_check_but_zero_at_agreement(student, teacher):
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(SimKDLoss("mid", teacher="teacher"), context_factory=make, skip=LEARNED)


def test_the_value_computed_by_hand():
    # The student's four ones and threes are pooled to 2; the teacher's one is 5: 9.
    assert float(simkd_loss(torch.tensor([[[[1.0, 3.0], [3.0, 1.0]]]]), torch.tensor([[[[5.0]]]]))) == 9.0


@shared.FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.sampled_from([0.0, 1.0, 1e4]))
def test_it_agrees_with_numpy(seed, channels, size, equal, scale):
    random = np.random.default_rng(seed)
    teacher = random.normal(size=(2, channels, size, size))
    student = (
        np.kron(teacher, np.ones((1, 1, 2, 2)))
        if equal
        else scale * random.normal(size=(2, channels, 2 * size, 2 * size))
    )
    pooled = student.reshape(2, channels, size, 2, size, 2).mean(axis=(3, 5))
    expected = np.square(pooled - teacher).mean()
    assert shared.value(simkd_loss, student, teacher) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_class_agrees_with_numpy_through_its_projector():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 3, 4, 4)), random.normal(size=(2, 6, 4, 4))
    context = build_context(torch.tensor(student), torch.tensor(teacher))
    loss_fn = prepared(context)
    weights = [layer.weight.detach().numpy() for layer in loss_fn.projection if isinstance(layer, nn.Conv2d)]
    assert [weight.shape for weight in weights] == [(3, 3, 1, 1), (3, 3, 3, 3), (6, 3, 1, 1)]
    projected = student
    for weight in weights:
        projected = normalized(convolved(projected, weight))
    assert loss_fn(context).item() == pytest.approx(np.square(projected - teacher).mean(), rel=1e-6)


def test_the_class_agrees_with_numpy_on_vectors():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(4, 3)), random.normal(size=(4, 6))
    context = build_context(torch.tensor(student), torch.tensor(teacher))
    loss_fn = prepared(context, factor=3)
    first, second = (layer.weight.detach().numpy() for layer in loss_fn.projection if isinstance(layer, nn.Linear))
    projected = normalized(normalized(student @ first.T) @ second.T)
    assert first.shape == (2, 3)
    assert loss_fn(context).item() == pytest.approx(np.square(projected - teacher).mean(), rel=1e-6)


def test_the_head_is_the_projector_under_the_teachers_classifier():
    student, teacher, classifier = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4), nn.Linear(6, 10)
    loss_fn = prepared(build_context(student, teacher))
    head = loss_fn.make_head(classifier).eval()
    loss_fn.eval()
    torch.testing.assert_close(head(student), classifier(loss_fn.projection(student).mean(dim=(2, 3))))
    assert head.classifier is not classifier
    assert sum(p.numel() for p in head.parameters()) == sum(p.numel() for p in loss_fn.parameters()) + 70
    vectors = prepared(build_context(torch.randn(2, 3), torch.randn(2, 6)))
    assert vectors.make_head(classifier).eval()(torch.randn(2, 3)).shape == (2, 10)


def test_its_repr_names_the_parameters_that_inference_pays_for():
    loss_fn = prepared(build_context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 6, 4, 4)))
    # 3·3 + 3·3·9 + 3·6 weights, and 2 · (3 + 3 + 6) of BatchNorm.
    assert "132 parameters, deployed with the student" in str(loss_fn)
    assert str(SimKDLoss("mid", teacher="big")) == "SimKDLoss(layer='mid', factor=2, teacher='big')"


def test_preparing_moves_no_statistics():
    loss_fn = prepared(build_context(torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4)))
    assert all(not layer.running_mean.any() for layer in loss_fn.projection if isinstance(layer, nn.BatchNorm2d))


def test_channels_last_memory_gives_the_same():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 2, 2)
    loss_fn = prepared(build_context(student, teacher))
    last = build_context(*(tensor.to(memory_format=torch.channels_last) for tensor in (student, teacher)))
    torch.testing.assert_close(loss_fn(last), loss_fn(build_context(student, teacher)))


def test_half_precision_is_computed_in_float32():
    for pair, (student, teacher) in shared.halves(3, 4):
        value = simkd_loss(*pair)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(np.square(student - teacher).mean(), rel=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(simkd_loss, 2, 3, 2, 2)


def test_a_teacher_without_valid_samples_gives_zero_with_zero_gradient():
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    context = build_context(student, torch.randn(2, 5, 2, 2), valid=torch.tensor([False, False]))
    loss_fn = prepared(context)
    value = loss_fn(context)
    value.backward()
    assert value.item() == 0.0
    assert all(not p.grad.any() for p in (student, *loss_fn.parameters()))


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimbeckError, match=r"call distiller.prepare\(batch\) before building the optimizer"):
        SimKDLoss("mid")(make_context())
    with pytest.raises(LimbeckError, match=r"\[2, 3, 4\] and \[2, 3, 4\]: use the last layer before the pooling"):
        prepared(build_context(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)))
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\].*the class SimKDLoss projects"):
        simkd_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(LimbeckError, match=r"factor must be in \[1, inf\), got 0"):
        SimKDLoss("mid", factor=0)
    context = build_context(torch.zeros(1, 3), torch.zeros(1, 4))
    with pytest.raises(LimbeckError, match="at least 2 samples"):
        prepared(context)(context)
