"""The recipe bccd on a few small images: cached teacher, mAP with an interval, curves and examples in the report."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck import LimbeckError
from limbeck.recipe import find_recipe, load_recipe
from limbeck.workflows import distill
from limbeck.workflows._job.job import DataCache, Job

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
        "teachers.teacher.backbone=mobilenet_v3_small", "teachers.teacher.pretrained=false",
        "teacher_training.epochs=null", "teacher_training.steps=1", "stages.0.epochs=null", "stages.0.steps=2",
        "training.batch_size=4", "export.to=[]", "baselines=[]", f"cache.root={tmp_path / 'cache'}",
        "task.cached_rows=20", "task.score_threshold=0.0",
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


DETECTOR = "backbone: mobilenet_v3_small, levels: 3, fpn_channels: 32"
RECIPE = f"""
task: Detection
data: {{use: VOCDetection, name: voc, size: [48, 64], val_split: 0.25, test_split: 0.25}}
teachers:
  retina: {{use: detector, {DETECTOR}}}
  fcos: {{use: detector, name: fcos, {DETECTOR}}}
student: {{use: detector, {DETECTOR}}}
teacher_training: {{steps: 1, objective: {{target: DetectionLoss}}}}
stages:
  - name: distill
    steps: 2
    objective:
      target: DetectionLoss
      classes: {{use: BinaryKDLoss, teacher: retina}}
      features: {{use: FitNetLoss, layer: p3, teacher: fcos}}
    feature_layers: {{student: {{p3: "backbone.fpn#0"}}, fcos: {{p3: "backbone.fpn#0"}}}}
training: {{optimizer: {{use: SGD, lr: 0.001}}, batch_size: 2}}
baselines: []
num_threads: 1
"""


@pytest.fixture(scope="module")
def rehearse(tmp_path_factory):
    folder, data_cache = tmp_path_factory.mktemp("run"), DataCache()
    write_voc(folder / "voc")

    def run(*overrides):
        recipe = load_recipe(RECIPE, [f"data.root={folder}", *overrides])
        Job.from_recipe(recipe, folder, data_cache=data_cache).validate()

    return run


def test_losses_that_do_not_fit_are_refused_before_training(rehearse):
    rehearse()
    with pytest.raises(LimbeckError, match=re.escape("stages.0: logits of different shapes cannot be combined, got {")):
        rehearse("stages.0.objective.classes={use: BinaryKDLoss}")
    with pytest.raises(LimbeckError, match=r"stages.0: the loss 'classes' \(KDLoss\) needs a softmax .*BinaryKDLoss"):
        rehearse("stages.0.objective.classes={use: KDLoss, teacher: retina}")


def write_coco(root):
    rng, categories = np.random.default_rng(0), [{"id": 3 * i + 1, "name": f"class{i:02d}"} for i in range(80)]
    for name, count in (("train2017", 6), ("val2017", 2)):
        (root / name).mkdir(parents=True)
        content = {"images": [], "annotations": [], "categories": categories}
        for i in range(count):
            file = f"{i:012d}.jpg"
            Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(root / name / file)
            content["images"].append({"id": i, "file_name": file, "height": 48, "width": 64})
            for crowd in (0, 1):
                box = {"bbox": [4 + i, 5, 24, 20 + 10 * crowd], "iscrowd": crowd, "area": 1}
                box |= {"id": 2 * i + crowd, "image_id": i, "category_id": 3 * (i % 80) + 1}
                content["annotations"].append(box)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))


def test_the_full_scale_recipe_of_coco_rehearses_on_a_few_images(tmp_path):
    write_coco(tmp_path / "coco")
    settings = [
        f"data.root={tmp_path}", "data.size=[64, 64]", "data.val_split=0.4", "teachers.teacher.pretrained=false",
        "teachers.teacher.backbone=mobilenet_v3_small", "teachers.teacher.fpn_channels=64", "student.pretrained=false",
        "student.backbone=mobilenet_v3_small", "student.fpn_channels=32", "teacher_training.epochs=1",
        "stages.0.epochs=2", "training.batch_size=2", "training.precision=32-true", "training.num_workers=0",
        "baselines=[]", "export.to=[]", "num_threads=1",
    ]  # fmt: skip
    job = Job.from_recipe(load_recipe(find_recipe("coco_full"), settings), tmp_path / "run")
    job.validate()
    assert (job.task.classes, len(job.data.train), len(job.data.validation), len(job.data.test)) == (80, 4, 2, 2)
    fields = job.data.train.read_fields(torch.arange(4))
    assert fields["num_boxes"].tolist() == [1, 1, 1, 1]
    assert fields["ignored"].tolist() == [[0, 2]] * 4  # crowds
