"""check_loss finds a loss that breaks the contract, and names the check."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.testing import LOSS_CHECKS, check_loss, make_context


def divergence(context, reduction="batchmean"):
    student, teacher = context.student.require_logits().float(), context.pair()[1].require_logits().detach().float()
    log_p = teacher.log_softmax(1)
    gap = log_p.exp() * (log_p - student.log_softmax(1)).masked_fill(log_p == -torch.inf, 0.0)
    return gap.sum(1).mean() if reduction == "batchmean" else gap.mean()


def to_the_teacher(context):
    student, teacher = context.student.require_logits().float(), context.pair()[1].require_logits().float()
    return (student.softmax(1) - teacher.softmax(1)).square().sum(1).mean()


def mean_over_classes_too(context):
    return divergence(context, reduction="mean")


def by_row(context):
    return divergence(context) * torch.ones(6)


def a_python_number(context):
    return divergence(context).item()


def not_a_number(context):
    return divergence(context) / context.student.require_logits().float().std()


def gradient_not_a_number(context):
    distance = (
        (context.student.require_logits().float() - context.pair()[1].require_logits().detach().float()).square().sum(1)
    )
    return distance.sqrt().mean()


def cut_off(context):
    return (
        (context.student.require_logits().detach().float() - context.pair()[1].require_logits().detach().float())
        .square()
        .mean()
    )


def in_half(context):
    dtype = context.student.require_logits().dtype
    return (context.student.require_logits() - context.pair()[1].require_logits().detach()).square().mean().to(dtype)


def half_inside(context):
    return in_half(context).float()


def half_breaks(context):
    return (context.student.require_logits() @ torch.ones(context.student.require_logits().shape[1])).mean()


def costs_at_agreement(context):
    return divergence(context) + 1.0


def swapped(context):
    """The arguments of ``kl_div`` in the wrong places, and nothing done about a class which both rule out."""
    student, teacher = context.student.require_logits().float(), context.pair()[1].require_logits().detach().float()
    return F.kl_div(teacher.log_softmax(1), student.log_softmax(1), reduction="batchmean", log_target=True)


def sum_over_rows(context):
    return divergence(context) * len(context.student.require_logits())


class Idle(nn.Module):
    """Has a parameter that does nothing, like a variance kept where no optimizer finds it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, context):
        return divergence(context)


def reads_a_tap(context):
    student, teacher = context.pair()
    return divergence(context) + (student.feature("mid").float() - teacher.feature("mid").float()).square().mean()


def test_a_correct_loss_passes():
    check_loss(divergence)


@pytest.mark.parametrize(
    ("loss_fn", "check", "why"),
    [
        (by_row, "scalar", r"its shape is \[6\]"),
        (a_python_number, "scalar", "it is a float, not a tensor"),
        (in_half, "float32 from half", "from torch.float16 it returns torch.float16"),
        (half_inside, "float32 from half", "becomes"),
        (half_breaks, "float32 from half", "it raises RuntimeError"),
        (not_a_number, "finite", "at scale 0 it is nan"),
        (gradient_not_a_number, "finite", "at scale 0 a gradient is not"),
        (cut_off, "gradient to the student", "no tensor of the student has one"),
        (Idle(), "gradient to the student", "a parameter of the loss has none"),
        (to_the_teacher, "no gradient to the teacher", "a tensor of a teacher has one"),
        (reads_a_tap, "no gradient to the teacher", "a tensor of a teacher has one"),
        (costs_at_agreement, "zero at agreement", "it is 1"),
        (sum_over_rows, "unchanged by repetition", "becomes"),
        (mean_over_classes_too, "unchanged by an impossible class", "becomes"),
        (swapped, "unchanged by an impossible class", "nan"),
    ],
)
def test_a_loss_that_fails_a_check_is_named_with_the_check(loss_fn, check, why):
    with pytest.raises(AssertionError, match=f"fails the check '{check}': .*{why}"):
        check_loss(loss_fn)


@pytest.mark.parametrize(
    ("loss_fn", "check"),
    [
        (sum_over_rows, "unchanged by repetition"),
        (mean_over_classes_too, "unchanged by an impossible class"),
        (costs_at_agreement, "zero at agreement"),
    ],
)
def test_a_loss_fails_only_its_own_check(loss_fn, check):
    check_loss(loss_fn, skip={check})


def test_every_requirement_of_a_loss_is_checked():
    assert list(LOSS_CHECKS) == [
        "scalar", "float32 from half", "finite", "gradient to the student", "no gradient to the teacher",
        "zero at agreement", "unchanged by repetition", "unchanged by an impossible class",
    ]  # fmt: skip


def test_embeddings_and_maps_are_checked_as_well():
    def make(**settings):
        from dataclasses import replace

        context = make_context(**settings)
        student, teacher = (
            replace(one, embedding=one.features["mid"].flatten(1) * 1, features={})
            for one in (context.student, context.teacher)
        )
        return replace(context, student=student, teacher=teacher, teachers={"teacher": teacher})

    def leaking(context):
        student, teacher = context.pair()
        return (student.embedding.float() - teacher.embedding.float()).square().sum(1).mean()

    def honest(context):
        student, teacher = context.pair()
        return (student.embedding.float() - teacher.embedding.detach().float()).square().sum(1).mean()

    check_loss(honest, context_factory=make)
    with pytest.raises(AssertionError, match="no gradient to the teacher"):
        check_loss(leaking, context_factory=make)


def test_a_trainable_loss_is_prepared_and_the_random_state_is_unchanged():
    before = torch.random.get_rng_state()
    check_loss(FitNetLoss("mid"), skip={"zero at agreement"})
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_check_that_does_not_exist_cannot_be_left_out():
    with pytest.raises(ValueError, match=r"no check is named \['zero'\]; available: \['finite'"):
        check_loss(CrossEntropyLoss(), skip={"zero"})


def test_losses_are_checked_with_several_teachers_too():
    check_loss(KDLoss(), context_factory=lambda **settings: make_context(teacher_names=("a", "b"), **settings))
