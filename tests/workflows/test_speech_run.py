"""Spoken digits run by a recipe: phoneme error rate, lower is better, with cache, report and export."""

from __future__ import annotations

import json

from tests.data.test_spoken_digits import write_clips

from limbeck.recipe import find_recipe, load_recipe
from limbeck.workflows.distill.run import distill


def test_spoken_digits_run_from_recipe_to_report(tmp_path):
    clips = write_clips(tmp_path / "fsdd", takes=7)
    changes = [
        f"data.root={clips}", "data.num_labeled=20", "data.mels=8", "teachers.teacher.width=8", "student.width=4",
        "teacher_training.steps=2", "stages.0.steps=2", "training.batch_size=4", f"cache.root={tmp_path / 'cache'}",
    ]  # fmt: skip
    record = distill(load_recipe(find_recipe("spoken_digits"), changes), run_dir=tmp_path / "run", callbacks=[])
    assert record["primary_metric"] == "per"
    assert record["metric_info"]["per"]["higher_is_better"] is False
    for model in record["models"].values():
        assert model["test"]["num_samples"] == 100
        low, high = model["test"]["interval"]["per"]
        assert low <= model["test"]["metrics"]["per"] <= high
    assert record["cache"]["teacher"]["misses"] > 0
    assert (tmp_path / "run" / "student.onnx").exists()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Phoneme error rate" in page
    assert json.loads((tmp_path / "run" / "record.json").read_text())["examples"]
