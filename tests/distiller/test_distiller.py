"""A Distiller takes batches as loops give them, moves weights with its clock, and names what was misspelt."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import limbeck
from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.losses import AttentionTransferLoss, CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.losses import fitnet_loss as plain_hint
from limbeck.tasks import Classification

TASK = Classification(3)
X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
BOTH = {"target": CrossEntropyLoss(), "kd": KDLoss()}


def net(width=5):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(inplace=True), nn.Linear(width, 3))


def distiller(objective=BOTH, teachers=None, **settings):
    return limbeck.Distiller(net(), teachers or net(7), objective=objective, task=TASK, **settings)


class Hugging(nn.Module):
    """A network like those of transformers: its output has ``.logits``."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.net(pixel_values), hidden_states=None)


def test_a_batch_is_given_whole_or_by_keywords():
    made = distiller()
    whole = made((X, Y)).total
    for other in (made([X, Y]), made({"input": X, "target": Y}), made(pixel_values=X, labels=Y), made(x=X, y=Y)):
        assert torch.equal(other.total, whole)


def test_a_student_and_a_teacher_of_the_transformers_kind_work_by_keywords():
    student, teacher = Hugging(), Hugging()
    made = limbeck.Distiller(
        student, teacher, objective={**BOTH, "fitnet": FitNetLoss("mid")}, task=TASK,
        feature_layers={"student": {"mid": "net.0"}, "teacher": {"mid": "net.0"}},
    ).prepare({"pixel_values": X, "labels": Y})  # fmt: skip
    loss = made(pixel_values=X, labels=Y)
    loss.total.backward()
    assert torch.equal(loss.logits, student(X).logits)


def test_a_batch_that_numbers_its_samples_names_the_losses():
    made, numbers = distiller(), torch.arange(8) + 100
    assert made.forward_context({"input": X, "target": Y, "sample_id": numbers}).sample_ids is numbers
    for other in ((X, Y), {"input": X, "target": Y}, {"input": X, "target": Y, "sample_id": "first"}):
        assert made.forward_context(other).sample_ids is None


def test_a_batch_given_twice_is_refused():
    with pytest.raises(LimbeckError, match="a batch must be one argument or keywords, got both: labels"):
        distiller()((X, Y), labels=Y)


def test_the_loss_brings_logits_and_target_for_metrics():
    made = distiller()
    loss = made((X, Y))
    assert torch.equal(loss.logits, made.student(X))
    assert not loss.logits.requires_grad
    assert loss.target is Y


def test_layers_of_student_and_teacher_share_one_name():
    made = distiller(
        {"fitnet": FitNetLoss("mid")}, {"big": net(7)}, feature_layers={"student": {"mid": "0"},
        "big": {"mid": "1:input"}}
    ).prepare((X, Y))  # fmt: skip
    projected = made.objective.losses["fitnet"].projection(made.student[0](X))
    expected = plain_hint(projected, made.teachers["big"].network[0](X))
    torch.testing.assert_close(made((X, Y)).total, expected)


def test_weights_move_with_progress():
    made = distiller(weights={"target": 0.5, "kd": schedules.linear(2.0, 0.0)})
    unweighted = distiller().objective(made.forward_context((X, Y))).by_loss
    for step, weight in ((0, 2.0), (1, 1.5), (4, 0.0), (9, 0.0)):
        made.progress = limbeck.Progress(step=step, steps=4)
        loss = made((X, Y))
        assert loss.weights == {"target": 0.5, "kd": weight}
        torch.testing.assert_close(loss.by_loss["kd"], weight * unweighted["kd"])
        torch.testing.assert_close(loss.by_loss["target"], 0.5 * unweighted["target"])


@pytest.mark.parametrize(
    ("objective", "weights"),
    [(BOTH, {"kd": schedules.linear(1.0, 0.0)}), ({"kd": KDLoss(temperature=schedules.cosine(8.0, 1.0))}, None)],
)
def test_a_schedule_without_progress_is_an_error_that_names_how_to_set_it(objective, weights):
    with pytest.raises(LimbeckError, match=r"a schedule needs the number of steps.*distiller.progress = "):
        distiller(objective, weights=weights)((X, Y))


