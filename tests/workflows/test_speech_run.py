"""Spoken digits run by a recipe: phoneme error rate, lower is better, with cache, report and export."""

from __future__ import annotations

import json

import pytest
import torch
from tests.data.test_speech_folder import write_folder
from tests.data.test_spoken_digits import write_clips

from limbeck.models import load_weights
from limbeck.recipe import find_recipe, load_recipe
from limbeck.teachers import FrozenTeacher, onnx
from limbeck.workflows._job.job import Job
from limbeck.workflows.distill.run import distill


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("speech")
    clips = write_clips(root / "fsdd", takes=7)
    changes = [
        f"data.root={clips}", "data.num_labeled=20", "data.mels=8", "teachers.teacher.width=8", "student.width=4",
        "teacher_training.steps=2", "stages.0.steps=2", "training.batch_size=4", f"cache.root={root / 'cache'}",
    ]  # fmt: skip
    distill(load_recipe(find_recipe("spoken_digits"), changes), run_dir=root / "run", callbacks=[])
    return root / "run"


def test_spoken_digits_run_from_recipe_to_report(run):
    record = json.loads((run / "record.json").read_text())
    assert record["primary_metric"] == "per"
    assert record["metric_info"]["per"]["higher_is_better"] is False
    for model in record["models"].values():
        assert model["test"]["num_samples"] == 100
        low, high = model["test"]["interval"]["per"]
        assert low <= model["test"]["metrics"]["per"] <= high
    assert record["cache"]["teacher"]["misses"] > 0
    assert "Phoneme error rate" in (run / "report.html").read_text()
    assert record["examples"]


def test_a_folder_of_clips_runs_from_recipe_to_report(tmp_path):
    folder = write_folder(tmp_path / "speech", more=["0.wav\t\ttrain\t"])
    changes = [
        f"data.root={folder}", "data.mels=8",
        "data.speeds=[1]", "teachers.teacher.width=8", "teachers.teacher.depth=1", "student.width=4",
        "teacher_training.epochs=1", "stages.0.epochs=1", f"cache.root={tmp_path / 'cache'}", "task.primary=wer",
        "task.num_beams=2",
    ]  # fmt: skip
    record = distill("speech_folder", changes, run_dir=tmp_path / "run", callbacks=[])
    assert record["primary_metric"] == "wer"
    assert set(record["models"]["distilled"]["test"]["metrics"]) == {"wer", "cer", "sequence_accuracy"}
    assert "Word error rate" in (tmp_path / "run" / "report.html").read_text()
    assert record["export"]["onnx"]["max_abs_difference"] < 1e-4


@pytest.mark.parametrize("frames", [slice(None), slice(0, 30)])
def test_the_exported_student_is_a_teacher_of_frames_and_lengths(run, frames):
    job = Job.from_run(run)
    student = load_weights(job.build_student(), run)
    teacher = FrozenTeacher(onnx(run / "student.onnx", input_type="pixels", normalization=job.data.normalization))
    batch = next(job.data.validation_batches())
    batch["input"] = batch["input"][:, frames]
    batch["input_length"] = batch["input_length"].clamp(max=batch["input"].shape[1])
    outputs, expected = teacher.predict(batch, job.task), FrozenTeacher(student).predict(batch, job.task)
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-4, atol=1e-4)
    assert torch.equal(outputs.by_sample["frame_length"], expected.by_sample["frame_length"])
