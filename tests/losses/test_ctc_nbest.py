"""Prefix beam search and the loss of the n best sequences against the enumeration of all paths in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import CTCNBestLoss, ctc_best_path_loss, ctc_nbest_loss
from limbeck.losses._ctc_search import search_prefixes


def probabilities(logits, length, blank):
    """The probability of every token sequence: the sum over its paths."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    totals = {}
    for path in itertools.product(range(logits.shape[1]), repeat=length):
        tokens = tuple(token for token, _ in itertools.groupby(path) if token != blank)
        totals[tokens] = totals.get(tokens, 0.0) + np.prod([p[t, token] for t, token in enumerate(path)])
    return totals


def random_logits(*shape, seed=0):
    return 2 * torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("blank", [0, 2])
def test_a_wide_beam_finds_all_sequences_with_their_probabilities(blank):
    logits, lengths = random_logits(3, 5, 3), torch.tensor([5, 3, 0])
    found = search_prefixes(logits, lengths, blank=blank, beam_size=64, num_best=64)
    for sample, length in enumerate(lengths.tolist()):
        expected = sorted(probabilities(logits[sample].numpy(), length, blank).items(), key=lambda item: -item[1])
        count = int((~found.log_p[sample].isneginf()).sum())
        assert count == len(expected)
        tokens = [tuple(found.tokens[sample, i, : found.lengths[sample, i]].tolist()) for i in range(count)]
        assert tokens == [sequence for sequence, _ in expected]
        np.testing.assert_allclose(found.log_p[sample, :count].exp().numpy(), [p for _, p in expected], rtol=1e-9)


def test_a_narrow_beam_finds_what_the_best_path_misses():
    # Two paths of "1" (0.4·0.6 + 0.6·0.4 + 0.4·0.4) are more probable than the best path, two blanks (0.36).
    logits = torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()[None]
    found = search_prefixes(logits, torch.tensor([2]), beam_size=2)
    assert found.tokens.tolist() == [[[1]]]
    assert float(found.log_p.exp()) == pytest.approx(0.64)


def test_padding_and_the_batch_change_nothing():
    logits = random_logits(2, 6, 4)
    together = search_prefixes(logits, torch.tensor([6, 4]), beam_size=4, num_best=3)
    single = search_prefixes(logits[1:, :4], torch.tensor([4]), beam_size=4, num_best=3)
    assert together.lengths[1].tolist() == single.lengths[0].tolist()
    torch.testing.assert_close(together.log_p[1:], single.log_p)


def reference(student, student_lengths, teacher, teacher_lengths, n_best):
    """Takashima et al., 2019, equation 6, with each loss by the number of its tokens."""
    losses = []
    for sample in range(len(student)):
        p = probabilities(teacher[sample].numpy(), int(teacher_lengths[sample]), 0)
        q = probabilities(student[sample].numpy(), int(student_lengths[sample]), 0)
        best = [tokens for tokens in sorted(p, key=p.get, reverse=True)[:n_best] if tokens in q]
        if best:
            total = sum(p[tokens] for tokens in best)
            losses.append(sum(-p[tokens] / total * np.log(q[tokens]) / max(1, len(tokens)) for tokens in best))
    return np.mean(losses)


@pytest.mark.parametrize("n_best", [1, 4])
def test_the_loss_weighs_the_sequences_by_their_probability(n_best):
    """Student frames at half the rate, so some sequences of the teacher do not fit."""
    teacher, student = random_logits(3, 6, 3), random_logits(3, 3, 3, seed=1).requires_grad_()
    lengths, teacher_lengths = torch.tensor([3, 2, 1]), torch.tensor([6, 4, 2])
    value = ctc_nbest_loss(student, lengths, teacher, teacher_lengths, n_best=n_best, beam_size=80)
    expected = reference(student.detach(), lengths, teacher, teacher_lengths, n_best)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-9)
    value.backward()
    assert student.grad.isfinite().all()


def test_of_a_sharp_teacher_it_is_the_loss_of_the_best_path():
    teacher = 30 * torch.nn.functional.one_hot(torch.tensor([[1, 1, 0, 2], [0, 3, 0, 0]]), 4).double()
    student, lengths = random_logits(2, 4, 4), torch.tensor([4, 4])
    torch.testing.assert_close(
        ctc_nbest_loss(student, lengths, teacher, lengths), ctc_best_path_loss(student, lengths, teacher, lengths)
    )


def test_a_sample_whose_sequences_do_not_fit_counts_nothing():
    teacher = 30 * torch.nn.functional.one_hot(torch.tensor([[1, 2, 1, 2], [3, 0, 0, 0]]), 4).double()
    student, frames = random_logits(2, 1, 4).requires_grad_(), torch.tensor([4, 4])
    value = ctc_nbest_loss(student, torch.tensor([1, 1]), teacher, frames, n_best=1)
    torch.testing.assert_close(value, -student[1, 0].log_softmax(dim=0)[3])
    value.backward()
    assert student.grad[0].abs().sum() == 0


def test_the_loss_reads_the_frames_of_both_networks():
    student, teacher, lengths = random_logits(2, 3, 4), random_logits(2, 5, 4, seed=1), torch.tensor([5, 4])
    frames = {"student": (student, torch.tensor([3, 2])), "teacher": (teacher, lengths)}
    outputs = {
        name: Outputs(by_sample={"frame_logits": logits, "frame_length": n}) for name, (logits, n) in frames.items()
    }
    context = LossContext(
        student=outputs["student"], teachers={"teacher": outputs["teacher"]}, teacher=outputs["teacher"]
    )
    expected = ctc_nbest_loss(*frames["student"], *frames["teacher"], n_best=2, beam_size=5)
    torch.testing.assert_close(CTCNBestLoss(n_best=2, beam_size=5)(context), expected)


def test_what_cannot_work_is_refused():
    with pytest.raises(LimbeckError, match="at most beam_size, got 2 and 4"):
        CTCNBestLoss(n_best=4, beam_size=2)
    with pytest.raises(LimbeckError, match="blank must be a class index"):
        CTCNBestLoss(blank=-1)
    frames, lengths = torch.zeros(1, 2, 3), torch.tensor([2])
    with pytest.raises(LimbeckError, match="must have the same classes, got 3 and 4"):
        ctc_nbest_loss(frames, lengths, torch.zeros(1, 2, 4), lengths)
    with pytest.raises(LimbeckError, match="blank must be one of the 3 classes, got 3"):
        ctc_nbest_loss(frames, lengths, frames, lengths, blank=3)
