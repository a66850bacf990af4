"""`limbeck distill` of the recipe camvid on small images with masks: record, report, cache and exported network."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from limbeck.workflows import distill


def write_folders(root):
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 6)):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir()
        for i in range(count):
            mask = rng.integers(0, 3, (4, 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
            mask[:2] = 9
            Image.fromarray(np.stack([80 * mask] * 3, 2)).save(root / split / f"{i}.png")
            Image.fromarray(mask).save(root / f"{split}annot" / f"{i}.png")


def test_the_recipe_camvid_runs_with_a_cache(tmp_path):
    write_folders(tmp_path)
    settings = [
        f"data.root={tmp_path}", "data.classes=[sky,road,car]", "data.ignore_index=9", "data.size=null",
        "teachers.teacher.width=4", "teachers.teacher.depth=2", "student.width=2", "student.depth=2",
        "teacher_training.steps=3", "stages.0.steps=4", "training.batch_size=4", f"cache.root={tmp_path / 'cache'}",
    ]  # fmt: skip
    distill("camvid", settings, run_dir=tmp_path / "run", callbacks=[])
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["primary_metric"] == "miou"
    for model in record["models"].values():
        test = model["test"]
        assert test["num_samples"] == 6
        assert set(test["metrics"]) == {"miou", "pixel_accuracy", "mean_class_accuracy"}
        low, high = test["interval"]["miou"]
        assert low <= test["metrics"]["miou"] <= high
        values = [entry["value"] for entry in test["per_class"] if entry["value"] is not None]
        assert test["metrics"]["miou"] == pytest.approx(np.mean(values))
    assert record["verdict"]["metric"] == "miou"
    assert (tmp_path / "run" / "student.onnx").exists()
    assert (tmp_path / "run" / "report.html").exists()
