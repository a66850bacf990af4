"""Uncertainty, GradNorm and loss ratios agree with their papers in NumPy, step for step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.distiller import GradNorm, LossRatioWeighting, Objective, UncertaintyWeighting
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.losses.weighting.gradnorm import gradnorm_gradient
from limbeck.testing import make_context

ONE = {"a": 1.0, "b": 1.0, "target": 1.0, "kd": 1.0}
TASK = limbeck.tasks.Classification(classes=3)


def networks():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return student, nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def distilling(balance, *, loss_fns=None, **more):
    student, teacher = networks()
    loss_fns = {"target": CrossEntropyLoss(), "kd": KDLoss()} if loss_fns is None else loss_fns
    return limbeck.Distiller(student, {"big": teacher}, objective=loss_fns, weights=balance, task=TASK, **more)


def batch(seed):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, generator=draw), torch.randint(3, (8,), generator=draw)


def test_uncertainty_is_the_sum_of_weighted_losses_and_their_log_variances():
    balance = UncertaintyWeighting()
    objective = Objective({"target": CrossEntropyLoss(), "kd": KDLoss()}, balance)
    with torch.no_grad():
        balance.log_variance.copy_(torch.tensor([0.5, -1.0]))
    context = make_context()
    losses = [float(loss_fn(context).detach()) for loss_fn in objective.losses.values()]
    loss = objective(context)
    expected = math.exp(-0.5) * losses[0] + 0.5 + math.e * losses[1] - 1.0
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-6)
    assert float(sum(loss.by_loss.values())) == pytest.approx(expected, rel=1e-6)
    assert {name: float(weight) for name, weight in loss.weights.items()} == pytest.approx(
        {"target": math.exp(-0.5), "kd": math.e}
    )
    loss.total.backward()
    slopes = [1 - math.exp(-0.5) * losses[0], 1 - math.e * losses[1]]
    assert balance.log_variance.grad.tolist() == pytest.approx(slopes, rel=1e-5)


def test_uncertainty_ends_where_each_weight_is_one_over_its_loss():
    balance = UncertaintyWeighting()
    balance.register_losses(["a", "b"])
    losses = {"a": torch.tensor(4.0), "b": torch.tensor(0.25)}
    optimizer = torch.optim.SGD(balance.parameters(), lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        sum(balance(losses, ONE)[0].values()).backward()
        optimizer.step()
    assert balance(losses, ONE)[1].tolist() == pytest.approx([0.25, 4.0], rel=1e-4)


def test_what_uncertainty_learns_reaches_the_optimizer():
    names = [name for name, _ in distilling(UncertaintyWeighting()).named_parameters()]
    assert "objective.loss_weighting.log_variance" in names


def test_loss_ratios_make_weights_ratios_of_losses():
    objective = Objective(
        {"target": CrossEntropyLoss(), "kd": KDLoss()}, {"kd": 9.0}, loss_weighting=LossRatioWeighting("target")
    )
    loss = objective(make_context())
    assert float(loss.by_loss["kd"]) == pytest.approx(9.0 * float(loss.by_loss["target"]), rel=1e-6)
    bare = float(KDLoss()(make_context()).detach())
    assert float(loss.weights["kd"]) * bare == pytest.approx(float(loss.by_loss["kd"]), rel=1e-6)


def test_loss_ratios_go_by_running_means():
    balance = LossRatioWeighting(decay=0.9)
    balance.register_losses(["target", "kd"])
    means = None
    for step in range(5):
        losses = np.array([1.0 + step, 0.1 * (5 - step)])
        means = losses if means is None else 0.9 * means + 0.1 * losses
        named = {name: torch.tensor(value) for name, value in zip(("target", "kd"), losses, strict=True)}
        parts, factors = balance(named, ONE)
        assert factors.tolist() == pytest.approx([1.0, means[0] / means[1]], rel=1e-5)
        assert float(parts["kd"]) == pytest.approx(losses[1] * means[0] / means[1], rel=1e-5)


def test_a_batch_without_a_label_does_not_spoil_the_ratios():
    balance = LossRatioWeighting()
    balance.register_losses(["target", "kd"])
    balance({"target": torch.tensor(0.0), "kd": torch.tensor(0.5)}, ONE)
    weights = balance({"target": torch.tensor(2.0), "kd": torch.tensor(0.5)}, ONE)[1]
    assert weights.tolist() == pytest.approx([1.0, 4.0])


def test_gradnorm_follows_the_paper_step_for_step():
    balance = GradNorm(alpha=1.5, lr=0.05)
    distiller = distilling(balance)
    weight = np.ones(2)
    moment, square, first = np.zeros(2), np.zeros(2), None
    last = distiller.student[2].weight
    for step in range(1, 6):
        context = distiller.forward_context(batch(step))
        values = [loss_fn(context) for loss_fn in distiller.objective.losses.values()]
        norms = np.array([float(torch.autograd.grad(v, last, retain_graph=True)[0].norm()) for v in values])
        losses = np.array([float(v.detach()) for v in values])
        loss = distiller(batch(step))
        assert [float(loss.weights[name]) for name in ("target", "kd")] == pytest.approx(weight.tolist(), rel=1e-4)
        first = losses if first is None else first
        rates = losses / first
        scaled = weight * norms
        target = scaled.mean() * (rates / rates.mean()) ** 1.5
        gradient = np.sign(scaled - target) * norms
        moment, square = 0.9 * moment + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        weight = weight - 0.05 * (moment / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        weight = weight * 2 / weight.sum()
        loss.total.backward()


def test_gradnorm_comes_to_equal_gradients_where_alpha_is_zero():
    balance = GradNorm(alpha=0.0, lr=0.02)
    distiller = distilling(balance, loss_fns={"target": CrossEntropyLoss(), "kd": KDLoss()})
    for _ in range(400):
        distiller(batch(0))
    last, loss = distiller.student[2].weight, distiller(batch(0))
    norms = [float(torch.autograd.grad(t, last, retain_graph=True)[0].norm()) for t in loss.by_loss_with_grad.values()]
    assert norms[0] == pytest.approx(norms[1], rel=0.1)
    assert float(balance.weight.sum()) == pytest.approx(2.0)


def test_gradnorm_looks_at_the_last_weight_that_every_loss_reaches():
    balance = GradNorm()
    distiller = distilling(
        balance, loss_fns={"target": CrossEntropyLoss(), "fitnet": FitNetLoss("mid")},
        feature_layers={"student": {"mid": "0"}, "big": {"mid": "0"}},
    ).prepare(batch(0))  # fmt: skip
    distiller(batch(0))
    assert balance._shared[0] is distiller.student[0].weight


def test_a_loss_without_a_gradient_is_left_out_until_it_has_one():
    torch.testing.assert_close(
        gradnorm_gradient(torch.ones(3), torch.tensor([4.0, 0.0, 1.0]), torch.ones(3)), torch.tensor([4.0, 0.0, -1.0])
    )
    balance = GradNorm()
    student, teacher = networks()
    late = {"kd": schedules.step_change(0.0, 1.0, milestone=0.5)}
    distiller = limbeck.Distiller(
        student, {"big": teacher}, objective={"target": CrossEntropyLoss(), "kd": KDLoss()}, weights=late,
        loss_weighting=balance, task=TASK,
    )  # fmt: skip
    for step in range(10):
        distiller.progress = Progress(step=step, steps=10)
        distiller(batch(step))
    assert bool((balance.weight > 0.5).all()), "the weight of a late loss diverged"


def test_loss_weightings_do_not_move_in_eval_mode():
    for balance in (GradNorm(), LossRatioWeighting()):
        distiller = distilling(balance)
        distiller(batch(0))
        before = {name: tensor.clone() for name, tensor in balance.state_dict().items()}
        distiller.eval()(batch(1))
        for name, tensor in balance.state_dict().items():
            torch.testing.assert_close(tensor, before[name])


def test_a_loss_weighting_continues_in_the_next_stage_and_is_part_of_the_formula():
    first, second = (distilling(GradNorm()) for _ in range(2))
    first(batch(0))
    second.objective.load_previous(first.objective)
    torch.testing.assert_close(second.objective.loss_weighting.weight, first.objective.loss_weighting.weight)
    assert str(first.objective).endswith("; balanced by GradNorm(alpha=1.5, lr=0.025)")
    other = distilling(GradNorm(alpha=1.0))
    other.objective.load_previous(first.objective)
    assert other.objective.loss_weighting.weight.tolist() == [1.0, 1.0]


def test_what_a_loss_weighting_cannot_do_raises_an_error():
    with pytest.raises(LimbeckError, match="must be a loss, got 'targte'; available: target"):
        Objective({"target": CrossEntropyLoss()}, loss_weighting=LossRatioWeighting("targte"))
    balance = GradNorm()
    Objective({"target": CrossEntropyLoss()}, balance)
    with pytest.raises(LimbeckError, match="belongs to another objective already"):
        Objective({"target": CrossEntropyLoss()}, balance)
    with pytest.raises(LimbeckError, match="two loss weightings were given"):
        Objective({"target": CrossEntropyLoss()}, LossRatioWeighting(), loss_weighting=LossRatioWeighting())
    with pytest.raises(LimbeckError, match="GradNorm has no student"):
        Objective({"target": CrossEntropyLoss()}, GradNorm())(make_context())
    distiller = distilling(GradNorm())
    distiller.student.requires_grad_(False)
    with pytest.raises(LimbeckError, match="needs a weight of the student that every loss reaches"):
        distiller(batch(0))
