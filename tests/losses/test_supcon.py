"""SupCon is that of NumPy; a sentence and its translation make it InfoNCE."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck import LimbeckError, LossContext, Outputs
from limbeck.losses import SupConLoss, supcon_loss

TARGET = torch.tensor([0, 1, 0, 2, -100, 1, 0])


def embeddings(seed=0):
    return np.random.default_rng(seed).normal(size=(7, 4))


def numpy_supcon(rows, target, temperature):
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    labeled = [i for i, label in enumerate(target) if label >= 0]
    by_anchor = []
    for i in labeled:
        others = [a for a in labeled if a != i]
        positives = [p for p in others if target[p] == target[i]]
        total = np.log(sum(np.exp(rows[i] @ rows[a] / temperature) for a in others))
        if positives:
            by_anchor.append(-np.mean([rows[i] @ rows[p] / temperature - total for p in positives]))
    return np.mean(by_anchor)


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_it_agrees_with_numpy(temperature):
    value = supcon_loss(torch.tensor(embeddings()), TARGET, temperature=temperature)
    assert float(value) == pytest.approx(numpy_supcon(embeddings(), TARGET.tolist(), temperature), rel=1e-10)


def test_a_second_embedding_of_each_sample_is_one_of_its_target():
    rows, translations, target = embeddings()[:4], embeddings(1)[:4], torch.arange(4)
    outputs = Outputs(embedding=torch.tensor(rows), by_sample={"source_embedding": torch.tensor(translations)})
    value = SupConLoss(temperature=0.5)(LossContext(student=outputs, target=target))
    expected = numpy_supcon(np.concatenate([rows, translations]), [0, 1, 2, 3] * 2, 0.5)
    assert float(value) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("target", [torch.arange(7), torch.full((7,), -100), TARGET[:1]], ids=str)
def test_without_positives_it_is_zero_with_a_gradient_of_zero(target):
    rows = torch.tensor(embeddings()[: len(target)], requires_grad=True)
    loss = supcon_loss(rows, target)
    assert float(loss) == 0.0
    assert not torch.autograd.grad(loss, rows)[0].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    rows = torch.tensor(embeddings()).to(dtype)
    value = supcon_loss(rows, TARGET)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(numpy_supcon(rows.double().numpy(), TARGET.tolist(), 0.1), rel=1e-5)


def test_what_it_needs_is_named():
    with pytest.raises(LimbeckError, match="SupConLoss needs an embedding of each sample"):
        SupConLoss()(LossContext(student=Outputs(), target=TARGET))
    with pytest.raises(LimbeckError, match=r"temperature must be in \(0, inf\), got 0"):
        SupConLoss(temperature=0)
