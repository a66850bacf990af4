"""attention_transfer_loss is the mean squared difference of L2-normalized maps of mean |f|^power."""

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
from limbeck.losses import AttentionTransferLoss, attention_transfer_loss
from limbeck.testing import check_loss, make_context

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)


def pooled(features, height, width):
    """Adaptive average pooling: place i of n averages the positions from ⌊i·H/n⌋ to before ⌈(i+1)·H/n⌉."""
    high, wide = features.shape[2:]
    out = np.empty((*features.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            rows = slice(i * high // height, -(-(i + 1) * high // height))
            columns = slice(j * wide // width, -(-(j + 1) * wide // width))
            out[:, :, i, j] = features[:, :, rows, columns].mean(axis=(2, 3))
    return out


def attention_map(features, power):
    flat = (np.abs(features) ** power).mean(axis=1).reshape(len(features), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)


def paper(student, teacher, power):
    height, width = np.minimum(student.shape[2:], teacher.shape[2:])
    student, teacher = pooled(student, height, width), pooled(teacher, height, width)
    return float(np.square(attention_map(student, power) - attention_map(teacher, power)).mean())


@st.composite
def maps(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, small = draw(st.integers(1, 3)), st.integers(1, 5)
    student, teacher = (
        random.normal(size=(batch, draw(small), draw(small), draw(small))) * draw(st.sampled_from([0.0, 1.0, 1e4]))
        for _ in range(2)
    )
    match draw(st.sampled_from(["free", "equal", "duplicates"])):
        case "equal":
            teacher = student.copy()
        case "duplicates":
            student, teacher = np.repeat(student[:1], 3, axis=0), np.repeat(teacher[:1], 3, axis=0)
    return student, teacher


def test_it_passes_every_check():
    check_loss(AttentionTransferLoss("mid"))
    check_loss(AttentionTransferLoss("mid", power=1.0, teacher="teacher"))


@pytest.mark.parametrize("teacher", [(8, 2, 2), (3, 4, 4), (3, 5, 7)])
def test_it_passes_every_check_between_unequal_maps(teacher):
    check_loss(
        AttentionTransferLoss("mid"),
        context_factory=partial(
            make_context, student_feature_shapes={"mid": (6, 4, 4)}, teacher_feature_shapes={"mid": teacher}
        ),
    )


def test_the_value_computed_by_hand():
    # Student, one channel (3, 4): squares (9, 16), norm √337, map (0.490261, 0.871576). Teacher, two channels (1, 0)
    # and (1, 0): mean square (1, 0), map (1, 0). Mean of (0.490261 − 1)² = 0.259834 and 0.871576² = 0.759644: 0.509739.
    student, teacher = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]]])
    assert float(attention_transfer_loss(student, teacher)) == pytest.approx(0.509739, abs=1e-6)


@FEW
@given(maps(), st.sampled_from([1.0, 1.5, 2.0, 4.0]))
def test_it_agrees_with_the_published_form_in_numpy(pair, power):
    student, teacher = pair
    value = attention_transfer_loss(torch.tensor(student), torch.tensor(teacher), power=power)
    assert float(value) == pytest.approx(paper(student, teacher, power), rel=1e-6, abs=1e-12)


def test_channels_last_memory_gives_the_same():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)
    last = (tensor.to(memory_format=torch.channels_last) for tensor in (student, teacher))
    torch.testing.assert_close(attention_transfer_loss(*last), attention_transfer_loss(student, teacher))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    # 300² overflows float16, so this also shows that the squares are taken in float32.
    student, teacher = (300 * torch.randn(2, 3, 4, 4)).to(dtype), torch.randn(2, 3, 4, 4).to(dtype)
    value = attention_transfer_loss(student, teacher)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(paper(student.double().numpy(), teacher.double().numpy(), 2.0), rel=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    student, teacher = torch.randn(1, 2, 2, 3).double().requires_grad_(), torch.randn(1, 2, 2, 2).double()
    assert torch.autograd.gradcheck(lambda s: attention_transfer_loss(s, teacher), student)


def test_a_map_that_is_squared_in_pieces_agrees_with_the_published_form_and_with_autograd():
    # One sample of 64 × 32 × 32 is a piece by itself; at another power autograd does everything.
    student, teacher = torch.randn(3, 64, 32, 32).double(), torch.randn(3, 8, 32, 32).double()
    student.requires_grad_()
    value = attention_transfer_loss(student, teacher)
    assert value.item() == pytest.approx(paper(student.detach().numpy(), teacher.numpy(), 2.0), rel=1e-6)
    plain = torch.nn.functional.mse_loss(
        *(torch.nn.functional.normalize(f.pow(2).mean(1).flatten(1), dim=1) for f in (student, teacher))
    )
    torch.testing.assert_close(*(torch.autograd.grad(each, student)[0] for each in (value, plain)))


def test_the_second_derivative_is_right_for_loss_weightings_that_need_it():
    student, teacher = torch.randn(1, 2, 2, 2).double().requires_grad_(), torch.randn(1, 2, 2, 2).double()
    assert torch.autograd.gradgradcheck(lambda s: attention_transfer_loss(s, teacher), student)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_zeros_after_a_relu_have_a_finite_gradient(power):
    student = torch.randn(2, 3, 4, 4).relu().requires_grad_()
    attention_transfer_loss(student, torch.randn(2, 3, 4, 4), power=power).backward()
    assert torch.isfinite(student.grad).all()


def test_a_dead_layer_has_a_finite_gradient():
    student = torch.zeros(2, 3, 4, 4, requires_grad=True)
    attention_transfer_loss(student, torch.randn(2, 3, 4, 4)).backward()
    assert torch.isfinite(student.grad).all()


def test_maps_that_are_proportional_give_zero():
    student = torch.randn(2, 3, 4, 4)
    assert float(attention_transfer_loss(student, 7.0 * student)) == pytest.approx(0.0, abs=1e-12)


def test_a_teacher_without_valid_samples_gives_zero():
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    teacher = Outputs(features={"mid": torch.randn(2, 3, 2, 2)}, valid=torch.tensor([False, False]))
    value = AttentionTransferLoss("mid")(LossContext(student=Outputs(features={"mid": student}), teacher=teacher))
    value.backward()
    assert value.item() == 0.0
    assert not student.grad.any()


@pytest.mark.parametrize("power", [0.0, 0.5, -2.0, float("nan")])
def test_a_power_below_one_is_refused(power):
    with pytest.raises(LimbeckError, match=r"power must be in \[1, inf\), got"):
        AttentionTransferLoss("mid", power=power)


def test_features_that_are_no_map_are_refused_naming_whose_they_are():
    with pytest.raises(
        LimbeckError, match=r"the teacher's features have the shape \[2, 3\]: use a convolutional layer"
    ):
        attention_transfer_loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3))


def test_an_unknown_layer_names_the_nearest():
    with pytest.raises(LimbeckError, match="no feature is named 'mdi'; available: mid"):
        AttentionTransferLoss("mdi")(make_context())
