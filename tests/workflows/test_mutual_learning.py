"""Students that learn together: each moves as if it had a training of its own, with the others as teachers."""

from functools import partial

import numpy as np
import pytest
import torch

import limbeck
from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.data import Digits
from limbeck.distiller import PeerStudents
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.models import small_cnn
from limbeck.teachers import FrozenTeacher
from limbeck.training import TrainingConfig
from limbeck.workflows import train_mutual

TASK = limbeck.tasks.Classification(10)
SGD = partial(torch.optim.SGD, lr=0.05)


def pair():
    torch.manual_seed(0)
    return {"one": small_cnn(width=4), "other": small_cnn(width=6)}


def test_each_student_moves_by_the_gradient_of_its_own_loss():
    data, students, expected = Digits(num_samples=60).load(seed=0), pair(), pair()
    batch = data.batches(batch_size=16).batch(0)
    for name, student in expected.items():
        student.train()
        outputs = {other: net(batch["input"]) for other, net in pair().items()}
        mine = student(batch["input"])
        loss = torch.nn.functional.cross_entropy(mine, batch["target"])
        for other, logits in outputs.items():
            if other != name:
                log_p, log_q = logits.detach().log_softmax(1), mine.log_softmax(1)
                loss = loss + (log_p.exp() * (log_p - log_q)).sum(1).mean()
        loss.backward()
        SGD(student.parameters()).step()
    train_mutual(
        students, data, task=TASK, steps=1, training=TrainingConfig(optimizer=SGD, batch_size=16), callbacks=[]
    )
    for name, student in students.items():
        for parameter, wanted in zip(student.parameters(), expected[name].parameters(), strict=True):
            np.testing.assert_allclose(parameter.detach(), wanted.detach(), rtol=1e-5, atol=1e-7)


def test_both_are_saved_and_come_back_in_eval_mode(tmp_path):
    students = pair()
    training = TrainingConfig(optimizer=SGD, batch_size=16)
    run = train_mutual(
        students, Digits(num_samples=60).load(), task=TASK, steps=4, training=training, run_dir=tmp_path, callbacks=[]
    )
    assert run.student.students() == students
    assert not any(student.training for student in students.values())
    fresh = limbeck.models.load_weights(small_cnn(width=6), str(tmp_path / "checkpoint" / "other.safetensors"))
    assert torch.equal(fresh.fc.weight, students["other"].fc.weight)


def test_a_teacher_may_distill_into_both():
    terms = {"target": CrossEntropyLoss(), "kd": KDLoss()}
    run = train_mutual(
        pair(), Digits(num_samples=60).load(), objective=terms, weights={"kd": schedules.linear(1.0, 0.0)},
        teachers={"big": FrozenTeacher(small_cnn(width=8))}, task=TASK, steps=2,
        training=TrainingConfig(optimizer=SGD, batch_size=16), callbacks=[],
    )  # fmt: skip
    assert run.steps == 2
    assert np.isfinite(run.history[-1]["loss/kd"])


def test_mistakes_are_one_sentence():
    data, one = Digits(num_samples=60).load(), small_cnn(width=4)
    with pytest.raises(LimbeckError, match="at least two students, got one"):
        train_mutual({"one": one}, data, task=TASK, steps=1)
    with pytest.raises(LimbeckError, match="'other' shares weights with another one"):
        train_mutual({"one": one, "other": one}, data, task=TASK, steps=1)
    with pytest.raises(LimbeckError, match="cannot be called 'forward'"):
        PeerStudents({"one": one, "forward": small_cnn(width=4)})
    with pytest.raises(LimbeckError, match="leave it none for peers"):
        train_mutual(pair(), data, task=TASK, steps=1, training=TrainingConfig(batch_pairing="repeat_previous"))
    with pytest.raises(LimbeckError, match="PeerStudents has no forward pass"):
        PeerStudents(pair())(torch.rand(1, 1, 8, 8))
    with pytest.raises(LimbeckError, match="weights names 'sof', which is no loss"):
        train_mutual(pair(), data, weights={"sof": 1.0}, task=TASK, steps=1)
