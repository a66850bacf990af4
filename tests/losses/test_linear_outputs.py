"""Hidden states and a head through tasks and distillers, and teachers of which only the largest logits are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import limbeck
from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses import (
    CrossEntropyLoss,
    JSDLoss,
    KDLoss,
    LinearCrossEntropyLoss,
    LinearDistillationLoss,
    LinearJSDLoss,
    LinearKDLoss,
    LinearLogits,
    LinearReverseKLLoss,
    ReverseKLLoss,
    TopKLogits,
    kd_loss,
    linear_jsd_loss,
    linear_kd_loss,
    linear_outputs,
    linear_reverse_kl_loss,
    top_k_logits,
)
from limbeck.losses.temperature import PerSample
from limbeck.recipe.resolve_node import resolve_node
from limbeck.testing import check_loss, make_context

PAIRS = [
    (LinearCrossEntropyLoss(label_smoothing=0.1, chunk_rows=2), CrossEntropyLoss(label_smoothing=0.1)),
    (LinearKDLoss(chunk_rows=4), KDLoss()),
    (LinearReverseKLLoss(temperature=2.0), ReverseKLLoss(temperature=2.0)),
    (LinearJSDLoss(beta=0.2), JSDLoss(beta=0.2)),
    (LinearKDLoss(teacher="b", temperature=schedules.linear(6.0, 2.0)), KDLoss(teacher="b", temperature=4.0)),
]


def linear_context(**options):
    """A context whose students and teachers have hidden states and a head in place of logits, [6, 5]."""
    context = make_context(student_feature_shapes={}, **options)
    draw = torch.Generator().manual_seed(options.get("seed", 0))

    def with_head(outputs, width):
        hidden, weight = (
            (options.get("scale", 1.0) ** 0.5 * torch.randn(n, width, generator=draw))
            .to(outputs.logits.dtype)
            .requires_grad_()
            for n in outputs.logits.shape
        )
        return Outputs(by_row={"hidden": hidden}, extra={"head_weight": weight})

    teachers = {name: with_head(outputs, 4) for name, outputs in context.teachers.items()}
    ensemble = next(iter(teachers.values())) if len(teachers) == 1 else None
    return replace(context, student=with_head(context.student, 3), teachers=teachers, teacher=ensemble)


def with_logits(context):
    """The same context with the logits."""

    def convert(outputs):
        return None if outputs is None else Outputs(logits=outputs.by_row["hidden"] @ outputs.extra["head_weight"].t())

    teachers = {name: convert(outputs) for name, outputs in context.teachers.items()}
    return replace(context, student=convert(context.student), teachers=teachers, teacher=convert(context.teacher))


@pytest.mark.parametrize(
    "loss", [LinearKDLoss(), LinearReverseKLLoss(), LinearJSDLoss()], ids=lambda x: type(x).__name__
)
def test_it_passes_the_checks_of_losses(loss):
    # Their products in half precision are rounded, as those of a head are, and a class cannot be appended to logits.
    check_loss(loss, context_factory=linear_context, skip={"float32 from half", "unchanged by an impossible class"})


@pytest.mark.parametrize(("loss", "plain"), PAIRS, ids=lambda x: type(x).__name__)
def test_a_loss_equals_the_one_on_logits(loss, plain):
    names = ("a", "b") if getattr(loss, "teacher", None) else ("teacher",)
    context = linear_context(teacher_names=names, progress=Progress(step=1, steps=2))
    torch.testing.assert_close(loss(context), plain(with_logits(context)))


def test_samples_without_a_teacher_output_are_left_out():
    context = linear_context()
    valid = torch.tensor([True, False, True, True, False, True])
    masked = replace(context, teacher=replace(context.teacher, valid=valid))
    plain = with_logits(context)
    for loss, other in ((LinearKDLoss(), KDLoss()), (LinearDistillationLoss(target_weight=0.0), KDLoss())):
        expected = other(replace(plain, teacher=replace(plain.teacher, valid=valid)))
        torch.testing.assert_close(loss(masked), expected * (1 if loss == LinearKDLoss() else 0.9))


def test_a_loss_without_hidden_states_says_what_the_task_returns():
    for loss in (LinearKDLoss(), LinearCrossEntropyLoss()):
        with pytest.raises(LimbeckError, match=r"let the task return limbeck\.losses\.linear_outputs"):
            loss(make_context())
    with pytest.raises(LimbeckError, match="set `teacher` of the loss to one of a, b"):
        LinearKDLoss()(linear_context(teacher_names=("a", "b")))


def test_settings_that_cannot_work_are_refused_when_they_are_given():
    with pytest.raises(LimbeckError, match=r"a number or a schedule, got PerSample.*use the loss on logits"):
        LinearKDLoss(temperature=PerSample())
    with pytest.raises(LimbeckError, match="above zero"):
        LinearKDLoss(temperature=0.0)
    with pytest.raises(LimbeckError, match="chunk_rows must be at least 1, got 0"):
        LinearCrossEntropyLoss(chunk_rows=0)
    with pytest.raises(LimbeckError, match="num_classes must be at least 2, got 1"):
        LinearKDLoss(num_classes=1)
    with pytest.raises(LimbeckError, match="divergence must be kl, reverse_kl or jsd, got 'l2'"):
        LinearDistillationLoss(divergence="l2")
    built = resolve_node({"use": "LinearDistillationLoss", "divergence": "jsd", "chunk_rows": 64}, "loss").build()
    assert built == LinearDistillationLoss(divergence="jsd", chunk_rows=64)
    with pytest.raises(LimbeckError, match="TopKLogits"):
        resolve_node({"use": "TopKLogits"}, "loss")


class Body(nn.Module):
    """A network that returns hidden states, and has a head."""

    def __init__(self, width, classes=6):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, width), nn.Tanh()), nn.Linear(width, classes)

    def forward(self, inputs):
        return self.body(inputs)


class HeadTask:
    """Rows are samples; a task with hidden states in place of logits."""

    def outputs(self, network, batch):
        return linear_outputs(network(batch[0]), network.head)

    def target(self, batch):
        return batch[1]


class LogitTask(HeadTask):
    """The same with logits."""

    def outputs(self, network, batch):
        return Outputs(logits=network.head(network(batch[0])))


def test_a_distiller_trains_student_and_head_as_with_logits():
    batch = (torch.randn(8, 4), torch.randint(6, (8,)))
    torch.manual_seed(0)
    student, teacher = Body(3), Body(5)
    grads = []
    for task, objective, weights in (
        (HeadTask(), {"target": LinearCrossEntropyLoss(), "kd": LinearKDLoss()}, {"target": 0.1, "kd": 0.9}),
        (HeadTask(), LinearDistillationLoss(), None),
        (LogitTask(), {"target": CrossEntropyLoss(), "kd": KDLoss()}, {"target": 0.1, "kd": 0.9}),
    ):
        student.zero_grad()
        distiller = limbeck.Distiller(student, teacher, objective=objective, weights=weights, task=task)
        loss = distiller(batch)
        loss.total.backward()
        grads.append([loss.total.detach(), *(p.grad.clone() for p in student.parameters())])
        assert next(iter(loss.temperatures.values())) == (4.0,)
        assert all(parameter.grad is None for parameter in teacher.parameters())
    for ours, one_pass, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain)
        torch.testing.assert_close(one_pass, plain)


def test_hidden_states_are_cast_as_the_head_would_cast_them():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear_outputs(torch.zeros(2, 3), nn.Linear(3, 5)).by_row["hidden"].dtype == torch.bfloat16


P, Q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.7, 0.2, 0.1]])


def test_the_bucket_computed_by_hand():
    # k = 1: .5 ln(.5 / .7) + .5 ln(.5 / .3) = −.168236 + .255413 = .087177; all three: .092033.
    student = LinearLogits(Q.log(), torch.eye(3))
    teacher = top_k_logits(P.log(), 1)
    assert float(linear_kd_loss(student, teacher, temperature=1.0)) == pytest.approx(0.087177, abs=1e-6)
    assert float(linear_kd_loss(student, P.log(), temperature=1.0)) == pytest.approx(0.092033, abs=1e-6)


def kl(p, q):
    """The divergence of two distributions, in nats."""
    return float((p * np.log(p / q)).sum())


def bucket_divergences(student, teacher, k, tau, beta=0.5):
    """KL, reverse KL and JSD over the k largest classes of the teacher and the rest, times tau², row by row."""
    results = []
    for z_s, z_t in zip(student / tau, teacher / tau, strict=True):
        q, p = (np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in (z_s, z_t))
        top = np.argsort(-z_t)[:k]
        q, p = (np.append(x[top], np.delete(x, top).sum())[: len(x)] for x in (q, p))
        m = beta * p + (1 - beta) * q
        results.append((kl(p, q), kl(q, p), beta * kl(p, m) + (1 - beta) * kl(q, m)))
    return tau**2 * np.mean(results, axis=0)


@pytest.mark.parametrize("k", [1, 3, 8, 9])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_the_largest_logits_and_the_rest_agree_with_numpy_and_are_a_lower_bound(k, tau):
    draw = torch.Generator().manual_seed(0)
    hidden, weight, teacher = (torch.randn(n, 9, generator=draw, dtype=torch.float64) for n in (4, 9, 4))
    weight = 2 * weight.requires_grad_()
    student = LinearLogits(hidden, weight)
    top = top_k_logits(LinearLogits(teacher, torch.eye(9).double()), k, temperature=tau, chunk_rows=3)
    expected = bucket_divergences((hidden @ weight.t()).detach().numpy(), teacher.numpy(), k, tau)
    for fn, value in zip((linear_kd_loss, linear_reverse_kl_loss, linear_jsd_loss), expected, strict=True):
        loss = fn(student, top, temperature=tau, chunk_rows=2)
        assert float(loss.detach()) == pytest.approx(value, rel=1e-10)
        assert float(loss.detach()) <= float(fn(student, teacher, temperature=tau).detach()) + 1e-12
        assert torch.autograd.gradcheck(
            lambda h, fn=fn: fn(LinearLogits(h, weight.detach()), top, temperature=tau), hidden.clone().requires_grad_()
        )


def test_a_rest_that_rounding_makes_nothing_is_finite():
    student = LinearLogits(torch.tensor([[50.0, 0.0, -50.0, -200.0]]).requires_grad_(), torch.eye(4))
    for fn in (linear_kd_loss, linear_reverse_kl_loss, linear_jsd_loss):
        for logits in (torch.tensor([[60.0, -60.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0, -torch.inf]])):
            loss = fn(student, top_k_logits(logits, 3), temperature=1.0)
            (gradient,) = torch.autograd.grad(loss, student.hidden)
            assert torch.isfinite(loss)
            assert torch.isfinite(gradient).all()


def test_the_largest_logits_travel_in_the_outputs_of_a_teacher():
    context, rows = linear_context(), torch.tensor([0, 0, 1, 1, 2, 2])
    teacher = LinearLogits.from_outputs(context.teacher)
    outputs = top_k_logits(teacher, 2, temperature=4.0).outputs(
        row_to_sample=rows, valid=torch.tensor([True, False, True])
    )
    student = replace(context.student, row_to_sample=rows)
    top_k = LossContext(student=student, teacher=outputs, teachers={"teacher": outputs})
    kept = torch.tensor([0, 1, 4, 5])
    cut = [LinearLogits(x.by_row["hidden"][kept], x.extra["head_weight"]) for x in (context.student, context.teacher)]
    expected = linear_kd_loss(cut[0], top_k_logits(cut[1], 2, temperature=4.0))
    torch.testing.assert_close(LinearKDLoss()(top_k), expected)
    with pytest.raises(LimbeckError, match="that of the teacher's log_normalizer, 4, got 2"):
        LinearKDLoss(temperature=2.0)(top_k)


def test_the_log_sum_exp_of_the_others_makes_the_normalizer():
    logits = torch.randn(3, 9)
    values, classes = logits.topk(4)
    rest = logits.scatter(1, classes, -torch.inf).logsumexp(1)  # as a cache keeps it
    stored = TopKLogits(values, classes, torch.logaddexp(values.logsumexp(1), rest))
    student = LinearLogits(torch.randn(3, 2), torch.randn(9, 2))
    expected = linear_kd_loss(student, top_k_logits(logits, 4), temperature=1.0)
    torch.testing.assert_close(linear_kd_loss(student, stored, temperature=1.0), expected)


def test_largest_logits_that_do_not_fit_are_refused():
    with pytest.raises(
        LimbeckError, match=r"\[rows, k\] and log_normalizer \[rows\], got \[2, 3\], \[2, 3\] and \[3\]"
    ):
        TopKLogits(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long), torch.zeros(3))
    with pytest.raises(LimbeckError, match=r"k must be in \[1, 5\], got 6"):
        top_k_logits(torch.zeros(2, 5), 6)
    student, top = LinearLogits(torch.zeros(2, 3), torch.zeros(4, 3)), top_k_logits(torch.eye(5)[3:], 1)
    with pytest.raises(LimbeckError, match="classes of TopKLogits must be from 0 to 3, got 3 to 4"):
        linear_kd_loss(student, top, temperature=1.0)


def test_padding_of_the_vocabulary_is_not_among_the_largest():
    logits = torch.randn(3, 9)
    padded = torch.cat([logits, torch.full((3, 2), 9.0)], dim=1)
    for actual, expected in zip(
        (lambda t: (t.values, t.classes, t.log_normalizer))(top_k_logits(padded, 4, num_classes=9)),
        (lambda t: (t.values, t.classes, t.log_normalizer))(top_k_logits(logits, 4)), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(actual, expected)
    student = LinearLogits(torch.randn(3, 2), torch.randn(9, 2))
    expected = kd_loss(F.linear(student.hidden, student.weight), logits)
    torch.testing.assert_close(linear_kd_loss(student, padded, num_classes=9), expected)
