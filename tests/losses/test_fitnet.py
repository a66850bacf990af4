"""fitnet_loss is the mean squared error over all elements; FitNetLoss learns a projection between widths."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import FitNetLoss, fitnet_loss
from limbeck.testing import check_loss, make_context

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)


def build_context(student, teacher, valid=None):
    return LossContext(
        student=Outputs(features={"mid": student}), teacher=Outputs(features={"mid": teacher}, valid=valid)
    )


def prepared(context):
    torch.manual_seed(0)
    loss_fn = FitNetLoss("mid")
    loss_fn.prepare(context)
    return loss_fn


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 4, 4), (6, 4, 4)), ((8, 6, 6), (8, 3, 3)), ((5,), (7,)), ((3, 5), (3, 7))]
)
def test_it_passes_every_check_but_zero_at_agreement(student, teacher):
    # Features that are equal before the projection are not so behind it, before it has learned.
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(FitNetLoss("mid"), context_factory=make, skip={"zero at agreement"})


def test_the_value_computed_by_hand():
    # Differences 1, −2, 0, 3 over a [2, 2]: (1 + 4 + 0 + 9) / 4 = 3.5.
    assert float(fitnet_loss(torch.tensor([[1.0, 0.0], [2.0, 5.0]]), torch.tensor([[0.0, 2.0], [2.0, 2.0]]))) == 3.5


@FEW
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 4), min_size=2, max_size=4), st.sampled_from([0.0, 1.0, 1e4]))
def test_it_agrees_with_the_paper_in_numpy(seed, shape, scale):
    random = np.random.default_rng(seed)
    student, teacher = random.normal(size=shape) * scale, random.normal(size=shape)
    value = fitnet_loss(torch.tensor(student), torch.tensor(teacher))
    assert float(value) == pytest.approx(np.square(student - teacher).mean(), rel=1e-6)
    assert float(fitnet_loss(torch.tensor(student), torch.tensor(student))) == 0.0


def test_the_class_agrees_with_numpy_through_its_own_projection_and_pooling():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 3, 4, 4)), random.normal(size=(2, 5, 2, 2))
    context = build_context(torch.tensor(student), torch.tensor(teacher))
    loss_fn = prepared(context)
    weight, bias = (p.detach().numpy() for p in loss_fn.parameters())
    projected = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], student) + bias[None, :, None, None]
    pooled = projected.reshape(2, 5, 2, 2, 2, 2).mean(axis=(3, 5))
    assert loss_fn(context).item() == pytest.approx(np.square(pooled - teacher).mean(), rel=1e-6)


def test_channels_last_memory_gives_the_same():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    loss_fn = prepared(build_context(student, teacher))
    last = build_context(*(tensor.to(memory_format=torch.channels_last) for tensor in (student, teacher)))
    torch.testing.assert_close(loss_fn(last), loss_fn(build_context(student, teacher)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = torch.randn(3, 4).to(dtype), torch.randn(3, 4).to(dtype)
    value = fitnet_loss(student, teacher)
    assert value.dtype == torch.float32
    expected = np.square(student.double().numpy() - teacher.double().numpy()).mean()
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    student, teacher = torch.randn(2, 3).double().requires_grad_(), torch.randn(2, 3).double()
    assert torch.autograd.gradcheck(lambda s: fitnet_loss(s, teacher), student)


def test_a_projection_has_one_weight_for_each_pair_of_channels():
    loss_fn = prepared(build_context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4)))
    assert [tuple(p.shape) for p in loss_fn.parameters()] == [(5, 3, 1, 1), (5,)]
    assert str(loss_fn.projection).startswith("Projection(\n  3 → 5")


def test_the_repr_names_which_maps_are_pooled():
    loss_fn = prepared(build_context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 2, 3)))
    assert "3 → 5, maps 4×4 and 2×3 pooled to 2×3" in str(loss_fn)


def test_equal_widths_are_projected_too():
    assert sum(p.numel() for p in prepared(build_context(torch.zeros(2, 3), torch.zeros(2, 3))).parameters()) == 12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_projection_moved_to_another_precision_still_works(dtype):
    context = make_context(student_feature_shapes={"mid": (3,)}, teacher_feature_shapes={"mid": (4,)}, dtype=dtype)
    loss_fn = prepared(context).to(dtype)
    assert torch.isfinite(loss_fn(replace_teacher(context)))


def replace_teacher(context):
    return LossContext(student=context.student, teacher=context.teacher)


def test_a_projection_shaped_on_doubles_is_double():
    assert (
        next(prepared(build_context(torch.zeros(2, 3).double(), torch.zeros(2, 4))).parameters()).dtype == torch.float64
    )


def test_a_teacher_without_valid_samples_gives_zero_with_zero_gradient():
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    context = build_context(student, torch.randn(2, 5, 2, 2), valid=torch.tensor([False, False]))
    loss_fn = prepared(context)
    value = loss_fn(context)
    value.backward()
    assert value.item() == 0.0
    assert all(not p.grad.any() for p in (student, *loss_fn.parameters()))


def test_an_unprepared_loss_names_the_call():
    with pytest.raises(LimbeckError, match=r"call distiller.prepare\(batch\) before building the optimizer"):
        FitNetLoss("mid")(make_context())


@pytest.mark.parametrize(("student", "teacher"), [((2, 3), (2, 3, 4)), ((2, 3, 4, 4, 4), (2, 3, 4, 4, 4))])
def test_features_of_ranks_that_cannot_be_compared_are_refused(student, teacher):
    with pytest.raises(LimbeckError, match="cannot be compared: use layers that both return"):
        prepared(build_context(torch.zeros(student), torch.zeros(teacher)))


def test_different_numbers_of_tokens_are_refused_with_what_has_to_be_equal():
    context = build_context(torch.zeros(2, 6, 3), torch.zeros(2, 7, 3))
    with pytest.raises(LimbeckError, match=r"\[2, 3, 6\].*\[2, 3, 7\].*tokens must be equal"):
        prepared(context)(context)


def test_a_hint_repr_names_its_layer():
    assert str(FitNetLoss("mid", teacher="big")) == "FitNetLoss(layer='mid', teacher='big')"
