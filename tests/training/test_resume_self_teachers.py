"""Self-distillation that was stopped goes on and ends with the same bits: weights, heads, averages and memories."""

import os
import signal
from functools import partial

import pytest
import torch

import limbeck
from limbeck.data import Digits, Views, affine
from limbeck.distiller import Peers, Together
from limbeck.losses import ClassWise, CrossEntropy, DeepToShallow, Mutual, PriorPrediction, SoftTarget
from limbeck.models import small_cnn
from limbeck.teachers import Averaged, LastBatch, LastPrediction
from limbeck.training import Stopped, Training

TAPS = {"student": {"low": "block1", "deep": "block3"}}
TASK = limbeck.tasks.Classification(10)
KINDS = {
    "average": ({"soft": SoftTarget()}, lambda: {"mean": Averaged(decay=0.8)}, {}, {"accumulate": 2}),
    "prediction": ({"prior": PriorPrediction()}, lambda: {"before": LastPrediction()}, {}, {}),
    "again": ({"soft": SoftTarget(tau=3.0)}, lambda: {"last": LastBatch()}, {}, {"sampling": "again"}),
    "classmates": ({"mates": ClassWise()}, dict, {}, {"sampling": "classmates"}),
    "heads": (None, dict, TAPS, {}),
    "peers": ({"mutual": Mutual()}, dict, {}, {}),
}


def trained(kind, out, *, kill=None, resume=False):
    terms, teachers, taps, settings = KINDS[kind]
    torch.manual_seed(0)
    student, task = small_cnn(width=4), TASK
    first = student
    if kind == "peers":
        student, task = Peers({"a": student, "b": small_cnn(width=6)}), Together(TASK, 2)
    terms = {"heads": DeepToShallow(("low",), deepest="deep")} if terms is None else terms
    distiller = limbeck.Distiller(
        student, teachers(), objective={"truth": CrossEntropy(), **terms}, taps=taps, task=task
    )
    calls = []

    def stop(*_):
        calls.append(1)
        if kill is not None and len(calls) == kill:
            os.kill(os.getpid(), signal.SIGTERM)

    first.register_forward_hook(stop)
    training = Training(optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9), batch=16, **settings)
    data = Digits(take=60, views=Views((affine(),))).load(seed=0)
    limbeck.fit(distiller, data, steps=13, training=training, out=out, resume=resume, watchers=[])
    states = [distiller.student.state_dict(), distiller.objective.state_dict()]
    states += [t.state_dict() for t in distiller.teachers.values() if hasattr(t, "state_dict")]
    return [tensor for state in states for tensor in state.values()]


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_resumed_it_ends_with_the_same_bits(kind, tmp_path):
    whole = trained(kind, tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(kind, tmp_path / "cut", kill=12)
    found = trained(kind, tmp_path / "cut", resume=True)
    assert len(found) == len(whole)
    assert all(torch.equal(one, other) for one, other in zip(found, whole, strict=True))


def test_a_checkpoint_of_other_sampling_is_refused(tmp_path):
    trained("classmates", tmp_path)
    terms, teachers, taps, _ = KINDS["classmates"]
    try:
        KINDS["classmates"] = (terms, teachers, taps, {"sampling": "again"})
        with pytest.raises(limbeck.LimbeckError, match="its batch was '16 classmates' and is now '16 again'"):
            trained("classmates", tmp_path, resume=True)
    finally:
        KINDS["classmates"] = (terms, teachers, taps, {"sampling": "classmates"})
