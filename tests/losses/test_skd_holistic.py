"""The holistic part of SKD: the student descends the distance that a critic ascends, under a gradient penalty."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import limbeck
from limbeck import LimbeckError
from limbeck.losses import SKDHolisticLoss, skd_holistic_loss
from limbeck.losses.skd_holistic import gradient_penalty
from limbeck.testing import check_loss, make_context

SHAPE = (3, 12, 9)


def map_context(student=SHAPE, teacher=SHAPE, **options):
    """A context whose features are spatial logits."""
    shapes = {"student_feature_shapes": {"map": student}, "teacher_feature_shapes": {"map": teacher}}
    context = make_context(**shapes, **{"rows": 4, "classes": 3, **options})

    def with_map(outputs):
        return replace(outputs, spatial_logits=outputs.features["map"], features={})

    teachers = {name: with_map(outputs) for name, outputs in context.teachers.items()}
    return replace(context, student=with_map(context.student), teachers=teachers, teacher=teachers["teacher"])


def prepared(context, **options):
    torch.manual_seed(0)
    loss_fn = SKDHolisticLoss(width=4, **options)
    loss_fn.prepare(context)
    return loss_fn


def quadratic(a):
    """D(x) = ½ Σ a · x², whose gradient is a · x."""
    return lambda maps: 0.5 * (a * maps.square()).sum(dim=(1, 2, 3))


@pytest.mark.parametrize("teacher", [SHAPE, (3, 6, 5)])
def test_it_passes_every_check(teacher):
    make = partial(map_context, teacher=teacher)
    check_loss(prepared(make()), context_factory=make, skip={"unchanged by an impossible class"})


def test_it_agrees_with_the_papers_in_numpy():
    random = np.random.default_rng(0)
    student, teacher = random.random(size=(2, 3, 2, 4, 5))
    a, mixture = random.normal(size=(2, 4, 5)), random.random(3)
    tensors = [torch.tensor(x) for x in (student, teacher)]
    scores = [0.5 * (a * maps**2).sum(axis=(1, 2, 3)) for maps in (student, teacher)]
    value = skd_holistic_loss(*tensors, critic=quadratic(torch.tensor(a)))
    assert float(value) == pytest.approx((scores[1] - scores[0]).mean(), rel=1e-12)
    points = mixture[:, None, None, None] * student + (1 - mixture)[:, None, None, None] * teacher
    norms = np.sqrt(((a * points) ** 2).sum(axis=(1, 2, 3)))
    value = gradient_penalty(*tensors, torch.tensor(mixture), critic=quadratic(torch.tensor(a)))
    assert float(value.detach()) == pytest.approx(((norms - 1) ** 2).mean(), rel=1e-12)


def test_the_student_descends_and_the_critic_ascends_under_its_penalty():
    context = map_context(dtype=torch.float64)
    loss_fn = prepared(context, gradient_penalty=3.0)
    torch.manual_seed(1)
    loss = loss_fn(context)
    logits, parameters = context.student.spatial_logits, list(loss_fn.parameters())
    gradients = torch.autograd.grad(loss, [logits, *parameters])
    # By hand: a loss of the student, and another of the critic on detached maps.
    student, teacher = (outputs.spatial_logits.softmax(dim=1) for outputs in (context.student, context.teacher))
    critic, teacher = loss_fn.critic.double(), teacher.detach()
    distance = critic(teacher).mean() - critic(student).mean()
    torch.testing.assert_close(loss, distance)
    torch.testing.assert_close(gradients[0], torch.autograd.grad(distance, logits, retain_graph=True)[0])
    torch.manual_seed(1)
    mixture = torch.rand(4, dtype=torch.float64)
    penalty = gradient_penalty(student, teacher, mixture, critic=critic)
    expected = torch.autograd.grad(3.0 * penalty - distance, parameters)
    torch.testing.assert_close(list(gradients[1:]), list(expected))
    assert any(gradient.any() for gradient in expected)


def test_the_gradient_of_the_penalty_is_that_of_finite_differences():
    a = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    maps = torch.rand(2, 2, 2, 3, 3, dtype=torch.float64)
    mixture = torch.rand(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: gradient_penalty(*maps, mixture, critic=quadratic(a)), (a,))


def test_a_critic_learns_to_tell_fixed_predictions_apart():
    context = map_context()
    loss_fn = prepared(context)
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=0.01)
    values = []
    for _ in range(15):
        loss = loss_fn(context)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] > values[0] + 0.1


def test_the_value_has_no_penalty_and_needs_no_gradient():
    context = map_context()
    loss_fn = prepared(context)
    with torch.no_grad():
        value = loss_fn(context)
    assert not value.requires_grad
    torch.testing.assert_close(value, loss_fn(context).detach())


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (2, 3), (5, 4), (33, 17)])
def test_maps_of_every_size_and_none_at_all(size):
    context = map_context((3, *size), (3, *size))
    loss_fn = prepared(context)
    assert torch.isfinite(loss_fn(context))
    empty = map_context((3, *size), (3, *size), rows=0)
    value = loss_fn(empty)
    value.backward()
    assert value.item() == 0.0
    assert all(parameter.grad is not None for parameter in loss_fn.parameters())


def test_it_works_in_another_precision():
    context = map_context()
    for dtype in (torch.bfloat16, torch.float64):
        loss = prepared(context).to(dtype)(context)
        loss.backward()
        assert torch.isfinite(loss)
        assert loss.dtype != torch.bfloat16


def test_the_critic_is_trained_and_saved_by_a_distiller():
    student, teacher = torch.nn.Conv2d(1, 2, 1), torch.nn.Conv2d(1, 2, 1)
    objective = {"holistic": SKDHolisticLoss(width=2)}
    distiller = limbeck.Distiller(student, teacher, objective=objective, task=limbeck.tasks.Segmentation(2))
    batch = {"input": torch.rand(2, 1, 8, 8), "target": torch.zeros(2, 8, 8).long()}
    distiller.prepare(batch)
    before = {name: tensor.clone() for name, tensor in distiller.state_dict().items()}
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    distiller(batch).total.backward()
    optimizer.step()
    changed = [name for name, tensor in distiller.state_dict().items() if not torch.equal(tensor, before[name])]
    assert any(name.startswith("objective") for name in changed)
    assert any(name.startswith("student") for name in changed)


def test_what_does_not_fit_is_refused():
    with pytest.raises(LimbeckError, match=r"gradient_penalty must be in \(0, inf\), got 0"):
        SKDHolisticLoss(gradient_penalty=0.0)
    with pytest.raises(LimbeckError, match=r"width must be in \[1, inf\), got 0"):
        SKDHolisticLoss(width=0)
    with pytest.raises(LimbeckError, match=r"call distiller.prepare\(batch\) before building the optimizer"):
        SKDHolisticLoss()(map_context())
    with pytest.raises(LimbeckError, match=r"SKDHolisticLoss\(\) compares spatial logits, and this task, or"):
        SKDHolisticLoss().prepare(make_context())
    with pytest.raises(LimbeckError, match=r"probabilities have the shape .* use networks of the same classes"):
        prepared(map_context())(map_context(teacher=(4, 12, 9)))
    assert repr(SKDHolisticLoss(teacher="big")) == "SKDHolisticLoss(gradient_penalty=10, width=16, teacher='big')"
