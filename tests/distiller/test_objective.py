"""An objective is the weighted sum of its losses."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.distiller import Objective
from limbeck.distiller.objective import name_losses
from limbeck.losses import CrossEntropyLoss, FitNetLoss, GramLoss, KDLoss
from limbeck.testing import check_loss, make_context


def number(value):
    return lambda context: torch.tensor(value)


def test_the_total_is_the_sum_of_weight_times_loss():
    loss = Objective({"a": number(2.0), "b": number(3.0), "c": number(5.0)}, {"a": 0.5, "b": 10.0})(make_context())
    # 0.5 · 2 + 10 · 3 + 1 · 5 = 36.
    assert float(loss.total) == 36.0
    assert {name: float(part) for name, part in loss.by_loss.items()} == {"a": 1.0, "b": 30.0, "c": 5.0}
    assert loss.weights == {"a": 0.5, "b": 10.0, "c": 1.0}


def test_the_parts_add_up_to_the_total_and_carry_no_gradient():
    context = make_context()
    objective = Objective(
        {"target": CrossEntropyLoss(), "kd": KDLoss(), "gram": GramLoss("mid"), "fitnet": FitNetLoss("mid")},
        {"target": 0.1, "kd": schedules.cosine(0.9, 0.1), "fitnet": 100},
    )
    objective.prepare(context)
    loss = objective(context)
    assert float(sum(loss.by_loss.values())) == pytest.approx(float(loss.total.detach()), rel=1e-6)
    assert loss.total.requires_grad
    assert not any(part.requires_grad for part in loss.by_loss.values())


def test_the_gradient_is_the_weighted_sum_of_the_losses_gradients():
    context, loss_fns, weights = (
        make_context(),
        {"target": CrossEntropyLoss(), "kd": KDLoss()},
        {"target": 0.3, "kd": 2.0},
    )
    (total,) = torch.autograd.grad(Objective(loss_fns, weights)(context).total, context.student.require_logits())
    one = [
        torch.autograd.grad(loss_fn(context), context.student.require_logits())[0] * weights[name]
        for name, loss_fn in loss_fns.items()
    ]
    torch.testing.assert_close(total, one[0] + one[1])


def test_a_weight_is_read_at_this_moment():
    objective = Objective({"a": number(1.0)}, {"a": schedules.warmup(8.0, fraction=0.5)})
    values = [float(objective(make_context(progress=Progress(step=step, steps=4))).total) for step in range(5)]
    assert values == [0.0, 4.0, 8.0, 8.0, 8.0]


def test_only_losses_that_learn_need_preparing():
    assert Objective({"kd": KDLoss()}).is_prepared
    learning = Objective({"kd": KDLoss(), "fitnet": FitNetLoss("mid")})
    assert not learning.is_prepared
    learning.prepare(make_context())
    assert learning.is_prepared


def test_a_loss_of_ones_own_that_is_a_module_brings_its_parameters():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, context):
            return self.scale * context.student.require_logits().square().mean()

    objective = Objective({"own": Scaled(), "kd": KDLoss()})
    assert [name for name, _ in objective.named_parameters()] == ["trainable.own.scale"]
    assert objective.is_prepared


def test_a_loss_that_is_no_number_is_refused_by_name_and_shape():
    with pytest.raises(LimbeckError, match=r"the loss 'rows' must return a scalar tensor, got a tensor of shape \[6\]"):
        Objective({"rows": lambda context: context.student.require_logits().sum(1)})(make_context())


def test_a_function_of_student_and_teacher_gets_their_logits_without_a_gradient_to_the_teacher():
    context = make_context()
    student, teacher = context.pair()

    def squared_error(student, teacher, power=2):
        assert student.dtype == teacher.dtype == torch.float32
        assert not teacher.requires_grad
        return (student - teacher).abs().pow(power).mean()

    expected = (student.require_logits() - teacher.require_logits()).square().mean()
    objective = Objective({"function": squared_error, "torch": torch.nn.functional.mse_loss, "module": nn.MSELoss()})
    for value in objective(context).by_loss.values():
        torch.testing.assert_close(value, expected.detach())
    assert "squared_error" in str(objective)
    check_loss(squared_error, skip={"unchanged by an impossible class"})


def test_a_module_of_student_and_teacher_is_trained():
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, student, teacher):
            return nn.functional.mse_loss(self.scale * student, teacher)

    assert [name for name, _ in Objective({"own": Projected()}).named_parameters()] == ["trainable.own.fn.scale"]


def test_a_function_of_other_arguments_or_results_is_refused():
    with pytest.raises(LimbeckError, match="got the arguments student, teacher, target: give the others a default"):
        Objective({"own": lambda student, teacher, target: 0})
    with pytest.raises(LimbeckError, match=r"the loss 'own' must return a scalar tensor, got 0\.5"):
        Objective({"own": lambda student, teacher: 0.5})(make_context())


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(), nn.functional.cross_entropy, partial(nn.functional.cross_entropy, label_smoothing=0.1),
        nn.KLDivLoss(), nn.functional.kl_div, nn.BCEWithLogitsLoss(), nn.NLLLoss(),
    ],
)  # fmt: skip
def test_a_loss_of_torch_that_takes_labels_or_probabilities_is_refused(loss):
    with pytest.raises(LimbeckError, match=r"must take two logits, got .* of torch, .*: use CrossEntropyLoss"):
        Objective({"ce": loss})


def test_a_single_loss_is_named_by_its_class_or_function():
    def squared_error(student, teacher):
        return (student - teacher).square().mean()

    losses = (KDLoss(), nn.MSELoss(), squared_error, lambda student, teacher: squared_error(student, teacher))
    assert [list(name_losses(loss)) for loss in losses] == [["kd"], ["mse"], ["squared_error"], ["loss"]]


@pytest.mark.parametrize("name", ["keys", "pop", "a.b", "", "training"])
def test_a_name_that_pytorch_keeps_is_refused_for_a_loss_that_learns(name):
    with pytest.raises(LimbeckError, match="which PyTorch reserves: rename it"):
        Objective({name: FitNetLoss("mid")})
    assert list(Objective({name: KDLoss()}).losses) == [name]


@pytest.mark.parametrize(
    ("loss_fns", "weights", "sentence"),
    [
        ({}, None, "needs at least one loss"),
        ({"kd": KDLoss}, None, r"the loss 'kd' must be an object such as .*, got <class .*KDLoss'>"),
        ({"kd": 3.0}, None, "the loss 'kd' must be an object such as KDLoss\\(\\), got 3.0"),
        ({"kd": KDLoss()}, {"kdd": 1.0}, "weights names 'kdd', which is no loss; the losses are: kd"),
    ],
)
def test_what_makes_no_objective_is_refused(loss_fns, weights, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        Objective(loss_fns, weights)


def test_an_objective_prints_its_formula():
    objective = Objective(
        {"a": KDLoss(temperature=2.0), "b": CrossEntropyLoss()}, {"a": schedules.linear(100.0, 0.0), "b": 0.1}
    )
    assert str(objective) == (
        "(100→0)·a + 0.1·b, with a = KDLoss(temperature=2.0, teacher=None), b = CrossEntropyLoss(label_smoothing=0.0)"
    )


TWO = {"mid": (8, 4, 4), "late": (8, 4, 4)}
NARROW = {"mid": (4, 4, 4), "late": (4, 4, 4)}


def shaped(objective, teacher_taps=NARROW):
    objective.prepare(make_context(student_feature_shapes=TWO, teacher_feature_shapes=teacher_taps))
    return objective


@pytest.mark.parametrize("when", ["before it is shaped", "after"])
def test_what_a_loss_learned_continues_in_the_next_objective(when):
    torch.manual_seed(0)
    first = shaped(Objective({"fitnet": FitNetLoss("mid"), "gram": GramLoss("mid")}))
    second = Objective({"fitnet": FitNetLoss("mid"), "gram": GramLoss("late"), "other": FitNetLoss("mid")})
    second = (
        shaped(second.load_previous(first)) if when == "before it is shaped" else shaped(second).load_previous(first)
    )
    ours, theirs = (
        {name: loss_fn.projection.layer.weight for name, loss_fn in made.losses.items()} for made in (second, first)
    )
    assert torch.equal(ours["fitnet"], theirs["fitnet"])
    assert not torch.equal(ours["other"], theirs["fitnet"])
    # A loss with another layer is another loss, whatever its name.
    assert not torch.equal(ours["gram"], theirs["gram"])


def test_a_projection_of_another_shape_begins_afresh():
    second = Objective({"fitnet": FitNetLoss("mid")}).load_previous(shaped(Objective({"fitnet": FitNetLoss("mid")})))
    shaped(second, {"mid": (6, 4, 4)})
    assert second.losses["fitnet"].projection.layer.weight.shape == (6, 8, 1, 1)


def test_the_next_objective_learns_without_changing_the_earlier_one():
    first = shaped(Objective({"fitnet": FitNetLoss("mid")}))
    second = shaped(Objective({"fitnet": FitNetLoss("mid")})).load_previous(first)
    before = first.losses["fitnet"].projection.layer.weight.clone()
    with torch.no_grad():
        second.losses["fitnet"].projection.layer.weight.add_(1)
    assert torch.equal(first.losses["fitnet"].projection.layer.weight, before)
