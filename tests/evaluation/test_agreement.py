"""Agreement and disagreements against float64 NumPy written here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import find_disagreements, prediction_agreement


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(1)
    student, teacher = (2 * torch.randn(200, 4, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(0, 4, (200,), generator=generator)


def log_softmax(z):
    z = z.double().numpy()
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def test_every_figure_is_that_of_numpy(pair):
    student, teacher, target = pair
    q, p, y = log_softmax(student), log_softmax(teacher), target.numpy()
    said, taught = q.argmax(axis=1), p.argmax(axis=1)
    found = prediction_agreement(student, teacher, target)
    assert found["kl"] == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), abs=1e-10)
    assert found["top1_agreement"] == pytest.approx((said == taught).mean())
    assert found["both_wrong"] == pytest.approx(((said != y) & (taught != y)).mean())
    assert found["student_only_wrong"] == pytest.approx(((said != y) & (taught == y)).mean())
    assert found["teacher_only_wrong"] == pytest.approx(((said == y) & (taught != y)).mean())


def test_a_copy_agrees_wholly(pair):
    student, _, target = pair
    found = prediction_agreement(student, student + 3.0, target)  # logits are told up to a constant
    assert (found["top1_agreement"], found["student_only_wrong"], found["teacher_only_wrong"]) == (1.0, 0.0, 0.0)
    assert 0.0 <= found["kl"] < 1e-12


def test_rows_without_a_label_count_for_likeness_and_not_for_wrongness(pair):
    student, teacher, target = pair
    some = torch.where(torch.arange(200) < 50, target, -100)
    found, whole, part = (
        prediction_agreement(student, teacher, some),
        prediction_agreement(*pair),
        prediction_agreement(*(x[:50] for x in pair)),
    )
    assert [found[k] for k in ("top1_agreement", "kl")] == [whole[k] for k in ("top1_agreement", "kl")]
    shares = ("both_wrong", "student_only_wrong", "teacher_only_wrong")
    assert [found[k] for k in shares] == [part[k] for k in shares]
    nobody = prediction_agreement(student, teacher, torch.full((200,), -100))
    assert [nobody[k] for k in shares] == [None, None, None]


def test_disagreements_come_surest_first(pair):
    student, teacher, target = pair
    target = torch.where(torch.arange(200) % 3 == 0, -100, target)
    q, p = np.exp(log_softmax(student)), np.exp(log_softmax(teacher))
    differ = [i for i in range(200) if i % 3 and q[i].argmax() != p[i].argmax()]
    expected = sorted(differ, key=lambda i: -min(q[i].max(), p[i].max()))
    every = find_disagreements(student, teacher, target, limit=200)
    assert [one["index"] for one in every] == expected
    assert find_disagreements(student, teacher, target) == every[:12]
    first = every[0]
    i = first["index"]
    assert (first["student"], first["teacher"]) == (q[i].argmax(), p[i].argmax())
    assert first["student_confidence"] == pytest.approx(q[i].max())
    assert first["teacher_confidence"] == pytest.approx(p[i].max())
    assert first["target"] == int(target[i])


def test_nobody_disagrees_with_a_copy(pair):
    student, _, target = pair
    assert find_disagreements(student, student, target) == []
    assert find_disagreements(*pair, limit=0) == []


def test_what_cannot_be_compared_is_told_in_a_sentence(pair):
    student, teacher, target = pair
    with pytest.raises(LimbeckError, match=r"\[200, 4\] and the teacher's \[199, 4\]"):
        prediction_agreement(student, teacher[:199], target)
    with pytest.raises(LimbeckError, match="the teacher's logits are not finite"):
        prediction_agreement(student, teacher / 0, target)
    with pytest.raises(LimbeckError, match="no row"):
        prediction_agreement(student[:0], teacher[:0], target[:0])
    with pytest.raises(LimbeckError, match="got -1"):
        find_disagreements(*pair, limit=-1)
