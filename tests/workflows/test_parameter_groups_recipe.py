"""Parameter groups of a recipe: checked before training, without those of losses in a baseline."""

import pytest

import limbeck
from limbeck.recipe import load_recipe
from limbeck.recipe.schema import to_plain
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.stages import make_training_config

RECIPE = """
task: Classification
data: {use: Digits, num_labeled: 60, num_samples: 120}
teachers: {big: {use: small_cnn, width: 6}}
student: {use: small_cnn, width: 4}
teacher_training: {steps: 3, objective: {target: CrossEntropyLoss}}
stages:
  - name: held
    steps: 6
    objective: {target: CrossEntropyLoss, hint: {use: FitNetLoss, layer: here}}
    feature_layers: {student: {here: block2}, big: {here: block2}}
    training:
      parameter_groups:
        - {match: "losses.hint.*", lr: 0.5}
        - {match: "*.bias", weight_decay: 0, lr: 1e-2}
      validation_batch_size: 16
training: {optimizer: {use: SGD, lr: 0.05, momentum: 0.9}, batch_size: 32}
num_threads: 1
"""


def test_groups_reach_the_optimizer(tmp_path):
    recipe = load_recipe(RECIPE)
    assert load_recipe(RECIPE, []) == recipe
    assert "parameter_groups" not in to_plain(recipe)["training"]
    job = Job.from_recipe(recipe, tmp_path)
    job.validate()
    stage = job.plan.stages[0]
    training = make_training_config(stage, "distilled")
    assert training.parameter_groups[1] == {"match": "*.bias", "weight_decay": 0, "lr": 0.01}
    assert training.validation_batch_size == 16
    assert [group["match"] for group in make_training_config(stage, "baseline").parameter_groups] == ["*.bias"]


def test_a_pattern_that_matches_nothing_is_refused_before_training(tmp_path):
    with pytest.raises(limbeck.LimbeckError, match=r"parameter_groups.0: 'head\.\*' must match a trainable parameter"):
        Job.from_recipe(load_recipe(RECIPE.replace("losses.hint.*", "head.*")), tmp_path).validate()
