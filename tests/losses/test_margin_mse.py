"""MarginMSE is that of NumPy over all triples of a batch, on the scores of the paper and on embeddings."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from limbeck import LimbeckError, LossContext, Outputs
from limbeck.losses import MarginMSELoss, margin_mse_loss
from limbeck.testing import check_loss, make_context

TARGET = torch.tensor([0, 1, 0, 2, -100, 1, 0])


def embeddings(seed, width):
    return np.random.default_rng(seed).normal(size=(7, width))


def scores(rows, similarity):
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True) if similarity == "cosine" else rows
    return rows @ rows.T


def numpy_margin_mse(s, t, target, triples):
    errors = []
    for i, j, k in product(range(len(s)), repeat=3):
        is_triple = len({i, j, k}) == 3
        if triples == "target":
            labeled = min(target[i], target[j], target[k]) >= 0
            is_triple = is_triple and labeled and target[i] == target[j] != target[k]
        if is_triple or (triples == "all" and i not in (j, k)):
            errors.append(((s[i, j] - s[i, k]) - (t[i, j] - t[i, k])) ** 2)
    return np.mean(errors)


def build_context(student, teacher, target=TARGET, valid=None):
    outputs = [Outputs(embedding=torch.as_tensor(rows)) for rows in (student, teacher)]
    teacher = Outputs(embedding=outputs[1].embedding, valid=valid)
    return LossContext(student=outputs[0], teacher=teacher, target=target)


@pytest.mark.parametrize("triples", ["target", "all"])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_it_agrees_with_numpy_over_all_triples(triples, similarity):
    student, teacher = embeddings(0, 3), embeddings(1, 5)
    loss = MarginMSELoss(similarity=similarity, triples=triples)
    value = loss(build_context(student, teacher))
    expected = numpy_margin_mse(scores(student, similarity), scores(teacher, similarity), TARGET.tolist(), triples)
    assert float(value) == pytest.approx(expected, rel=1e-10)


def test_the_function_is_that_of_the_paper():
    student, teacher = np.random.default_rng(0).normal(size=(2, 2, 6))
    expected = (((student[0] - student[1]) - (teacher[0] - teacher[1])) ** 2).mean()
    value = margin_mse_loss(*(torch.tensor(row) for row in (*student, *teacher)))
    assert float(value) == pytest.approx(expected, rel=1e-12)
    assert float(margin_mse_loss(*[torch.zeros(0)] * 4)) == 0.0


@pytest.mark.parametrize("triples", ["target", "all"])
def test_contract_of_losses(triples):
    def context_factory(**options):
        context = make_context(**{"rows": 6, "classes": 2, **options})
        teacher = Outputs(embedding=context.teacher.logits)
        return LossContext(
            student=Outputs(embedding=context.student.logits), teacher=teacher, teachers={"teacher": teacher},
            target=context.target,
        )  # fmt: skip

    loss = MarginMSELoss(triples=triples)
    # Repeated texts are further triples, and the context has no logits.
    check_loss(loss, context_factory=context_factory, skip={"unchanged by repetition"})


def test_large_scores_lose_no_precision():
    student, teacher = (torch.tensor(embeddings(seed, 4)).float() for seed in (0, 1))
    offset = torch.full((7, 1), 300.0)
    context = build_context(torch.cat([student, offset], dim=1), teacher)
    value = MarginMSELoss(similarity="dot")(context)
    exact = MarginMSELoss(similarity="dot")(build_context(student.double(), teacher.double()))
    assert float(value) == pytest.approx(float(exact), rel=1e-2)


def test_without_triples_it_is_zero_with_a_gradient_of_zero():
    student = torch.tensor(embeddings(0, 3), requires_grad=True)
    for target in (torch.zeros(7, dtype=torch.long), torch.full((7,), -100), torch.arange(7)):
        loss = MarginMSELoss()(build_context(student, embeddings(1, 3), target))
        assert float(loss) == 0.0
        assert not torch.autograd.grad(loss, student)[0].any()


def test_samples_without_a_teacher_are_left_out():
    student, teacher = embeddings(0, 3), embeddings(1, 3)
    valid = torch.tensor([True] * 5 + [False] * 2)
    value = MarginMSELoss()(build_context(student, teacher, valid=valid))
    torch.testing.assert_close(value, MarginMSELoss()(build_context(student[:5], teacher[:5], TARGET[:5])))


def test_wrong_settings_and_networks_without_embeddings_are_refused():
    with pytest.raises(LimbeckError, match="similarity must be cosine or dot, got 'l2'"):
        MarginMSELoss(similarity="l2")
    with pytest.raises(LimbeckError, match="triples must be target or all, got 'some'"):
        MarginMSELoss(triples="some")
    with pytest.raises(LimbeckError, match="MarginMSELoss needs an embedding of each sample"):
        MarginMSELoss()(make_context())
    with pytest.raises(LimbeckError, match="needs a target, and the batch has none"):
        MarginMSELoss()(build_context(embeddings(0, 3), embeddings(1, 3), target=None))
