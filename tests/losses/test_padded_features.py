"""Features of padded sequences: unlike rates are averaged over time, and the padding counts in no loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import limbeck
from limbeck import LimbeckError, LossContext, Outputs
from limbeck.evaluation.model_outputs import pool_features
from limbeck.losses import (
    ABLoss,
    BYOTLoss,
    CCLoss,
    CRDLoss,
    CWDLoss,
    FitNetLoss,
    FSPLoss,
    GramLoss,
    NSTLoss,
    OFDLoss,
    PKDLoss,
    PKTLoss,
    RKDAngleLoss,
    RKDDistanceLoss,
    SPLoss,
    VIDLoss,
)
from limbeck.models import conv_ctc
from limbeck.tasks import SpeechCTC

LENGTHS = (11, 6, 9)
LOSSES = [
    FitNetLoss("mid"), ABLoss("mid"), OFDLoss("mid"), VIDLoss("mid"), PKDLoss("mid"), CWDLoss("mid"), GramLoss("mid"),
    NSTLoss("mid"), SPLoss("mid"), RKDDistanceLoss("mid"), RKDAngleLoss("mid"), PKTLoss("mid"), CCLoss("mid"),
    CRDLoss("mid", bank_size=8, embedding_dim=4),
]  # fmt: skip


def make_context(longest, *, student_stride=4, teacher_stride=1, valid=None, seed=0):
    """Random features at two rates; whatever is in the padding is large."""
    rng = np.random.default_rng(seed)
    samples = [(rng.normal(size=(11, 5)), rng.normal(size=(11, 3))) for _ in LENGTHS]
    features = []
    for index, stride in enumerate((student_stride, teacher_stride)):
        padded = torch.full((3, -(-longest // stride), samples[0][index].shape[1]), 1e3)
        for i, (sample, length) in enumerate(zip(samples, LENGTHS, strict=True)):
            count = -(-length // stride)
            padded[i, :count] = torch.from_numpy(sample[index][:count]).float()
        features.append(padded)
    student, teacher = (Outputs(features={"mid": tensor}) for tensor in features)
    teacher = replace(teacher, valid=valid)
    mask = torch.arange(longest) < torch.tensor(LENGTHS)[:, None]
    return LossContext(
        student=student, teachers={"t": teacher}, teacher=teacher, input_mask=mask, sample_ids=torch.arange(3)
    )  # fmt: skip


def compute(loss, context):
    torch.manual_seed(0)
    if hasattr(loss, "prepare"):
        loss.prepare(context)
        loss.train()
    return loss(context)


@pytest.mark.parametrize("strides", [(4, 1), (1, 4), (2, 2), (3, 2)])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_padding_does_not_change_a_loss(loss, strides):
    settings = {"student_stride": strides[0], "teacher_stride": strides[1]}
    loss_value = compute(loss, make_context(11, **settings))
    assert loss_value.isfinite()
    assert loss_value.item() < 50  # nothing of the padding
    torch.testing.assert_close(compute(loss, make_context(24, **settings)), loss_value)


def test_the_teacher_is_averaged_over_the_frames_of_the_student():
    context = make_context(11)
    loss = FitNetLoss("mid")
    value = compute(loss, context)
    weight, bias = loss.projection.layer.weight.detach().double(), loss.projection.layer.bias.detach().double()
    errors = []
    for student, teacher, length in zip(
        context.student.features["mid"], context.teacher.features["mid"], LENGTHS, strict=True
    ):
        for frame in range(-(-length // 4)):
            mean = teacher[frame * 4 : min(frame * 4 + 4, length)].double().numpy().mean(axis=0)
            errors.append(((student[frame].double() @ weight.T + bias).numpy() - mean) ** 2)
    assert value.item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_channel_and_gram_losses_are_those_of_single_samples():
    context = make_context(12, student_stride=2, teacher_stride=2)
    for loss in (CWDLoss("mid"), GramLoss("mid")):
        value = compute(loss, context)
        singles = []
        for i, length in enumerate(LENGTHS):
            cut = {
                name: Outputs(features={"mid": getattr(context, name).features["mid"][i : i + 1, : -(-length // 2)]})
                for name in ("student", "teacher")
            }
            singles.append(loss(LossContext(student=cut["student"], teacher=cut["teacher"])))
        torch.testing.assert_close(value, torch.stack(singles).mean())


def test_samples_without_a_teacher_are_left_out_with_their_masks():
    valid = torch.tensor([True, False, True])
    value = compute(SPLoss("mid"), make_context(11, valid=valid))
    whole = make_context(11)
    student, teacher = (outputs.masked_select(valid) for outputs in (whole.student, whole.teacher))
    cut = LossContext(student=student, teacher=teacher, input_mask=whole.input_mask[valid])
    torch.testing.assert_close(value, compute(SPLoss("mid"), cut))


def test_what_does_not_know_the_padding_is_refused():
    context = make_context(11)
    with pytest.raises(
        LimbeckError, match=r"FSPLoss compares features without padding, .* \[3, 3, 5\]: use FitNetLoss"
    ):
        FSPLoss("mid", "mid").prepare(context)
    with pytest.raises(LimbeckError, match="BYOTLoss compares features without padding"):
        BYOTLoss(["mid"]).prepare(context)
    other = replace(context, student=Outputs(features={"mid": torch.zeros(3, 13, 5)}))
    with pytest.raises(LimbeckError, match=r"'mid' must be those of the padded input, .* got 13 for 11"):
        compute(SPLoss("mid"), other)


def test_speech_is_distilled_from_features_of_another_rate():
    torch.manual_seed(0)
    student, teacher = conv_ctc(classes=5, mels=8, stride=4, width=6), conv_ctc(classes=5, mels=8, stride=1, width=8)
    layers = {"student": {"mid": "block2"}, "teacher": {"mid": "block3"}}
    task = SpeechCTC(classes=5)
    distiller = limbeck.Distiller(
        student, teacher, objective={"fit": FitNetLoss("mid")}, feature_layers=layers, task=task
    )  # fmt: skip
    frames, lengths = torch.randn(3, 11, 8), torch.tensor(LENGTHS)
    batch = {"input": frames, "input_length": lengths}
    distiller.prepare(batch)
    loss = distiller(batch).total
    padded = {**batch, "input": torch.cat([frames, torch.randn(3, 9, 8)], dim=1)}
    torch.testing.assert_close(distiller(padded).total, loss)
    loss.backward()
    assert student.stem.conv.weight.grad.abs().sum() > 0


def test_pooled_features_leave_the_padding_out():
    features = torch.arange(12.0).reshape(1, 6, 2)
    mask = torch.tensor([[True] * 5 + [False] * 6])
    assert pool_features(features, mask).tolist() == [features[0, :3].mean(dim=0).tolist()]
    assert pool_features(features).tolist() == [features[0].mean(dim=0).tolist()]
