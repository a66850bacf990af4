"""A rehearsal takes whatever views a recipe has."""

from __future__ import annotations

import pytest

from limbeck.core.errors import LimbeckError
from limbeck.recipe import load_recipe
from limbeck.workflows._job.job import Job

RECIPE = """
task: Classification
data: {{use: Digits, labels: 100, take: 200, views: {views}}}
teachers: {{big: {{use: small_cnn, width: 8}}}}
student: {{use: small_cnn, width: 4}}
teaching: {{steps: 4, objective: {{truth: CrossEntropy}}}}
stages:
  - {{name: distill, steps: 4, objective: {{truth: CrossEntropy, soft: SoftTarget}}}}
training: {{batch: {batch}}}
"""


def job(tmp_path, views, batch=16):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE.format(views=views, batch=batch))
    return Job.from_recipe(load_recipe(path), tmp_path / "run")


@pytest.marker.parametrize(
    "views",
    [
        "{use: composite, crop: 1, per_sample: 8, per_decode: 4}",
        "{use: Views, transforms: [affine, {use: torchvision, name: RandomErasing}, mixup, cutmix]}",
    ],
)
def test_a_stage_is_rehearsed_with_its_views(tmp_path, views):
    made = job(tmp_path, views)
    made.validate()
    run = made.train_stages(
        "distilled", made.build_student(), {"big": made.build_teacher("big")}, resume=False, callbacks=[]
    )
    assert run.steps == 4


def test_a_batch_that_the_views_do_not_fit_is_found_before_anything_is_trained(tmp_path):
    with pytest.raises(LimbeckError, match=r"a batch is a multiple of per_decode, .* 4 views, and 18 is none"):
        job(tmp_path, "{use: composite, crop: 1, per_decode: 4}", batch=18).validate()
