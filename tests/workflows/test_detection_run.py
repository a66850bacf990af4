"""The recipe bccd on a few small images: cached teacher, mAP with an interval, curves and examples in the report."""

from __future__ import annotations

import numpy as np
from PIL import Image

from limbeck.workflows import distill

OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def write_voc(root, num_images=16):
    rng = np.random.default_rng(0)
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for i in range(num_images):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(root / "JPEGImages" / f"{i:02d}.jpg")
        boxes = [OBJECT.format(name, 4 + i, 5, 30 + i, 28) for name in ("cell", "plate", "other")[: 1 + i % 3]]
        size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
        xml = f"<annotation>{size}{''.join(boxes)}</annotation>"
        (root / "Annotations" / f"{i:02d}.xml").write_text(xml)


def test_the_recipe_runs_its_first_steps(tmp_path):
    write_voc(tmp_path / "bccd" / "BCCD")
    settings = [
        f"data.root={tmp_path}", "data.size=[48, 64]", "data.val_split=0.25", "data.test_split=0.25",
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
