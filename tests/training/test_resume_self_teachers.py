"""Self-distillation that was stopped goes on and ends with the same bits: weights, heads, averages and memories."""

import os
import signal
from functools import partial

import pytest
import torch

import limbeck
from limbeck.data import Augmentation, Digits, affine
from limbeck.distiller import MutualTask, PeerStudents
from limbeck.losses import BYOTLoss, CrossEntropyLoss, CSKDLoss, DMLLoss, KDLoss, PSKDLoss
from limbeck.models import small_cnn
from limbeck.teachers import EMATeacher, PreviousBatchTeacher, PreviousEpochTeacher
from limbeck.training import TrainingConfig, TrainingInterrupted

TAPS = {"student": {"low": "block1", "deep": "block3"}}
TASK = limbeck.tasks.Classification(10)
KINDS = {
    "average": ({"soft": KDLoss()}, lambda: {"mean": EMATeacher(decay=0.8)}, {}, {"grad_accum_steps": 2}),
    "prediction": ({"prior": PSKDLoss()}, lambda: {"before": PreviousEpochTeacher()}, {}, {}),
    "repeat_previous": (
        {"soft": KDLoss(temperature=3.0)},
        lambda: {"last": PreviousBatchTeacher()},
        {},
        {"batch_pairing": "repeat_previous"},
    ),
    "same_class": ({"mates": CSKDLoss()}, dict, {}, {"batch_pairing": "same_class"}),
    "heads": (None, dict, TAPS, {}),
    "peers": ({"mutual": DMLLoss()}, dict, {}, {}),
}


def trained(kind, out, *, kill=None, resume=False):
    terms, teachers, taps, settings = KINDS[kind]
    torch.manual_seed(0)
    student, task = small_cnn(width=4), TASK
    first = student
    if kind == "peers":
        student, task = PeerStudents({"a": student, "b": small_cnn(width=6)}), MutualTask(TASK, 2)
    terms = {"heads": BYOTLoss(("low",), deepest_layer="deep")} if terms is None else terms
    distiller = limbeck.Distiller(
        student, teachers(), objective={"truth": CrossEntropyLoss(), **terms}, feature_layers=taps, task=task
    )
    calls = []

    def stop(*_):
        calls.append(1)
        if kill is not None and len(calls) == kill:
            os.kill(os.getpid(), signal.SIGTERM)

    first.register_forward_hook(stop)
    training = TrainingConfig(optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9), batch_size=16, **settings)
    data = Digits(num_samples=60, augment=Augmentation((affine(),))).load(seed=0)
    limbeck.training.fit(distiller, data, steps=13, training=training, run_dir=out, resume=resume, callbacks=[])
    states = [distiller.student.state_dict(), distiller.objective.state_dict()]
    states += [t.state_dict() for t in distiller.teachers.values() if hasattr(t, "state_dict")]
    return [tensor for state in states for tensor in state.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_it_ends_with_the_same_bits(kind, tmp_path):
    whole = trained(kind, tmp_path / "whole")
    with pytest.raises(TrainingInterrupted):
        trained(kind, tmp_path / "cut", kill=12)
    result = trained(kind, tmp_path / "cut", resume=True)
    assert len(result) == len(whole)
    assert all(torch.equal(one, other) for one, other in zip(result, whole, strict=True))


def test_a_checkpoint_of_other_sampling_is_refused(tmp_path):
    trained("same_class", tmp_path)
    terms, teachers, taps, _ = KINDS["same_class"]
    try:
        KINDS["same_class"] = (terms, teachers, taps, {"batch_pairing": "repeat_previous"})
        with pytest.raises(
            limbeck.LimbeckError, match="its batch_size was '16 same_class' and is now '16 repeat_previous'"
        ):
            trained("same_class", tmp_path, resume=True)
    finally:
        KINDS["same_class"] = (terms, teachers, taps, {"batch_pairing": "same_class"})
