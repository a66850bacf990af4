"""Gradient norms are correct, measured rarely and without side effects, and moving values resume to the same bits."""

from __future__ import annotations

import hashlib
import signal
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck.data import Digits
from limbeck.distiller import GradNorm, LossRatioWeighting, UncertaintyWeighting
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.losses.temperature import Learned, LossAdaptive, PerSample
from limbeck.training import TrainingConfig
from limbeck.training.checkpoint import TrainingInterrupted
from limbeck.training.gradient_norms import compute_gradient_metrics, find_supervised_loss, is_measurement_step

TASK = limbeck.tasks.Classification(classes=10)
SETTINGS = TrainingConfig(
    optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9), batch_size=32, checkpoint_every_seconds=1000.0
)


@pytest.fixture(scope="module")
def data():
    return Digits(num_labeled=100, num_samples=200).load(seed=0)


def distilling(*, terms=None, weights=None, stop_at=None):
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    if stop_at is not None:
        calls = iter(range(10**6))
        student.register_forward_hook(
            lambda module, *_: (
                signal.raise_signal(signal.SIGTERM) if module.training and next(calls) == stop_at else None
            )
        )
    terms = {"truth": CrossEntropyLoss(), "soft": KDLoss()} if terms is None else terms
    return limbeck.Distiller(student, {"big": teacher}, objective=terms, weights=weights, task=TASK)


def moving():
    return {
        "truth": CrossEntropyLoss(), "stalls": KDLoss(temperature=LossAdaptive(rate=0.2, high=9.0)),
        "hard": KDLoss(temperature=Learned(granularity="sample", warmup_fraction=0.2)),
    }  # fmt: skip


def bits(distiller):
    digest = hashlib.sha256()
    for tensor in (*distiller.student.state_dict().values(), *distiller.objective.state_dict().values()):
        digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(
    "balance", [UncertaintyWeighting, GradNorm, LossRatioWeighting], ids=lambda kind: kind.__name__
)
def test_what_moves_goes_on_after_a_stop_and_ends_with_the_same_bits(data, tmp_path, balance):
    whole = distilling(terms=moving(), weights=balance())
    limbeck.training.fit(whole, data, steps=30, training=SETTINGS, callbacks=[])
    half = distilling(terms=moving(), weights=balance(), stop_at=13)
    with pytest.raises(TrainingInterrupted):
        limbeck.training.fit(half, data, steps=30, training=SETTINGS, run_dir=tmp_path, callbacks=[])
    rest = distilling(terms=moving(), weights=balance())
    limbeck.training.fit(rest, data, steps=30, training=SETTINGS, run_dir=tmp_path, resume=True, callbacks=[])
    assert bits(rest) == bits(whole)
    assert float(rest.objective.losses["stalls"].temperature.temperature) != 4.0, "the temperature never moved"


def test_looking_changes_no_bit_of_the_training(data, monkeypatch):
    ends = []
    for look in (True, False):
        if not look:
            monkeypatch.setattr(
                sys.modules["limbeck.training.gradient_norms"], "is_measurement_step", lambda *_, **__: False
            )
        distiller = distilling()
        run = limbeck.training.fit(distiller, data, steps=20, training=SETTINGS, callbacks=[])
        ends.append(bits(distiller))
        assert ("grad_norm_ratio/soft" in run.history[-1]) is look
    assert ends[0] == ends[1]


def test_the_gradient_norm_is_that_of_the_weighted_loss(data):
    distiller = distilling(weights={"soft": 3.0}).eval()
    batch = data.batches(batch_size=32).batch(0)
    result = compute_gradient_metrics(distiller, distiller(batch))
    norms = {}
    for name, weight in (("truth", 1.0), ("soft", 3.0)):
        distiller.zero_grad()
        (weight * distiller.objective.losses[name](distiller.forward_context(batch))).backward()
        flat = np.concatenate([p.grad.double().numpy().ravel() for p in distiller.student.parameters()])
        norms[name] = float(np.linalg.norm(flat))
    assert result["grad_norm/truth"] == pytest.approx(norms["truth"], rel=1e-5)
    assert result["grad_norm/soft"] == pytest.approx(norms["soft"], rel=1e-5)
    assert result["grad_norm_ratio/soft"] == pytest.approx(norms["soft"] / norms["truth"], rel=1e-5)


def test_looking_leaves_no_gradient_behind(data):
    distiller = distilling()
    compute_gradient_metrics(distiller, distiller(data.batches(batch_size=32).batch(0)))
    assert all(parameter.grad is None for parameter in distiller.parameters())


def test_one_term_is_compared_with_nothing(data):
    run = limbeck.training.fit(distilling(terms={"soft": KDLoss()}), data, steps=8, training=SETTINGS, callbacks=[])
    assert not [name for name in run.history[-1] if name.startswith(("grad_norm", "loss_share"))]


def test_looks_are_seldom():
    result = [step for step in range(1, 2001) if is_measurement_step(step, steps_per_epoch=17, last_step=2000)]
    assert result[0] == 17
    assert result[-1] == 2000
    assert min(np.diff(result[:-1])) >= 200


def test_the_supervised_loss_is_identified():
    assert find_supervised_loss({"soft": KDLoss(), "labels": CrossEntropyLoss()}) == "labels"
    assert find_supervised_loss({"soft": KDLoss(), "target": KDLoss()}) is None
    assert find_supervised_loss({"soft": KDLoss()}) is None


def test_every_epoch_tells_temperatures_weights_and_shares(data):
    terms = {
        "truth": CrossEntropyLoss(),
        "soft": KDLoss(temperature=PerSample(confident=6.0, uncertain=3.0)),
        "plain": KDLoss(),
    }
    run = limbeck.training.fit(distilling(terms=terms), data, epochs=3, training=SETTINGS, callbacks=[])
    for row in run.history:
        assert 3.0 <= row["temperature_min/soft"] < row["temperature/soft"] < row["temperature_max/soft"] <= 6.0
        assert row["temperature/plain"] == row["temperature_min/plain"] == row["temperature_max/plain"] == 4.0
        assert sum(row[f"loss_share/{name}"] for name in terms) == pytest.approx(1.0)
        assert row["loss_share/soft"] == pytest.approx(row["loss/soft"] / row["loss"])
    assert 0.0 < run.history[0]["teacher_entropy/soft"] <= 1.0
