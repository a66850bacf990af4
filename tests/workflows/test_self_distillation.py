"""Self-distillation by recipe: what a run leaves beside its student, and what a recipe may not ask for."""

import json

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.models import load_weights, small_cnn
from limbeck.recipe import find_recipe, load_recipe
from limbeck.recipe.resolve import resolve_recipe
from limbeck.workflows import distill
from limbeck.workflows._job.job import Job
from limbeck.workflows.study.trial import run_trial
from limbeck.workflows.study.variants import StudyContext, make_trial_recipe, make_variants

RECIPE = """
name: itself
threads: 1
task: Classification
data: {use: Digits, take: 60}
student: {use: small_cnn, width: 4}
stages:
  - {name: distill, steps: 4, objective: {truth: CrossEntropy, soft: {use: SoftTarget, teacher: own}}}
self_teachers: {own: {use: Averaged, decay: 0.9}}
training: {optimizer: {use: SGD, lr: 0.05}, batch: 16}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "itself.yaml"
    path.write_text(RECIPE)
    return path


def ran(recipe, out, *settings):
    return distill(recipe, list(settings), run_dir=out, callbacks=[])


@pytest.marker.parametrize(
    "settings",
    [
        [],
        ["self_teachers={own: {use: LastPrediction}}", "stages.0.objective={prior: PriorPrediction}"],
        ["self_teachers={own: LastBatch}", "training.sampling=again"],
        [
            "self_teachers={}", "training.sampling=classmates",
            "stages.0.objective={truth: CrossEntropy, mates: ClassWise}",
        ],
    ],
    ids=["average", "prediction", "batch", "classmates"],
)  # fmt: skip
def test_each_is_a_recipe_and_the_control_has_none_of_it(recipe, tmp_path, settings):
    record = ran(recipe, tmp_path / "run", *settings)
    assert list(record["models"]) == ["alone", "distilled"]
    rows = (tmp_path / "run" / "metrics.csv").read_text()
    assert "alone,distill" in rows
    kept = torch.load(tmp_path / "run" / "checkpoint" / "alone.distill.pt", weights_only=True)
    assert kept["identity"]["batch"] == 16
    assert kept["teachers"] == {}
    assert "truth = CrossEntropy" in kept["identity"]["objective"]
    assert "soft" not in kept["identity"]["objective"]


def test_the_control_is_the_same_with_and_without_self_distillation(recipe, tmp_path):
    ran(recipe, tmp_path / "one", "self_teachers={own: LastBatch}", "training.sampling=again")
    ran(recipe, tmp_path / "two", "self_teachers={}", "stages.0.objective={truth: CrossEntropy}")
    files = [str(tmp_path / run / "checkpoint" / "alone.safetensors") for run in ("one", "two")]
    one, two = (load_weights(small_cnn(width=4), file) for file in files)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_early_exits_are_measured_and_exported(recipe, tmp_path):
    ran(
        recipe, tmp_path / "run", "self_teachers={}", "stages.0.taps={student: {low: block1, deep: block3}}",
        "stages.0.objective={truth: CrossEntropy, heads: {use: DeepToShallow, at: [low], deepest: deep}}",
        "control=none", "export.to=[onnx]",
    )  # fmt: skip
    found = json.loads((tmp_path / "run" / "exits.json").read_text())["low"]
    assert found["onnx"]["max_abs_difference"] < 1e-3
    assert (tmp_path / "run" / found["onnx"]["file"]).exists()
    assert 0 <= found["validation"]["top1"] <= 1
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert 0 < found["flops"] < record["models"]["distilled"]["flops"]
    assert record["exits"]["low"] == found
    assert "early exit low" in (tmp_path / "run" / "report.html").read_text()


def test_peers_are_saved_and_measured(recipe, tmp_path):
    ran(
        recipe, tmp_path / "run", "self_teachers={}", "peers={other: {use: small_cnn, width: 6}}",
        "stages.0.objective={truth: CrossEntropy, mutual: Mutual}", "control=none",
    )  # fmt: skip
    found = json.loads((tmp_path / "run" / "peers.json").read_text())
    assert list(found) == ["other"]
    assert json.loads((tmp_path / "run" / "record.json").read_text())["peers"] == found
    assert "peer other" in (tmp_path / "run" / "report.html").read_text()
    load_weights(small_cnn(width=6), str(tmp_path / "run" / "checkpoint" / "other.safetensors"))
    load_weights(small_cnn(width=4), str(tmp_path / "run" / "student.safetensors"))


def test_each_is_an_arm_of_the_study_that_comes_along(tmp_path):
    whole = load_recipe(find_recipe("digits_self"), ["data.take=60"])
    shared, found = StudyContext(tmp_path, [600], 1.0, 0), make_variants(whole)
    assert list(found) == [
        "alone", "longer", "smoothed", "distilled", "mean_teacher", "deep_to_shallow", "mutual", "class_wise",
        "last_batch",
    ]  # fmt: skip
    for arm in found.values():
        recipe = make_trial_recipe(whole, arm, 0, shared)
        assert (recipe.training.batch_pairing == "plain") == (arm.name not in ("class_wise", "last_batch"))
        assert arm.uses_teachers or not recipe.self_teachers
        Job.from_recipe(recipe, tmp_path).validate()


def test_a_cell_keeps_the_peers_and_exits_of_its_arm(tmp_path):
    settings = ["data.take=60", "stages.0.steps=2", "training.batch=16"]
    whole = load_recipe(find_recipe("digits_self"), settings)
    arm = make_variants(whole)["mutual"]
    run_trial(
        make_trial_recipe(whole, arm, 0, StudyContext(tmp_path, [2], 1.0, 0)),
        arm,
        tmp_path / "cell",
        study_name="s",
        callbacks=[],
    )
    assert (tmp_path / "cell" / "other.safetensors").exists()
    assert (tmp_path / "cell" / "peers.json").exists()


@pytest.marker.parametrize(
    ("settings", "sentence"),
    [
        (["stages.0.objective.soft.teacher=ow"], "no teacher is named 'ow'; there are: own"),
        (["self_teachers={own: {use: Average}}"], "no teacher made of the student is named 'Average'"),
        (["self_teachers={}"], "stages.0.objective.soft"),
        (["peers={own: small_cnn}"], "a teacher made of the student has that name already"),
        (["peers={other: small_cnn}"], "self_teachers: it is for one student, and the recipe has peers"),
        (["peers={other: small_cnn}", "training.sampling=again"], "training.sampling: it is for one student"),
        (["training.sampling=agin"], "'again'"),
        (["training.sampling=again", "training.batch=15"], "batch 15 is odd"),
        (
            ["stages.0.objective.heads={use: DeepToShallow, at: [low]}", "training.keep=best"],
            "its heads are those of the last step",
        ),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe_are_one_sentence(recipe, settings, sentence):
    with pytest.raises(LimbeckError) as error:
        resolve_recipe(load_recipe(recipe, settings))
    assert sentence in str(error.value)
