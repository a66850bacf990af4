"""Embeddings are compared by squared distance or cosine, through a projection where their widths differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck import LimbeckError, LossContext, Outputs
from limbeck.losses import EmbeddingCosineLoss, EmbeddingMSELoss, embedding_cosine_loss, embedding_mse_loss
from limbeck.testing import check_loss, make_context


def embeddings(*, teacher_width=5, **options):
    shapes = {"student_feature_shapes": {"e": (5,)}, "teacher_feature_shapes": {"e": (teacher_width,)}}
    context = make_context(**shapes, **options)
    outputs = [
        Outputs(embedding=o.features["e"], features=o.features) for o in (context.student, context.teachers["teacher"])
    ]
    return LossContext(student=outputs[0], teachers={"teacher": outputs[1]}, teacher=outputs[1])


@pytest.mark.parametrize("loss_class", [EmbeddingMSELoss, EmbeddingCosineLoss])
def test_contract_of_losses(loss_class):
    check_loss(loss_class(), context_factory=embeddings)
    check_loss(
        loss_class(), context_factory=lambda **options: embeddings(teacher_width=3, **options),
        skip={"zero at agreement"},
    )  # fmt: skip


def test_they_agree_with_numpy():
    student, teacher = np.random.default_rng(0).normal(size=(2, 7, 4))
    tensors = torch.tensor(student), torch.tensor(teacher)
    assert float(embedding_mse_loss(*tensors)) == pytest.approx(((student - teacher) ** 2).sum(axis=1).mean(), rel=1e-9)
    cosines = (student * teacher).sum(axis=1) / np.linalg.norm(student, axis=1) / np.linalg.norm(teacher, axis=1)
    assert float(embedding_cosine_loss(*tensors)) == pytest.approx((1 - cosines).mean(), rel=1e-9)
    # Of unit vectors, one is twice the other.
    unit = [torch.nn.functional.normalize(tensor, dim=1) for tensor in tensors]
    torch.testing.assert_close(embedding_mse_loss(*unit), 2 * embedding_cosine_loss(*unit))


@pytest.mark.parametrize("width", [3, 5])
def test_the_sides_are_those_that_are_named_and_present(width):
    speech, text = torch.randn(4, 3), torch.randn(4, width)
    has_speech, has_text = torch.tensor([True, True, True, False]), torch.tensor([True, False, True, True])
    student = Outputs(by_sample={"speech_embedding": speech, "has_speech": has_speech})
    teacher = Outputs(by_sample={"text_embedding": text, "has_text": has_text}, valid=torch.tensor([1, 1, 1, 1]).bool())
    context = LossContext(student=student, teachers={"teacher": teacher}, teacher=teacher)
    loss = EmbeddingMSELoss(student_side="speech", teacher_side="text")
    loss.prepare(context)
    expected = embedding_mse_loss(loss.projection(speech)[[0, 2]], text[[0, 2]])
    torch.testing.assert_close(loss(context), expected)
    assert len(list(loss.parameters())) == (0 if width == 3 else 2)
    assert "student_side='speech', teacher_side='text'" in repr(loss)


def test_errors_name_what_is_missing():
    with pytest.raises(LimbeckError, match="must be speech, text or source, got 'image'"):
        EmbeddingMSELoss(student_side="image")
    nothing = Outputs()
    with pytest.raises(LimbeckError, match="EmbeddingCosineLoss needs an embedding of each sample"):
        EmbeddingCosineLoss().prepare(LossContext(student=nothing, teachers={"teacher": nothing}, teacher=nothing))
    with pytest.raises(LimbeckError, match="project the student's"):
        embedding_mse_loss(torch.zeros(1, 2), torch.zeros(1, 3))
