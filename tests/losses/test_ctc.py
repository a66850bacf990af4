"""ctc_loss is the negative log of the summed probability of all paths, counted here one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from limbeck import LimbeckError, LossContext, Outputs
from limbeck.losses import CTCLoss, ctc_loss


def collapse(path, blank):
    merged = [token for token, _ in itertools.groupby(path)]
    return [token for token in merged if token != blank]


def by_enumeration(logits, length, target, blank):
    """Graves et al., equations 2 and 3, over every path."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    paths = itertools.product(range(logits.shape[1]), repeat=length)
    total = sum(
        np.prod([p[t, token] for t, token in enumerate(path)]) for path in paths if collapse(path, blank) == target
    )
    return -np.log(total)


@pytest.mark.parametrize("blank", [0, 2])
def test_it_is_the_sum_over_all_paths(blank):
    rng = np.random.default_rng(0)
    logits, lengths = rng.normal(size=(3, 5, 3)), [5, 4, 3]
    a, b = [token for token in range(3) if token != blank]
    targets = [[a, b], [a, a], [b]]
    expected = [by_enumeration(x, n, y, blank) for x, n, y in zip(logits, lengths, targets, strict=True)]
    tokens = torch.tensor([[a, b], [a, a], [b, -100]])
    arguments = torch.tensor(logits), torch.tensor(lengths), tokens, torch.tensor([2, 2, 1])
    np.testing.assert_allclose(ctc_loss(*arguments, blank=blank, reduction="none").numpy(), expected, rtol=1e-9)
    mean = np.mean([loss / len(target) for loss, target in zip(expected, targets, strict=True)])
    assert float(ctc_loss(*arguments, blank=blank)) == pytest.approx(mean, rel=1e-9)


def test_frames_and_tokens_beyond_the_length_count_nothing():
    logits = torch.randn(1, 6, 4)
    short = ctc_loss(logits[:, :4], torch.tensor([4]), torch.tensor([[1, 2]]), torch.tensor([2]))
    padded = ctc_loss(logits, torch.tensor([4]), torch.tensor([[1, 2, 3, -100]]), torch.tensor([2]))
    torch.testing.assert_close(short, padded)


def test_samples_without_a_target_count_nothing():
    logits, lengths = torch.randn(3, 5, 4, requires_grad=True), torch.tensor([5, 5, 5])
    tokens, token_lengths = torch.tensor([[1, 2], [0, 0], [3, 1]]), torch.tensor([2, -1, 2])
    labeled = torch.tensor([0, 2])
    expected = ctc_loss(logits[labeled], lengths[labeled], tokens[labeled], token_lengths[labeled])
    loss = ctc_loss(logits, lengths, tokens, token_lengths)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad[1].abs().sum() == 0
    assert ctc_loss(logits, lengths, tokens, torch.tensor([-1, -1, -1])) == 0


def test_a_target_that_needs_more_frames_is_refused():
    logits = torch.randn(1, 3, 4)
    with pytest.raises(LimbeckError, match="3 frames and a target of 3 tokens that needs 4"):
        ctc_loss(logits, torch.tensor([3]), torch.tensor([[1, 1, 2]]), torch.tensor([3]))
    assert ctc_loss(logits, torch.tensor([3]), torch.tensor([[1, 2, 2]]), torch.tensor([2])).isfinite()


def test_the_gradient_is_that_of_finite_differences():
    logits = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([4, 3]), torch.tensor([[1, 2], [2, 0]]), torch.tensor([2, 1])
    assert gradcheck(lambda x: ctc_loss(x, *targets), logits)


def test_the_loss_reads_frames_and_sample_targets():
    logits, lengths = torch.randn(2, 5, 4), torch.tensor([5, 4])
    student = Outputs(by_sample={"frame_logits": logits, "frame_length": lengths})
    targets = {"tokens": torch.tensor([[1, 2], [3, 0]]), "token_length": torch.tensor([2, 1])}
    context = LossContext(student=student, sample_targets=targets)
    torch.testing.assert_close(CTCLoss()(context), ctc_loss(logits, lengths, *targets.values()))
    with pytest.raises(LimbeckError, match="the outputs have none: use a task such as SpeechCTC"):
        CTCLoss()(LossContext(student=Outputs(logits=torch.zeros(2, 4)), sample_targets=targets))
    with pytest.raises(LimbeckError, match="blank must be"):
        CTCLoss(blank=-1)
