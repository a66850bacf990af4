"""MiniLM and MiniLMv2 agree with NumPy for any widths, and padding neither relates nor is related to."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from limbeck import LimbeckError, LossContext, Outputs
from limbeck.losses import MiniLMLoss, MiniLMv2Loss, minilm_loss, minilmv2_loss
from limbeck.testing import check_loss, make_context

NAMES = ("query", "key", "value")
LENGTHS = (5, 2, 4)


def states(seed, width, *, batch=3, tokens=5):
    return np.random.default_rng(seed).normal(size=(3, batch, tokens, width)) * 1.5


def softmax_rows(z):
    z = np.exp(z - z.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def numpy_relation(first, second, heads, lengths):
    """KL terms of every head and token, of each text by itself, without its padding."""

    def relations(pair, i, head):
        a, b = (side[i, : lengths[i]] for side in pair)
        width = a.shape[1] // heads
        a, b = (x[:, head * width : (head + 1) * width] for x in (a, b))
        return softmax_rows(a @ b.T / np.sqrt(width))

    tokens = []
    for i, length in enumerate(lengths):
        by_head = np.zeros((heads, length))
        for head in range(heads):
            q, p = relations(first, i, head), relations(second, i, head)
            by_head[head] = (p * np.log(p / q)).sum(axis=1)
        tokens += by_head.mean(axis=0).tolist()
    return np.mean(tokens)


def tensors(array):
    return [torch.tensor(item) for item in array]


def make_mask(lengths, tokens=5):
    return torch.arange(tokens) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize(("widths", "heads"), [((6, 6), 1), ((6, 12), 3), ((4, 16), 2)])
def test_both_agree_with_numpy_for_other_widths_and_heads(widths, heads):
    student, teacher = states(0, widths[0]), states(1, widths[1])
    for mask, lengths in ((None, (5, 5, 5)), (make_mask(LENGTHS), LENGTHS)):
        (q, k, v), (tq, tk, tv) = student, teacher
        values = numpy_relation((v, v), (tv, tv), heads, lengths)
        first = numpy_relation((q, k), (tq, tk), heads, lengths) + values
        loss = minilm_loss(tensors(student), tensors(teacher), num_heads=heads, mask=mask)
        assert float(loss) == pytest.approx(first, rel=1e-10)
        second = numpy_relation((q, q), (tq, tq), heads, lengths) + numpy_relation((k, k), (tk, tk), heads, lengths)
        loss = minilmv2_loss(tensors(student), tensors(teacher), relation_heads=heads, mask=mask)
        assert float(loss) == pytest.approx(second + values, rel=1e-10)


def test_what_is_in_the_padding_changes_neither_value_nor_gradient():
    gradients = []
    for fill in (0.0, 1e3):
        student, teacher = (tensors(states(seed, 6)) for seed in (0, 1))
        mask = make_mask(LENGTHS)
        student = [s.masked_fill(~mask[:, :, None], fill).requires_grad_() for s in student]
        teacher = [t.masked_fill(~mask[:, :, None], fill) for t in teacher]
        loss = minilm_loss(student, teacher, num_heads=3, mask=mask)
        loss.backward()
        gradients.append(torch.stack([loss.detach(), *(s.grad[mask].sum() for s in student)]))
        assert all(float(s.grad[~mask].abs().max()) == 0 for s in student)
    torch.testing.assert_close(*gradients)


def test_a_text_without_tokens_has_no_loss():
    student, teacher = (tensors(states(seed, 6)) for seed in (0, 1))
    mask = make_mask((5, 0, 0))
    student[0].requires_grad_()
    loss = minilmv2_loss(student, teacher, relation_heads=2, mask=mask)
    loss.backward()
    single = minilmv2_loss([s[:1] for s in student], [t[:1] for t in teacher], relation_heads=2)
    torch.testing.assert_close(loss, single)
    assert student[0].grad.isfinite().all()
    empty = minilmv2_loss(student, teacher, relation_heads=2, mask=make_mask((0, 0, 0)))
    assert float(empty) == 0.0


@pytest.mark.parametrize("loss", [MiniLMLoss(*NAMES, num_heads=2), MiniLMv2Loss(*NAMES, relation_heads=4)], ids=repr)
def test_contract_of_losses(loss):
    shapes = dict.fromkeys(NAMES, (5, 8))
    check_loss(loss, context_factory=partial(make_context, student_feature_shapes=shapes))
    wide = dict.fromkeys(NAMES, (5, 16))
    factory = partial(make_context, student_feature_shapes=shapes, teacher_feature_shapes=wide)
    check_loss(loss, context_factory=factory)


def test_classes_take_the_padding_from_the_input_mask_and_leave_out_samples_without_a_teacher():
    student, teacher = (
        Outputs(features=dict(zip(NAMES, tensors(states(seed, width)), strict=True)))
        for seed, width in ((0, 6), (1, 12))
    )
    mask, valid = make_mask(LENGTHS), torch.tensor([True, True, False])
    with_mask = LossContext(student=student, teacher=teacher, input_mask=mask)
    expected = minilm_loss(list(student.features.values()), list(teacher.features.values()), num_heads=3, mask=mask)
    torch.testing.assert_close(MiniLMLoss(*NAMES, num_heads=3)(with_mask), expected)
    partly = Outputs(features=teacher.features, valid=valid)
    context = LossContext(student=student, teacher=partly, input_mask=mask)
    two = [[s[:2] for s in outputs.features.values()] for outputs in (student, teacher)]
    expected = minilm_loss(*two, num_heads=3, mask=mask[:2])
    torch.testing.assert_close(MiniLMLoss(*NAMES, num_heads=3)(context), expected)


def test_texts_of_other_tokens_and_widths_are_refused():
    student = Outputs(features=dict(zip(NAMES, tensors(states(0, 6)), strict=True)))
    teacher = Outputs(features=dict(zip(NAMES, tensors(states(0, 6, tokens=7)), strict=True)))
    with pytest.raises(LimbeckError, match=r"of the same tokens, .* \[3, 5, 6\] and \[3, 7, 6\]: use .* one tokenizer"):
        MiniLMLoss(*NAMES, num_heads=2)(LossContext(student=student, teacher=teacher))
    with pytest.raises(LimbeckError, match=r"must be a multiple of the 4 heads, got \[3, 5, 6\]"):
        MiniLMLoss(*NAMES, num_heads=4)(LossContext(student=student, teacher=student))
    with pytest.raises(LimbeckError, match=r"num_heads must be in \[1, inf\), got 0"):
        MiniLMLoss(*NAMES, num_heads=0)
    with pytest.raises(LimbeckError, match=r"relation_heads must be in \[1, inf\), got 0"):
        MiniLMv2Loss(*NAMES, relation_heads=0)
