"""info_nce_loss is the mean cross-entropy of finding the partner, in both directions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck import LimbeckError, LossContext, Outputs
from limbeck.losses import InfoNCEKDLoss, InfoNCELoss, info_nce_loss
from limbeck.testing import check_loss, make_context

NOT_OF_A_BATCH = {"zero at agreement", "unchanged by repetition", "unchanged by an impossible class"}


def by_numpy(first, second, labels, temperature):
    """van den Oord et al., equation 4, of each row of either side; rows of one label are no negatives."""
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    losses = []
    for a, b in ((first, second), (second, first)):
        for i in range(len(a)):
            candidates = [j for j in range(len(a)) if j == i or labels[j] != labels[i]]
            scores = np.exp([a[i] @ b[j] / temperature for j in candidates])
            losses.append(-np.log(scores[candidates.index(i)] / scores.sum()))
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_it_agrees_with_numpy(temperature):
    rng = np.random.default_rng(0)
    first, second, labels = *rng.normal(size=(2, 6, 4)), np.array([0, 1, 2, 1, 3, 1])
    tensors = torch.tensor(first), torch.tensor(second)
    value = info_nce_loss(*tensors, labels=torch.tensor(labels), temperature=temperature)
    assert float(value) == pytest.approx(by_numpy(first, second, labels, temperature), rel=1e-9)
    without_labels = info_nce_loss(*tensors, temperature=temperature)
    assert float(without_labels) == pytest.approx(by_numpy(first, second, range(6), temperature), rel=1e-9)


def test_one_text_only_and_no_row_cost_nothing():
    rows = torch.randn(3, 4, requires_grad=True)
    assert info_nce_loss(rows, rows.flip(0), labels=torch.ones(3)).item() == 0
    empty = info_nce_loss(rows[:0], rows[:0])
    empty.backward()
    assert empty.item() == 0
    with pytest.raises(LimbeckError, match="embed both in one width"):
        info_nce_loss(rows, rows[:, :2])


def pairs(**options):
    """A context whose student and teacher embed speech and text."""
    context = make_context(student_feature_shapes={"speech": (5,), "text": (5,)}, **options)

    def embed(outputs):
        features = outputs.features
        by_sample = {"speech_embedding": features["speech"], "text_embedding": features["text"]}
        return Outputs(features=features, by_sample=by_sample)

    teachers = {name: embed(teacher) for name, teacher in context.teachers.items()}
    return LossContext(
        student=embed(context.student), teachers=teachers, teacher=teachers["teacher"],
        target=context.target, sample_ids=context.sample_ids,
    )  # fmt: skip


@pytest.mark.parametrize("loss", [InfoNCELoss(), InfoNCEKDLoss(student_side="text", teacher_side="speech")])
def test_contract_of_losses(loss):
    check_loss(loss, context_factory=pairs, skip=NOT_OF_A_BATCH)


def context_of(student, teacher, target, has_speech=None):
    def outputs(speech, text):
        present = {} if has_speech is None else {"has_speech": has_speech}
        return Outputs(by_sample={"speech_embedding": speech, "text_embedding": text, **present})

    teacher_outputs = outputs(*teacher)
    return LossContext(
        student=outputs(*student), teachers={"teacher": teacher_outputs}, teacher=teacher_outputs, target=target
    )


def test_samples_without_a_pair_are_left_out():
    student, teacher = torch.randn(2, 2, 5, 4)
    target, has_speech = torch.tensor([7, 8, 7, -100, 9]), torch.tensor([True, True, True, True, False])
    context = context_of(student, teacher, target, has_speech)
    kept = torch.tensor([0, 1, 2])
    expected = info_nce_loss(student[0][kept], student[1][kept], labels=target[kept])
    torch.testing.assert_close(InfoNCELoss()(context), expected)
    # A clip without a known text may still be compared with the teacher's embedding of it.
    kept, labels = torch.tensor([0, 1, 2, 3]), torch.tensor([7, 8, 7, -1])
    expected = info_nce_loss(student[0][kept], teacher[1][kept], labels=labels)
    torch.testing.assert_close(InfoNCEKDLoss()(context), expected)
    with pytest.raises(LimbeckError, match="needs 'speech_embedding' of each sample, and the outputs have none"):
        InfoNCELoss()(LossContext(student=Outputs(), target=target))


def test_settings_are_checked():
    with pytest.raises(LimbeckError, match="temperature must be in"):
        InfoNCELoss(temperature=0)
    with pytest.raises(LimbeckError, match="student_side must be speech, text or source, got 'video'"):
        InfoNCEKDLoss(student_side="video")
