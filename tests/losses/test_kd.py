"""kd_loss is τ² · mean over rows of KL(teacher ‖ student), for any shape, scale, precision and temperature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses import KDLoss, kd_loss
from limbeck.recipe.resolve_node import resolve_node
from limbeck.testing import check_loss, make_context

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)


def log_softmax(z):
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def paper(student, teacher, tau):
    """Hinton et al., section 2, row by row: KL of the softened distributions, each row times its own tau²."""
    tau = np.broadcast_to(np.asarray(tau, dtype=np.float64), (len(student),))
    log_q, log_p = log_softmax(student / tau[:, None]), log_softmax(teacher / tau[:, None])
    return float(np.mean(tau**2 * np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))


@st.composite
def logits(draw, scales=(1e-2, 1.0, 10.0, 1e4)):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 7)), draw(st.integers(2, 9)))
    student, teacher = (random.normal(size=shape) * draw(st.sampled_from(scales)) for _ in range(2))
    match draw(st.sampled_from(["free", "equal", "duplicates"])):
        case "equal":
            teacher = student.copy()
        case "duplicates":
            student, teacher = np.repeat(student[:1], 3, axis=0), np.repeat(teacher[:1], 3, axis=0)
    return student, teacher


def test_it_passes_every_check():
    check_loss(KDLoss(temperature=4.0))
    check_loss(KDLoss(temperature=schedules.linear(8.0, 1.0), teacher="teacher"))


def test_the_value_computed_by_hand():
    # tau 2, two classes. Teacher (2 ln 3, 0): softened (ln 3, 0), p = (3/4, 1/4). Student (0, 0): q = (1/2, 1/2).
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2) = 3/4 ln 3 − ln 2 = 0.823959 − 0.693147 = 0.130812; times tau² = 4: 0.523248.
    value = kd_loss(torch.zeros(1, 2), torch.tensor([[2 * np.log(3.0), 0.0]]), temperature=2.0)
    assert float(value) == pytest.approx(0.523248, abs=1e-6)


@FEW
@given(logits(), st.floats(0.5, 20.0))
def test_it_agrees_with_the_paper_in_numpy(pair, tau):
    student, teacher = pair
    value = kd_loss(torch.tensor(student), torch.tensor(teacher), temperature=tau)
    assert float(value) == pytest.approx(paper(student, teacher, tau), rel=1e-6, abs=1e-12)


@FEW
@given(logits(scales=(1.0, 10.0)), st.integers(0, 2**32 - 1))
def test_a_temperature_by_row_scales_each_row_by_its_own_square(pair, seed):
    student, teacher = pair
    tau = np.random.default_rng(seed).uniform(1.0, 8.0, size=len(student))
    value = kd_loss(torch.tensor(student), torch.tensor(teacher), temperature=torch.tensor(tau))
    assert float(value) == pytest.approx(paper(student, teacher, tau), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    draw = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 7, generator=draw).to(dtype) for _ in range(2))
    value = kd_loss(student, teacher, temperature=4.0)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(paper(student.double().numpy(), teacher.double().numpy(), 4.0), rel=1e-5)


def test_logits_that_do_not_lie_row_by_row_in_memory_give_the_same():
    student, teacher = torch.randn(4, 6).t(), torch.randn(4, 6).t()
    assert not student.is_contiguous()
    torch.testing.assert_close(kd_loss(student, teacher), kd_loss(student.contiguous(), teacher.contiguous()))


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_logits_have_a_finite_value_and_gradient(scale):
    student = torch.tensor([[scale, -scale, 0.0]], requires_grad=True)
    value = kd_loss(student, torch.tensor([[-scale, scale, 0.0]]), temperature=4.0)
    # All the teacher's mass lies where the student's is exp(−2·10⁴ / tau): KL = 2·10⁴ / 4, times 16.
    assert value.item() == pytest.approx(8e4, rel=1e-6)
    value.backward()
    assert torch.isfinite(student.grad).all()


def test_the_gradient_is_tau_times_the_difference_of_the_probabilities():
    student, teacher = torch.randn(3, 5, dtype=torch.float64, requires_grad=True), torch.randn(3, 5).double()
    kd_loss(student, teacher, temperature=4.0).backward()
    expected = 4.0 * ((student.detach() / 4).softmax(1) - (teacher / 4).softmax(1)) / 3
    torch.testing.assert_close(student.grad, expected)
    assert torch.autograd.gradcheck(lambda s: kd_loss(s, teacher, temperature=2.0), student)


def test_the_temperature_itself_can_be_learned():
    student, teacher = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    tau = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: kd_loss(student, teacher, temperature=t), tau)


def test_an_impossible_class_gives_zero_and_poisons_no_gradient():
    student = torch.tensor([[1.0, 0.0, -torch.inf]], requires_grad=True)
    value = kd_loss(student, torch.tensor([[0.0, 2.0, -torch.inf]]))
    torch.testing.assert_close(value, kd_loss(student[:, :2], torch.tensor([[0.0, 2.0]])))
    value.backward()
    assert torch.isfinite(student.grad).all()


def test_no_row_at_all_gives_zero_with_a_gradient_of_zero():
    student = torch.zeros(0, 3, requires_grad=True)
    value = kd_loss(student, torch.zeros(0, 3))
    value.backward()
    assert value.item() == 0.0


def test_the_class_takes_its_temperature_from_the_schedule():
    context = make_context(progress=Progress(step=1, steps=2))
    moved = KDLoss(temperature=schedules.linear(6.0, 2.0))(context)
    torch.testing.assert_close(moved, KDLoss(temperature=4.0)(context))


def test_the_class_takes_the_teacher_it_names():
    context = make_context(teacher_names=("a", "b"))
    expected = kd_loss(context.student.require_logits(), context.teachers["b"].require_logits())
    torch.testing.assert_close(KDLoss(teacher="b")(context), expected)
    with pytest.raises(LimbeckError, match="no teacher is named 'bb'; available: b"):
        KDLoss(teacher="bb")(context)


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_not_above_zero_is_refused(tau):
    with pytest.raises(LimbeckError, match="above zero"):
        KDLoss(temperature=tau)
    with pytest.raises(LimbeckError, match="above zero"):
        kd_loss(torch.zeros(1, 2), torch.zeros(1, 2), temperature=tau)


def test_a_schedule_that_reaches_temperature_zero_is_refused_when_it_gets_there():
    with pytest.raises(LimbeckError, match="let its schedule end above zero"):
        KDLoss(temperature=schedules.warmup(4.0, fraction=0.5))(make_context(progress=Progress(step=0, steps=4)))


def test_networks_of_different_classes_are_refused_with_both_shapes():
    context = LossContext(student=Outputs(logits=torch.zeros(2, 3)), teacher=Outputs(logits=torch.zeros(2, 4)))
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\].*same rows with the same classes"):
        KDLoss()(context)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_both_derivatives_are_those_of_finite_differences(tau):
    student, teacher = torch.randn(3, 4).double().requires_grad_(), torch.randn(3, 4).double()
    assert torch.autograd.gradcheck(lambda s: kd_loss(s, teacher, temperature=tau), student)
    assert torch.autograd.gradgradcheck(lambda s: kd_loss(s, teacher, temperature=tau), student)


def test_a_recipe_checks_the_temperature_against_its_annotation():
    assert resolve_node({"use": "KDLoss", "temperature": 2}, "loss").build() == KDLoss(temperature=2.0)
    with pytest.raises(LimbeckError, match="temperature"):
        resolve_node({"use": "KDLoss", "temperature": "hot"}, "loss")
