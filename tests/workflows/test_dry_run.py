"""A dry run takes whatever augmentation a recipe has."""

from __future__ import annotations

import pytest

from limbeck.core.errors import LimbeckError
from limbeck.recipe import load_recipe
from limbeck.workflows._job.job import Job

RECIPE = """
task: Classification
data: {{use: Digits, num_labeled: 100, num_samples: 200, augment: {views}}}
teachers: {{big: {{use: small_cnn, width: 8}}}}
student: {{use: small_cnn, width: 4}}
teacher_training: {{steps: 4, objective: {{target: CrossEntropyLoss}}}}
stages:
  - {{name: distill, steps: 4, objective: {{target: CrossEntropyLoss, kd: KDLoss}}}}
training: {{batch_size: {batch}}}
"""


def job(tmp_path, views, batch=16):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(views=views, batch=batch))
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
