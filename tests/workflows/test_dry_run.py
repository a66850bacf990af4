"""A dry run takes whatever augmentation a recipe has."""

from __future__ import annotations

import numpy as np
import pytest

from limbeck.core.errors import LimbeckError
from limbeck.models import save_weights
from limbeck.recipe import load_recipe
from limbeck.teachers.cache.cache_registry import list_caches
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.teachers import make_recipe_teacher

RECIPE = """
task: Classification
data: {{use: Digits, num_labeled: 100, num_samples: 200, augment: {views}}}
teachers: {{big: {{use: small_cnn, width: 8{teacher}}}}}
student: {{use: small_cnn, width: 4}}
teacher_training: {{steps: 4, objective: {{target: CrossEntropyLoss}}}}
stages:
  - {{name: distill, steps: 4, objective: {{target: CrossEntropyLoss, kd: {objective}}}}}
training: {{batch_size: {batch}}}
cache: {cache}
"""


def job(tmp_path, views, batch=16, objective="KDLoss", cache="null", teacher=""):
    path = tmp_path / "tiny.yaml"
    if cache != "null":
        cache = cache.replace("{", f"{{root: {tmp_path / 'outputs'}, ").replace(", }", "}")
    path.write_text(RECIPE.format(views=views, batch=batch, objective=objective, cache=cache, teacher=teacher))
    return Job.from_recipe(load_recipe(path), tmp_path / "run")


@pytest.mark.parametrize(
    "views",
    [
        "{use: default_augmentation, crop: 1, num_views: 8, repeats: 4}",
        "{use: Augmentation, transforms: [affine, {use: torchvision, name: RandomErasing}, mixup, cutmix]}",
    ],
)
def test_a_stage_is_run_dry_with_its_augmentation(tmp_path, views):
    made = job(tmp_path, views)
    made.validate()
    run = made.train_stages(
        "distilled", made.build_student(), {"big": made.build_teacher("big")}, resume=False, callbacks=[]
    )
    assert run.steps == 4


def test_a_batch_that_the_augmentation_does_not_fit_is_refused_before_training(tmp_path):
    with pytest.raises(LimbeckError, match=r"batch_size must be at least 1 and a multiple of repeats .4., got 18"):
        job(tmp_path, "{use: default_augmentation, crop: 1, repeats: 4}", batch=18).validate()


@pytest.mark.parametrize(
    ("loss", "cache"),
    [
        ("ReverseKLLoss", "{top_k: 3, tail: renormalized}"),
        ("LogitMSELoss", "{top_k: 9, tail: renormalized}"),
        ("DKDLoss", "{top_k: 1, tail: renormalized}"),
        ("NKDLoss", "{top_k: 1, tail: renormalized}"),
    ],
)
def test_a_loss_that_truncated_outputs_make_infinite_is_refused_before_training(tmp_path, loss, cache):
    made = job(tmp_path, "{use: Augmentation}", objective=loss, cache=cache)
    with pytest.raises(LimbeckError, match=r"tail: renormalized .* the loss 'kd' of stage 'distill' is not finite"):
        made.validate()
    assert not list(tmp_path.glob("outputs*"))


@pytest.mark.parametrize(
    ("loss", "cache"),
    [
        ("KDLoss", "{top_k: 1, tail: renormalized}"),
        ("{use: KDLoss, temperature: {use: LogitStandardization}}", "{top_k: 3, tail: renormalized}"),
        ("DKDLoss", "{top_k: 2, tail: renormalized}"),
        ("NKDLoss", "{top_k: 2, tail: renormalized}"),
        ("ReverseKLLoss", "{top_k: 1}"),
        ("LogitMSELoss", "{top_k: 1, tail: spread}"),
        ("LogitMSELoss", "{}"),
    ],
)
def test_a_loss_that_truncated_outputs_leave_finite_is_trained(tmp_path, loss, cache):
    job(tmp_path, "{use: Augmentation}", objective=loss, cache=cache).validate()


def test_stored_outputs_of_another_teacher_are_refused_before_training(tmp_path):
    made = job(tmp_path, "{use: Augmentation}", cache="{}")
    save_weights(made.build_teacher("big"), tmp_path / "big.safetensors")
    made = job(tmp_path, "{use: Augmentation}", cache="{}", teacher=f", weights: {tmp_path / 'big.safetensors'}")
    cached = make_recipe_teacher(made, "big", made.build_teacher("big"), None)
    for _ in cached.populate(made.task):
        pass
    made.validate()
    folder = cached.stats()["folder"]
    store = list_caches(tmp_path / "outputs")[0].open_store()
    indices = np.arange(len(made.data.train))
    records, _, _ = store.read(indices)
    records.fixed[:, 4:] = np.roll(records.fixed[:, 4:], 2, axis=1)
    store.write(indices, records)
    with pytest.raises(LimbeckError, match=f"the cache {folder} holds other outputs than the teacher 'big'"):
        made.validate()


PLUGIN = """
from torch import nn
from limbeck.models import small_cnn

class Student(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.body = small_cnn(classes=classes, width=4)

    def forward(self, images):
        if self.training:
            raise ValueError("fails in train mode")
        return self.body(images)
"""


def test_a_stage_is_run_dry_in_train_mode(tmp_path, monkeypatch, trusted_plugins):
    (tmp_path / "only_eval.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    made = job(tmp_path, "Augmentation")
    recipe = load_recipe(tmp_path / "tiny.yaml", ["student={use: 'only_eval:Student'}", "plugins=[only_eval]"])
    message = r"stages.0: fails on two samples of the data \(ValueError: fails in train mode\): check its losses, and"
    with pytest.raises(LimbeckError, match=message):
        Job.from_recipe(recipe, made.run_dir).validate()
