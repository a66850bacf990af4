"""gram_loss is the mean squared difference of F·Fᵀ / positions."""

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
from limbeck.losses import GramLoss, gram_loss
from limbeck.testing import check_loss, make_context

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)


def matrix(features):
    flat = features.reshape(*features.shape[:2], -1)
    return np.einsum("bip,bjp->bij", flat, flat) / flat.shape[2]


def paper(student, teacher):
    return float(np.square(matrix(student) - matrix(teacher)).mean())


def build_context(student, teacher, valid=None):
    return LossContext(
        student=Outputs(features={"mid": student}), teacher=Outputs(features={"mid": teacher}, valid=valid)
    )


def prepared(context):
    torch.manual_seed(0)
    loss_fn = GramLoss("mid")
    loss_fn.prepare(context)
    return loss_fn


@st.composite
def features(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, channels, rank = draw(st.integers(1, 3)), draw(st.integers(1, 5)), draw(st.integers(0, 3))
    student, teacher = (
        random.normal(size=(batch, channels, *(draw(st.integers(1, 4)) for _ in range(rank))))
        * draw(st.sampled_from([0.0, 1.0, 1e4]))
        for _ in range(2)
    )
    match draw(st.sampled_from(["free", "equal", "duplicates"])):
        case "equal":
            teacher = student.copy()
        case "duplicates":
            student, teacher = np.repeat(student[:1], 3, axis=0), np.repeat(teacher[:1], 3, axis=0)
    return student, teacher


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 4, 4), (8, 4, 4)), ((8, 4, 4), (8, 2, 3)), ((4,), (4,)), ((6, 5), (9, 5))]
)
def test_it_passes_every_check_between_equal_channels(student, teacher):
    check_loss(
        GramLoss("mid"),
        context_factory=partial(
            make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher}
        ),
    )


def test_it_passes_every_check_but_zero_at_agreement_through_a_projection():
    # The projection takes the student's width, so a student that says what the teacher says does not fit it.
    make = partial(make_context, student_feature_shapes={"mid": (8, 4, 4)}, teacher_feature_shapes={"mid": (6, 2, 2)})
    check_loss(GramLoss("mid", teacher="teacher"), context_factory=make, skip={"zero at agreement"})


def test_the_value_computed_by_hand():
    # Student, two channels at two positions: (1, 2) and (0, 1): products 5, 2, 2, 1, by two positions 2.5, 1, 1, 0.5.
    # Teacher, one position: (1) and (1): all products 1. Differences 1.5, 0, 0, −0.5: (2.25 + 0.25) / 4 = 0.625.
    student, teacher = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[[1.0], [1.0]]])
    assert float(gram_loss(student, teacher)) == 0.625


@FEW
@given(features())
def test_it_agrees_with_the_paper_in_numpy(pair):
    student, teacher = pair
    value = gram_loss(torch.tensor(student), torch.tensor(teacher))
    assert float(value) == pytest.approx(paper(student, teacher), rel=1e-6, abs=1e-12)


def test_the_class_agrees_with_numpy_through_its_projection():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 3, 4, 4)), random.normal(size=(2, 5, 2, 2))
    context = build_context(torch.tensor(student), torch.tensor(teacher))
    loss_fn = prepared(context)
    weight, bias = (p.detach().numpy() for p in loss_fn.parameters())
    projected = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], student) + bias[None, :, None, None]
    assert loss_fn(context).item() == pytest.approx(paper(projected, teacher), rel=1e-6)


def test_the_class_reads_tokens_with_their_channels_last():
    student, teacher = np.random.default_rng(0).normal(size=(2, 2, 6, 3))
    context = build_context(torch.tensor(student), torch.tensor(teacher))
    assert float(prepared(context)(context)) == pytest.approx(
        paper(student.transpose(0, 2, 1), teacher.transpose(0, 2, 1)), rel=1e-6
    )


def test_channels_last_memory_gives_the_same():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)
    last = (tensor.to(memory_format=torch.channels_last) for tensor in (student, teacher))
    torch.testing.assert_close(gram_loss(*last), gram_loss(student, teacher))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = (100 * torch.randn(2, 3, 4)).to(dtype), torch.randn(2, 3, 4).to(dtype)
    value = gram_loss(student, teacher)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(paper(student.double().numpy(), teacher.double().numpy()), rel=1e-5)


def test_the_gradient_is_that_of_finite_differences():
    student, teacher = torch.randn(2, 2, 3).double().requires_grad_(), torch.randn(2, 2, 2).double()
    assert torch.autograd.gradcheck(lambda s: gram_loss(s, teacher), student)


def test_equal_channels_need_no_projection():
    assert list(prepared(make_context()).parameters()) == []


def test_the_order_of_the_positions_does_not_matter():
    student, teacher = torch.randn(2, 3, 5).double(), torch.randn(2, 3, 5).double()
    torch.testing.assert_close(gram_loss(student[:, :, torch.randperm(5)], teacher), gram_loss(student, teacher))


def test_a_teacher_without_valid_samples_gives_zero():
    context = build_context(torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2), valid=torch.tensor([False, False]))
    assert float(prepared(context)(context).detach()) == 0.0


def test_an_unprepared_loss_names_the_call():
    with pytest.raises(LimbeckError, match=r"call distiller.prepare\(batch\) before building the optimizer"):
        GramLoss("mid")(make_context())


def test_the_function_refuses_unequal_channels_with_both_shapes():
    with pytest.raises(LimbeckError, match=r"\[2, 3, 4\] and \[2, 5, 4\].*the class GramLoss learns a projection"):
        gram_loss(torch.zeros(2, 3, 4), torch.zeros(2, 5, 4))


def test_a_gram_repr_names_its_layer():
    assert str(GramLoss("mid", teacher="big")) == "GramLoss(layer='mid', teacher='big')"
