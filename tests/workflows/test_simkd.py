"""SimKD's student is measured, kept, exported and loaded again with the teacher's classifier behind its projector."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import limbeck
from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.data import Digits
from limbeck.distiller import EarlyExit, deployment_model
from limbeck.losses import CrossEntropyLoss, KDLoss, SimKDLoss
from limbeck.models import small_cnn
from limbeck.training import TrainingConfig
from limbeck.workflows import distill, study

RECIPE = """
name: tiny
task: Classification
data: {use: Digits, num_labeled: 300}
teachers: {big: {use: small_cnn, width: 12}}
student: {use: small_cnn, width: 4}
teacher_training: {steps: 150, objective: {target: CrossEntropyLoss}}
stages:
  - name: only
    steps: 300
    objective: {reuse: {use: SimKDLoss, layer: late}}
    feature_layers: {student: {late: block3}, big: {late: block3}}
training: {optimizer: {use: AdamW, lr: 0.01}, batch_size: 32}
num_threads: 1
export: {to: [onnx]}
"""
TASK = limbeck.tasks.Classification(classes=10)
LAYERS = {"student": {"late": "block3"}, "big": {"late": "block3"}}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("simkd") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def done(file):
    out = file.parent / "run"
    return out, distill(file, run_dir=out, callbacks=[])


def distilling(**terms):
    torch.manual_seed(0)
    return limbeck.Distiller(
        small_cnn(width=4), {"big": small_cnn(width=12)}, objective={"reuse": SimKDLoss("late"), **terms},
        feature_layers=LAYERS, task=TASK,
    )  # fmt: skip


def test_the_student_uses_the_classifier_of_the_teacher(done):
    out, record = done
    models = record["models"]
    assert models["distilled"]["test"]["metrics"]["accuracy"] > 0.7, (
        "its own classifier has learned nothing and guesses"
    )
    assert models["distilled"]["parameters"] > models["baseline"]["parameters"], "the projector belongs to the cost"
    kept, taught = load_file(out / "student.safetensors"), load_file(out / "checkpoint" / "big.safetensors")
    assert torch.equal(kept["head.classifier.weight"], taught["fc.weight"])


def test_the_run_is_measured_and_exported_again_from_its_folder(done, capsys):
    out, record = done
    assert main(["evaluate", str(out)]) == 0
    assert "the same" in capsys.readouterr().out
    assert record["export"]["onnx"]["label_agreement"] == 1.0
    assert main(["export", str(out), "--to", str(out / "again.onnx")]) == 0
    assert main(["evaluate", str(out), "--noise", "--num-samples", "50"]) == 0


def test_a_study_keeps_it_too(file, tmp_path):
    change = ["study={seeds: 1, baselines: [student_only]}", "stages.0.steps=250", "export.to=[]"]
    result = study(file, change, output_dir=tmp_path / "study", callbacks=[])
    variants = result["results"]["variants"]
    assert variants["distilled"]["accuracy"]["mean"] > 0.5
    trial = json.loads((tmp_path / "study" / "trials" / "distilled" / "0" / "record.json").read_text())
    assert trial["models"]["distilled"]["parameters"] > 0


def test_validation_while_training_is_of_what_is_deployed():
    data = Digits(num_labeled=300).load(seed=0)
    distiller = distilling()
    run = limbeck.fit(distiller, data, steps=4, training=TrainingConfig(batch_size=32), callbacks=[])
    assert isinstance(run.student, EarlyExit)
    batch = next(iter(data.validation_batches()))
    right = (run.student(batch["input"]).argmax(1) == batch["target"]).float().mean()
    assert 0 <= float(right) <= 1
    with torch.no_grad():
        again = deployment_model(distiller).eval()(batch["input"])
    torch.testing.assert_close(again, run.student(batch["input"]).detach())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"keep_weights": "best"}, "training.keep_weights best keeps the student's own weights"),
        ({"ema_decay": 0.9}, "training.ema_decay keeps the student's own weights"),
    ],
)
def test_what_would_keep_half_of_it_is_refused(change, says):
    data = Digits(num_labeled=100, num_samples=120).load(seed=0)
    with pytest.raises(LimbeckError, match=says):
        limbeck.fit(distilling(), data, steps=2, training=TrainingConfig(batch_size=32, **change), callbacks=[])


def test_who_lends_the_classifier_must_be_known():
    with pytest.raises(LimbeckError, match="a student has one classifier"):
        limbeck.fit(distilling(other=SimKDLoss("late")), Digits(num_samples=60).load(), steps=1, callbacks=[])
    both = limbeck.Distiller(
        small_cnn(width=4), {"big": small_cnn(width=12), "other": small_cnn(width=12)},
        objective={"target": CrossEntropyLoss(), "kd": KDLoss(), "reuse": SimKDLoss("late", teacher="big")},
        feature_layers={**LAYERS, "other": {"late": "block3"}}, task=TASK,
    )  # fmt: skip
    limbeck.fit(both, Digits(num_samples=60).load(), steps=1, callbacks=[])
    assert isinstance(deployment_model(both), EarlyExit)
