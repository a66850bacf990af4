"""The recipe bccd on a few small images: cached teacher, mAP with an interval, curves and examples in the report."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from limbeck.workflows import distill

DATA = Path(os.environ.get("LIMBECK_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "bccd").is_dir(), reason="BCCD is not in $LIMBECK_DATA")
def test_the_recipe_runs_its_first_steps(tmp_path):
    settings = [
        f"data.root={DATA}", "data.size=[48, 64]", "data.num_samples=8", "data.val_split=0.05", "data.test_split=0.05",
        "teachers.teacher.backbone=mobilenet_v3_small", "teacher_training.epochs=null", "teacher_training.steps=1",
        "stages.0.epochs=null", "stages.0.steps=2", "training.batch_size=4", "export.to=[]", "baselines=[]",
        f"cache.root={tmp_path / 'cache'}", "task.cached_rows=20", "task.score_threshold=0.0",
    ]  # fmt: skip
    record = distill("bccd", settings, run_dir=tmp_path / "run", callbacks=[])
    test = record["models"]["distilled"]["test"]
    assert set(test["metrics"]) >= {"map", "map_50", "map_75", "map_small"}
    assert test["interval"]["map"][0] <= test["metrics"]["map"] <= test["interval"]["map"][1]
    assert len(test["details"]["precision_at_recalls"]) == 3
    assert record["cache"]["teacher"]["misses"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Precision against recall" in page
    assert "missed (yellow)" in page
