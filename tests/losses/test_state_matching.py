"""Frames are compressed by CTC, and each text state is reconstructed from the segments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from limbeck import LimbeckError, LossContext, Outputs
from limbeck.losses import StateMatchingLoss, ctc_compress, state_matching_loss
from limbeck.testing import check_loss


def compress_by_numpy(states, path, length):
    """Gaido et al., section 3: the mean of each run of one class."""
    runs, start = [], 0
    for label, run in itertools.groupby(path[:length]):
        size = len(list(run))
        runs.append((label, states[start : start + size].mean(axis=0)))
        start += size
    return runs


def match_by_numpy(segments, tokens, temperature):
    """1 − cos of each token and the segments that attend to it."""
    losses = []
    for token in tokens:
        cosines = np.array([s @ token / np.linalg.norm(s) / np.linalg.norm(token) for s in segments])
        weights = np.exp(cosines / temperature) / np.exp(cosines / temperature).sum()
        reconstruction = (weights[:, None] * segments).sum(axis=0)
        losses.append(1 - reconstruction @ token / np.linalg.norm(reconstruction) / np.linalg.norm(token))
    return losses


def random_case(seed=0, batch=4, frames=9, classes=4, width=3):
    rng = np.random.default_rng(seed)
    path = rng.integers(0, classes, size=(batch, frames)).repeat(2, axis=1)[:, :frames]
    logits = rng.normal(size=(batch, frames, classes)) * 0.1 + 5 * np.eye(classes)[path]
    return rng.normal(size=(batch, frames, width)), logits, path, np.array([9, 4, 1, 7])


def test_runs_of_one_class_are_averaged():
    states, logits, path, lengths = random_case()
    segments = ctc_compress(torch.tensor(states), torch.tensor(logits), torch.tensor(lengths))
    for i, length in enumerate(lengths):
        runs = compress_by_numpy(states[i], path[i].tolist(), length)
        assert segments.lengths[i] == len(runs)
        assert segments.classes[i, : len(runs)].tolist() == [label for label, _ in runs]
        np.testing.assert_allclose(segments.states[i, : len(runs)].numpy(), [mean for _, mean in runs], rtol=1e-12)
        assert not segments.states[i, len(runs) :].any()
        assert not segments.classes[i, len(runs) :].any()


def test_padding_changes_no_segment_and_every_valid_frame_gets_a_gradient():
    states, logits, _, lengths = (torch.tensor(array) for array in random_case())
    padded = [torch.cat([x, torch.full((4, 3, x.shape[2]), 9.0)], dim=1) for x in (states, logits)]
    expected = ctc_compress(states, logits, lengths)
    for first, second in zip(expected, ctc_compress(*padded, lengths), strict=True):
        torch.testing.assert_close(first, second)
    states.requires_grad_()
    ctc_compress(states, logits, lengths).states.sum().backward()
    is_valid = torch.arange(9) < lengths[:, None]
    assert torch.equal(states.grad.abs().sum(dim=2) > 0, is_valid)
    with pytest.raises(LimbeckError, match="the blank must be a class"):
        ctc_compress(states, logits, lengths, blank=4)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_match_agrees_with_numpy(temperature):
    rng = np.random.default_rng(1)
    segments, tokens = rng.normal(size=(3, 5, 4)), rng.normal(size=(3, 6, 4))
    num_segments, num_tokens = [5, 2, 0], [3, 6, 4]  # the last has no speech
    expected = [
        loss for i in range(2)
        for loss in match_by_numpy(segments[i, : num_segments[i]], tokens[i, : num_tokens[i]], temperature)
    ]  # fmt: skip
    masks = [torch.arange(n) < torch.tensor(counts)[:, None] for n, counts in ((5, num_segments), (6, num_tokens))]
    value = state_matching_loss(
        torch.tensor(segments), torch.tensor(tokens), student_mask=masks[0], teacher_mask=masks[1],
        temperature=temperature,
    )  # fmt: skip
    assert float(value) == pytest.approx(np.mean(expected), rel=1e-9)
    nothing = state_matching_loss(
        torch.tensor(segments), torch.tensor(tokens), student_mask=masks[0] & False, teacher_mask=masks[1]
    )
    assert float(nothing) == 0


def make_pair(*, scale=1.0, dtype=torch.float32, seed=0, teacher_width=4, blank_only=False):
    generator = torch.Generator().manual_seed(seed)

    def outputs(width):
        tensors = {
            name: (torch.randn(6, n, w, generator=generator) * scale).to(dtype).requires_grad_()
            for name, n, w in (("speech_states", 8, width), ("text_states", 3, width), ("frame_logits", 8, 5))
        }
        lengths = {"speech_length": torch.full((6,), 8), "text_length": torch.tensor([3, 2, 1, 3, 3, 0])}
        if blank_only:
            tensors["frame_logits"] = torch.eye(5)[torch.zeros(6, 8, dtype=torch.long)]
        return Outputs(features=tensors, by_sample={**tensors, **lengths})

    student, teacher = outputs(4), outputs(teacher_width)
    return LossContext(student=student, teachers={"teacher": teacher}, teacher=teacher)


@pytest.mark.parametrize("loss", [StateMatchingLoss(), StateMatchingLoss(teacher_side="speech")])
def test_contract_of_losses(loss):
    check_loss(loss, context_factory=make_pair, skip={"zero at agreement"})


def test_the_class_leaves_the_blank_out_and_projects_other_widths():
    context = make_pair(teacher_width=6)
    loss = StateMatchingLoss(temperature=0.2)
    loss.prepare(context)
    by_sample = context.student.by_sample
    segments = ctc_compress(*(by_sample[name] for name in ("speech_states", "frame_logits", "speech_length")))
    assert bool((segments.classes[:, : int(segments.lengths.min())] == 0).any())
    projected, teacher = loss.projection(segments.states).detach().double().numpy(), context.teacher.by_sample
    expected = []
    for i in range(6):
        kept = (segments.classes[i] != 0) & (torch.arange(segments.classes.shape[1]) < segments.lengths[i])
        tokens = teacher["text_states"][i, : teacher["text_length"][i]].detach().double().numpy()
        expected += match_by_numpy(projected[i][kept.numpy()], tokens, 0.2)
    assert loss(context).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_head_that_predicts_the_blank_only_matches_the_mean_of_all_frames():
    context = make_pair(blank_only=True)
    loss = StateMatchingLoss()
    loss.prepare(context)
    student, teacher = context.student.by_sample, context.teacher.by_sample
    expected = [
        match_by_numpy(
            student["speech_states"][i].detach().double().numpy().mean(axis=0, keepdims=True),
            teacher["text_states"][i, : teacher["text_length"][i]].detach().double().numpy(), 0.1,
        )
        for i in range(6)
    ]  # fmt: skip
    assert loss(context).item() == pytest.approx(np.mean([x for losses in expected for x in losses]), rel=1e-5)


def test_what_is_missing_is_one_sentence():
    context = make_pair()
    names = {key: value for key, value in context.student.by_sample.items() if key != "frame_logits"}
    without_head = LossContext(student=Outputs(by_sample=names), teachers=context.teachers, teacher=context.teacher)
    with pytest.raises(LimbeckError, match="gives no frame_logits: give it a CTC head"):
        StateMatchingLoss().prepare(without_head)
    with pytest.raises(LimbeckError, match="one width, got 4 and 5"):
        state_matching_loss(
            torch.zeros(1, 2, 4), torch.zeros(1, 2, 5), student_mask=torch.ones(1, 2).bool(),
            teacher_mask=torch.ones(1, 2).bool(),
        )  # fmt: skip
