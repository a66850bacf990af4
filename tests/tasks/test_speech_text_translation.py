"""A row is a target token, for networks of speech and of text alike, so each teaches the other word by word."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import limbeck
from limbeck import LimbeckError
from limbeck.data import Split
from limbeck.data.module import make_splits
from limbeck.data.sequence_store import SequenceStore
from limbeck.losses import CrossEntropyLoss, KDLoss, WordKDLoss
from limbeck.models import speech_text_translator
from limbeck.tasks import SpeechTextTranslation
from limbeck.teachers import FrozenTeacher
from limbeck.testing import check_task

TASK = SpeechTextTranslation(vocab_size=9)
make = partial(
    speech_text_translator, width=8, depth=1, decoder_depth=1, num_heads=2, mels=4, speech_width=4, speech_depth=1,
    vocab_size=9, max_tokens=12, dropout=0.0,
)  # fmt: skip


def make_data(count=60):
    torch.manual_seed(0)
    store = SequenceStore(
        {
            "input": [torch.randn(9 + i % 5, 4) for i in range(count)],
            "input_ids": [torch.randint(2, 9, (2 + i % 4,)) for i in range(count)],
            "target": [torch.randint(2, 9, (1 + i % 3,)) for i in range(count)],
        },
        masks={"input_ids": "attention_mask"}, pad_values={"target": -100},
    )  # fmt: skip
    split = Split.from_sequences(store, torch.arange(count) % 2)
    return make_splits("sentences", ["en", "fr"], split, seed=0, validation=0.2, test=0.2)


def make_batch():
    return next(make_data().validation_batches(batch_size=6))


def perfect(batch):
    return 9.0 * torch.eye(9)[batch["target"].clamp(min=0)]


@pytest.mark.parametrize(("side", "other"), [("speech", "text"), ("text", "speech")])
def test_contract_of_tasks(side, other):
    torch.manual_seed(0)
    check_task(TASK, make_data(), make(side=side), teacher=make(side=other, width=12), oracle=perfect)


def kl_by_numpy(teacher, student):
    p, q = (np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True) for x in (teacher, student))
    return (p * np.log(p / q)).sum(axis=-1)


@pytest.mark.parametrize("loss", [WordKDLoss(teacher="text"), KDLoss(temperature=1.0, teacher="text")])
def test_a_text_teacher_teaches_a_speech_student_token_by_token(loss):
    batch, student, teacher = make_batch(), make(side="speech"), make(side="text", width=12)
    distiller = limbeck.Distiller(student, {"text": teacher}, objective={"kd": loss}, task=TASK).eval()
    inputs = TASK.model_inputs(batch).kwargs
    logits = [network.eval()(**inputs)["logits"].detach().double().numpy() for network in (teacher, student)]
    rows = (batch["target"] != -100).numpy()
    value = distiller(batch).total
    assert value.item() == pytest.approx(kl_by_numpy(*(x[rows] for x in logits)).mean(), rel=1e-5)
    value.backward()
    assert student.conv.stem.conv.weight.grad.abs().sum() > 0


def test_speech_and_text_teachers_teach_a_text_student_where_each_has_its_side():
    batch, student = make_batch(), make(side="text")
    teachers = {"speech": make(side="speech", width=12), "text": make(side="text", width=12)}
    batch["input_length"][:2] = 0
    assert FrozenTeacher(teachers["speech"]).predict(batch, TASK).valid.tolist() == [False] * 2 + [True] * 4
    objective = {"target": CrossEntropyLoss(), "a": WordKDLoss(teacher="speech"), "b": WordKDLoss(teacher="text")}
    loss = limbeck.Distiller(student, teachers, objective=objective, task=TASK).eval()(batch)
    present = {name: value[2:] for name, value in batch.items()}
    expected = limbeck.Distiller(student, teachers, objective=objective, task=TASK).eval()(present)
    torch.testing.assert_close(loss.by_loss["a"], expected.by_loss["a"])
    loss.total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters() if parameter.grad is not None)
    speech_student = limbeck.Distiller(make(side="speech"), objective={"t": CrossEntropyLoss()}, task=TASK)
    with pytest.raises(LimbeckError, match="a student must have its side in each sample, and 2 of the batch lack"):
        speech_student(batch)


@pytest.mark.parametrize("side", ["speech", "text"])
def test_padding_changes_no_logit(side):
    batch, network = make_batch(), make(side=side).eval()
    inputs = dict(TASK.model_inputs(batch).kwargs)
    expected = network(**inputs)["logits"]
    for name in ("input", "input_ids", "attention_mask"):
        tail = torch.zeros_like(inputs[name][:, :2]) + (0 if name == "attention_mask" else 3)
        inputs[name] = torch.cat([inputs[name], tail], dim=1)
    torch.testing.assert_close(network(**inputs)["logits"], expected)


def test_what_does_not_fit_is_one_sentence():
    batch = make_batch()
    with pytest.raises(LimbeckError, match="side must be speech or text, got 'image'"):
        make(side="image")
    with pytest.raises(LimbeckError, match=r"logits of SpeechTextTranslator must be \[6, \d, 5\]"):
        SpeechTextTranslation(vocab_size=5).outputs(make(side="text"), batch)
    with pytest.raises(LimbeckError, match=r"target must be \[batch, tokens\] integers"):
        TASK.target({**batch, "target": batch["target"][:, 0]})
    with pytest.raises(LimbeckError, match=r"target tokens must be in 0\.\.8"):
        TASK.target({**batch, "target": torch.full((6, 2), 9)})
    with pytest.raises(LimbeckError, match="decoder_start_token_id below it, got 9 and 9"):
        SpeechTextTranslation(vocab_size=9, decoder_start_token_id=9)
