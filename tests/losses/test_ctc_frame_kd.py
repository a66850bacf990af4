"""Distillation of CTC networks by frame and by sequence against NumPy in float64."""

import itertools

import numpy as np
import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import CTCBestPathLoss, CTCFrameKDLoss, ctc_best_path_loss, ctc_frame_kd_loss, kd_loss
from limbeck.losses._ctc import decode_best_path
from limbeck.testing import check_loss


def logits(seed):
    values = 3 * torch.randn(12, 5, generator=torch.Generator().manual_seed(seed))
    values[::2, 1] += 6  # class 1 is the blank of half of the frames
    return values


def reference(student, teacher, *, blank, blank_weight, temperature):
    p, q = (np.exp(x / temperature) for x in (teacher, student))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    weights = np.array([blank_weight if row.argmax() == blank else 1.0 for row in teacher])
    return temperature**2 * (weights * (p * np.log(p / q)).sum(axis=1)).sum() / weights.sum()


@pytest.mark.parametrize("blank_weight", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_value_is_that_of_numpy(blank_weight, temperature):
    student, teacher = logits(0), logits(1)
    expected = reference(
        student.double().numpy(), teacher.double().numpy(), blank=1, blank_weight=blank_weight, temperature=temperature
    )
    value = ctc_frame_kd_loss(student, teacher, blank=1, blank_weight=blank_weight, temperature=temperature)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_temperature_for_each_frame_is_squared_in_it():
    student, teacher = logits(0), logits(1)
    ones = torch.ones(12)
    torch.testing.assert_close(
        ctc_frame_kd_loss(student, teacher, blank=1, temperature=2 * ones),
        ctc_frame_kd_loss(student, teacher, blank=1, temperature=2.0),
    )


def test_with_equal_weights_it_is_kd():
    student, teacher = logits(0), logits(1)
    torch.testing.assert_close(
        ctc_frame_kd_loss(student, teacher, blank_weight=1.0, temperature=2.0),
        kd_loss(student, teacher, temperature=2.0),
    )


@pytest.mark.parametrize(("threshold", "weight"), [(0.4, 0.0), (0.95, 0.3)])
def test_frames_above_the_threshold_are_blank(threshold, weight):
    student, teacher = logits(0).double().numpy(), logits(1).double().numpy()
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (teacher, student))
    weights = np.where(p[:, 1] >= threshold, weight, 1.0)
    assert 0 < (weights < 1).sum() < 12
    expected = (weights * (p * np.log(p / q)).sum(axis=1)).sum() / weights.sum()
    value = ctc_frame_kd_loss(
        logits(0), logits(1), blank=1, blank_weight=weight, blank_threshold=threshold, temperature=1.0
    )
    assert float(value) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(LimbeckError, match=r"blank_threshold must be above 0 and at most 1, got 1\.5"):
        CTCFrameKDLoss(blank_threshold=1.5)


def test_without_frames_that_count_it_is_zero():
    blanks = torch.zeros(3, 5)
    blanks[:, 0] = 9.0
    assert float(ctc_frame_kd_loss(logits(0)[:3], blanks, blank_weight=0.0)) == 0.0
    assert float(ctc_frame_kd_loss(torch.zeros(0, 5), torch.zeros(0, 5))) == 0.0


def test_the_contract_of_losses_holds():
    check_loss(CTCFrameKDLoss())
    check_loss(CTCFrameKDLoss(blank_weight=1.0, temperature=2.0, teacher="teacher"))


@pytest.mark.parametrize("settings", [{"blank": -1}, {"blank_weight": 1.5}, {"blank_weight": -0.1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(LimbeckError, match="blank must be at least 0 and blank_weight from 0 to 1"):
        CTCFrameKDLoss(**settings)


def test_a_blank_that_is_no_class_is_refused():
    with pytest.raises(LimbeckError, match="blank must be one of the 5 classes, got 5"):
        ctc_frame_kd_loss(logits(0), logits(1), blank=5)


def spikes(*paths):
    """Logits of paths of one class per frame."""
    return 4 * torch.nn.functional.one_hot(torch.tensor(paths), 4).double()


def test_the_best_path_is_the_target_of_the_student():
    """A teacher of 6 frames and a student of 3: the sum over all paths of the student, enumerated."""
    teacher = spikes([1, 1, 0, 2, 0, 0], [0, 3, 3, 3, 0, 2])  # tokens 1 2, and of 4 valid frames 3
    student = torch.randn(2, 3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    p = student.softmax(dim=2).numpy()

    def nll(sample, tokens):
        total = 0.0
        for path in itertools.product(range(4), repeat=3):
            merged = [c for i, c in enumerate(path) if (i == 0 or c != path[i - 1]) and c != 0]
            total += np.prod([p[sample, t, c] for t, c in enumerate(path)]) if merged == tokens else 0.0
        return -np.log(total)

    expected = (nll(0, [1, 2]) / 2 + nll(1, [3])) / 2
    value = ctc_best_path_loss(student, torch.tensor([3, 3]), teacher, torch.tensor([6, 4]))
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_a_best_path_that_the_student_cannot_emit_is_left_out():
    teacher = spikes([1, 0, 1, 2], [3, 0, 0, 0])  # 1 1 2 needs 4 frames
    student = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0))
    lengths, frames = torch.tensor([2, 2]), torch.tensor([4, 4])
    together = ctc_best_path_loss(student, lengths, teacher, frames)
    torch.testing.assert_close(together, ctc_best_path_loss(student[1:], lengths[1:], teacher[1:], frames[1:]))
    assert float(ctc_best_path_loss(student[:1], lengths[:1], teacher[:1], frames[:1])) == 0.0


def test_best_paths_are_those_of_a_loop():
    logits = torch.randn(30, 9, 3, generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(30) % 10
    tokens, counts = decode_best_path(logits, lengths, blank=1)
    for sample, length in enumerate(lengths.tolist()):
        path = logits[sample].argmax(dim=1).tolist()[:length]
        merged = [token for token, _ in itertools.groupby(path) if token != 1]
        assert tokens[sample, : counts[sample]].tolist() == merged
        assert (tokens[sample, counts[sample] :] == 1).all()


def test_without_frames_of_samples_the_loss_names_the_task():
    context = LossContext(student=Outputs(logits=logits(0)), teachers={"t": Outputs(logits=logits(1))},
                          teacher=Outputs(logits=logits(1)))  # fmt: skip
    with pytest.raises(LimbeckError, match="CTCBestPathLoss needs the frames of each sample"):
        CTCBestPathLoss()(context)


def test_unlike_classes_and_a_blank_that_is_none_are_refused():
    lengths = torch.tensor([4])
    with pytest.raises(LimbeckError, match="must have the same classes, the blank among them, got 4 and 5"):
        ctc_best_path_loss(torch.zeros(1, 4, 4), lengths, torch.zeros(1, 4, 5), lengths)
    with pytest.raises(LimbeckError, match="with the blank 4"):
        ctc_best_path_loss(torch.zeros(1, 4, 4), lengths, torch.zeros(1, 4, 4), lengths, blank=4)
