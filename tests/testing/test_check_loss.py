"""check_term catches a term that breaks its word, and names the promise that is broken."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.testing import CHECKS, check_loss, make_context


def divergence(exchange, reduction="batchmean"):
    student, teacher = exchange.student.require_logits().float(), exchange.pair()[1].require_logits().detach().float()
    log_p = teacher.log_softmax(1)
    gap = log_p.exp() * (log_p - student.log_softmax(1)).masked_fill(log_p == -torch.inf, 0.0)
    return gap.sum(1).mean() if reduction == "batchmean" else gap.mean()


def to_the_teacher(exchange):
    student, teacher = exchange.student.require_logits().float(), exchange.pair()[1].require_logits().float()
    return (student.softmax(1) - teacher.softmax(1)).square().sum(1).mean()


def mean_over_classes_too(exchange):
    return divergence(exchange, reduction="mean")


def by_row(exchange):
    return divergence(exchange) * torch.ones(6)


def a_python_number(exchange):
    return divergence(exchange).item()


def not_a_number(exchange):
    return divergence(exchange) / exchange.student.require_logits().float().std()


def gradient_not_a_number(exchange):
    distance = (
        (exchange.student.require_logits().float() - exchange.pair()[1].require_logits().detach().float())
        .square()
        .sum(1)
    )
    return distance.sqrt().mean()


def cut_off(exchange):
    return (
        (exchange.student.require_logits().detach().float() - exchange.pair()[1].require_logits().detach().float())
        .square()
        .mean()
    )


def in_half(exchange):
    dtype = exchange.student.require_logits().dtype
    return (exchange.student.require_logits() - exchange.pair()[1].require_logits().detach()).square().mean().to(dtype)


def half_inside(exchange):
    return in_half(exchange).float()


def half_breaks(exchange):
    return (exchange.student.require_logits() @ torch.ones(exchange.student.require_logits().shape[1])).mean()


def costs_at_agreement(exchange):
    return divergence(exchange) + 1.0


def swapped(exchange):
    """The arguments of ``kl_div`` in the wrong places, and nothing done about a class which both rule out."""
    student, teacher = exchange.student.require_logits().float(), exchange.pair()[1].require_logits().detach().float()
    return F.kl_div(teacher.log_softmax(1), student.log_softmax(1), reduction="batchmean", log_target=True)


def sum_over_rows(exchange):
    return divergence(exchange) * len(exchange.student.require_logits())


class Idle(nn.Module):
    """Has a parameter that does nothing, like a variance kept where no optimizer finds it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, exchange):
        return divergence(exchange)


def reads_a_tap(exchange):
    student, teacher = exchange.pair()
    return divergence(exchange) + (student.feature("mid").float() - teacher.feature("mid").float()).square().mean()


def test_an_honest_term_passes():
    check_loss(divergence)


@pytest.mark.parametrize(
    ("term", "promise", "why"),
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
def test_a_term_that_breaks_its_word_is_named_with_the_promise(term, promise, why):
    with pytest.raises(AssertionError, match=f"fails the check '{promise}': .*{why}"):
        check_loss(term)


@pytest.mark.parametrize(
    ("term", "promise"),
    [
        (sum_over_rows, "unchanged by repetition"),
        (mean_over_classes_too, "unchanged by an impossible class"),
        (costs_at_agreement, "zero at agreement"),
    ],
)
def test_a_term_breaks_only_the_promise_it_breaks(term, promise):
    check_loss(term, skip={promise})


def test_every_requirement_of_a_loss_is_checked():
    assert list(CHECKS) == [
        "scalar", "float32 from half", "finite", "gradient to the student", "no gradient to the teacher",
        "zero at agreement", "unchanged by repetition", "unchanged by an impossible class",
    ]  # fmt: skip


def test_embeddings_and_maps_are_watched_as_well():
    def make(**settings):
        from dataclasses import replace

        context = make_context(**settings)
        student, teacher = (
            replace(one, embedding=one.features["mid"].flatten(1) * 1, features={})
            for one in (context.student, context.teacher)
        )
        return replace(context, student=student, teacher=teacher, teachers={"teacher": teacher})

    def leaking(exchange):
        student, teacher = exchange.pair()
        return (student.embedding.float() - teacher.embedding.float()).square().sum(1).mean()

    def honest(exchange):
        student, teacher = exchange.pair()
        return (student.embedding.float() - teacher.embedding.detach().float()).square().sum(1).mean()

    check_loss(honest, context_factory=make)
    with pytest.raises(AssertionError, match="no gradient to the teacher"):
        check_loss(leaking, context_factory=make)


def test_a_trainable_loss_is_prepared_and_the_random_state_is_unchanged():
    before = torch.random.get_rng_state()
    check_loss(FitNetLoss("mid"), skip={"zero at agreement"})
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_promise_that_does_not_exist_cannot_be_left_out():
    with pytest.raises(ValueError, match=r"no check is named \['zero'\]; there are: \['finite'"):
        check_loss(CrossEntropyLoss(), skip={"zero"})


def test_terms_are_checked_with_several_teachers_too():
    check_loss(KDLoss(), context_factory=lambda **settings: make_context(teacher_names=("a", "b"), **settings))