def test_a_batch_without_labels_serves_losses_that_need_none():
    assert distiller({"kd": KDLoss()})(X).target is None
    with pytest.raises(LimbeckError, match="the batch has none"):
        distiller()(X)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"weights": {"kdd": 1.0}}, "weights names 'kdd', which is no loss; the losses are: kd"),
        ({"feature_layers": {"studnet": {}}}, "feature_layers are given for 'studnet'; available: student"),
        ({"feature_layers": {"techer": {}}}, "feature_layers are given for 'techer'; available: teacher"),
        ({"feature_layers": {"student": {"mid": "O"}}}, "Sequential has no module 'O'; near it: 0, 1, 2"),
        ({"feature_layers": {"teacher": {"mid": "3"}}}, "Sequential has no module '3'; near it: 0, 1, 2"),
    ],
)
def test_a_misspelt_name_error_names_the_nearest_when_the_distiller_is_built(settings, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        distiller(**settings)


def test_a_misspelt_teacher_or_layer_of_a_loss_error_names_the_nearest():
    with pytest.raises(LimbeckError, match="no teacher is named 'bgi'; available: big"):
        distiller({"kd": KDLoss(teacher="bgi")}, {"big": net(7), "small": net(6)})((X, Y))
    extractor = {"student": {"mid": "0"}, "teacher": {"mid": "0"}}
    with pytest.raises(LimbeckError, match="no feature is named 'middle'; available: mid"):
        distiller({"look": AttentionTransferLoss("middle")}, feature_layers=extractor)((X, Y))


def test_a_feature_loss_of_several_teachers_must_name_one():
    extractor = {name: {"mid": "0"} for name in ("student", "teacher0", "teacher1")}
    with pytest.raises(LimbeckError, match="with several teachers, set `teacher` of the loss as well"):
        distiller({"fitnet": FitNetLoss("mid")}, [net(6), net(7)], feature_layers=extractor).prepare((X, Y))


def test_weights_given_beside_a_whole_objective_are_refused():
    with pytest.raises(LimbeckError, match="weights were given twice: this Objective has its own"):
        distiller(limbeck.Objective(BOTH), weights={"kd": 0.5})


def test_under_autocast_the_losses_compute_in_float32():
    seen = {}

    def spy(context):
        seen["logits"] = context.student.require_logits().dtype
        seen["product"] = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        return context.student.require_logits().float().mean()

    made = distiller(
        {**BOTH, "spy": spy, "fitnet": FitNetLoss("mid")}, feature_layers={"student": {"mid": "0"},
        "teacher": {"mid": "0"}}
    ).prepare((X, Y))  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):
        context, loss = made.forward_context((X, Y)), made((X, Y))
        assert torch.is_autocast_enabled("cpu")
    assert seen == {"logits": torch.bfloat16, "product": torch.float32}
    assert {value.dtype for value in (loss.total, *loss.by_loss.values())} == {torch.float32}
    # Bit-identical to the loss of the same bfloat16 logits outside autocast.
    outside = made.objective(context)
    assert all(torch.equal(loss.by_loss[name], outside.by_loss[name]) for name in loss.by_loss)
    loss.total.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in made.parameters())


def test_a_wrapped_student_is_read_too():
    student = nn.DataParallel(net())
    made = limbeck.Distiller(
        student, net(7), objective={"fitnet": FitNetLoss("mid")}, task=TASK,
        feature_layers={"student": {"mid": "0"}, "teacher": {"mid": "0"}},
    ).prepare((X, Y))  # fmt: skip
    made((X, Y)).total.backward()
    assert student.module[0].weight.grad is not None


def test_a_distiller_prints_its_teachers_and_its_formula():
    made = distiller(teachers={"big": net(7)}, weights={"target": 0.1, "kd": schedules.linear(1.0, 0.0)})
    assert "teachers={big: FrozenTeacher(" in repr(made)
    assert "objective=0.1·target + (1→0)·kd, task=Classification(classes=" in repr(made)


def test_an_overall_weight_and_temperature_read_the_progress_of_a_loop_of_your_own():
    made = distiller(
        {"kd": KDLoss(temperature=schedules.across_stages(schedules.linear(8, 4)))},
        weights={"kd": schedules.across_stages(schedules.linear(1, 0))},
    )
    made.progress = limbeck.Progress(step=1, steps=2, steps_before=2, total_steps=4)  # three of four steps are over
    loss = made((X, Y))
    assert loss.weights == {"kd": 0.25}
    plain = KDLoss(temperature=5.0)(made.forward_context((X, Y)))
    torch.testing.assert_close(loss.total, 0.25 * plain)
