"""Self-distillation by recipe: what a run leaves beside its student, and what a recipe may not ask for."""

import json
from dataclasses import replace

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
num_threads: 1
task: Classification
data: {use: Digits, num_samples: 60}
student: {use: small_cnn, width: 4}
stages:
  - {name: distill, steps: 4, objective: {target: CrossEntropyLoss, kd: {use: KDLoss, teacher: own}}}
self_teachers: {own: {use: EMATeacher, decay: 0.9}}
training: {optimizer: {use: SGD, lr: 0.05}, batch_size: 16}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "itself.yaml"
    path.write_text(RECIPE)
    return path


def ran(recipe, out, *settings):
    return distill(recipe, list(settings), run_dir=out, callbacks=[])


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["self_teachers={own: {use: PreviousEpochTeacher}}", "stages.0.objective={pskd: PSKDLoss}"],
        ["self_teachers={own: PreviousBatchTeacher}", "training.batch_pairing=repeat_previous"],
        [
            "self_teachers={}", "training.batch_pairing=same_class",
            "stages.0.objective={target: CrossEntropyLoss, cskd: CSKDLoss}",
        ],
    ],
    ids=["average", "prediction", "batch", "same class"],
)  # fmt: skip
def test_each_is_a_recipe_and_the_control_has_none_of_it(recipe, tmp_path, settings):
    record = ran(recipe, tmp_path / "run", *settings)
    assert list(record["models"]) == ["baseline", "distilled"]
    rows = (tmp_path / "run" / "metrics.csv").read_text()
    assert "baseline,distill" in rows
    kept = torch.load(tmp_path / "run" / "checkpoint" / "baseline.distill.pt", weights_only=True)
    assert kept["settings"]["batch_size"] == 16
    assert kept["teachers"] == {}
    assert "target = CrossEntropyLoss" in kept["settings"]["objective"]
    assert "kd" not in kept["settings"]["objective"]


def test_the_control_is_the_same_with_and_without_self_distillation(recipe, tmp_path):
    ran(recipe, tmp_path / "one", "self_teachers={own: PreviousBatchTeacher}", "training.batch_pairing=repeat_previous")
    ran(recipe, tmp_path / "two", "self_teachers={}", "stages.0.objective={target: CrossEntropyLoss}")
    files = [str(tmp_path / run / "checkpoint" / "baseline.safetensors") for run in ("one", "two")]
    one, two = (load_weights(small_cnn(width=4), file) for file in files)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_early_exits_are_measured_and_exported(recipe, tmp_path):
    ran(
        recipe, tmp_path / "run", "self_teachers={}", "stages.0.feature_layers={student: {low: block1, deep: block3}}",
        "stages.0.objective={target: CrossEntropyLoss, byot: {use: BYOTLoss, layers: [low], deepest_layer: deep}}",
        "baselines=[]", "export.to=[onnx]",
    )  # fmt: skip
    exits = json.loads((tmp_path / "run" / "early_exits.json").read_text())["low"]
    assert exits["onnx"]["max_abs_difference"] < 1e-3
    assert (tmp_path / "run" / exits["onnx"]["file"]).exists()
    assert 0 <= exits["validation"]["metrics"]["accuracy"] <= 1
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert 0 < exits["flops"] < record["models"]["distilled"]["flops"]
    assert record["early_exits"]["low"] == exits
    assert "early exit low" in (tmp_path / "run" / "report.html").read_text()


def test_peers_are_saved_and_measured(recipe, tmp_path):
    ran(
        recipe, tmp_path / "run", "self_teachers={}", "peers={other: {use: small_cnn, width: 6}}",
        "stages.0.objective={target: CrossEntropyLoss, dml: DMLLoss}", "baselines=[]",
    )  # fmt: skip
    result = json.loads((tmp_path / "run" / "peers.json").read_text())
    assert list(result) == ["other"]
    assert json.loads((tmp_path / "run" / "record.json").read_text())["peers"] == result
    assert "peer other" in (tmp_path / "run" / "report.html").read_text()
    load_weights(small_cnn(width=6), str(tmp_path / "run" / "checkpoint" / "other.safetensors"))
    load_weights(small_cnn(width=4), str(tmp_path / "run" / "student.safetensors"))


def test_each_is_a_variant_of_the_study_that_comes_along(tmp_path):
    whole = load_recipe(find_recipe("digits_self"), ["data.num_samples=60"])
    shared, result = StudyContext(tmp_path, [600], 1.0, 0), make_variants(whole)
    assert list(result) == [
        "student_only", "equal_time", "label_smoothing", "distilled", "mean_teacher", "deep_to_shallow", "mutual",
        "class_wise",
        "last_batch",
    ]  # fmt: skip
    for variant in result.values():
        recipe = make_trial_recipe(whole, variant, 0, shared)
        assert (recipe.training.batch_pairing == "none") == (variant.name not in ("class_wise", "last_batch"))
        assert variant.uses_teachers or not recipe.self_teachers
        Job.from_recipe(recipe, tmp_path).validate()


def test_a_trial_keeps_the_peers_and_exits_of_its_variant(tmp_path):
    settings = ["data.num_samples=60", "training.batch_size=16"]
    whole = load_recipe(find_recipe("digits_self"), settings)
    variant = make_variants(whole)["mutual"]
    variant = replace(variant, overrides={**variant.overrides, "stages.0.steps": 2})
    run_trial(
        make_trial_recipe(whole, variant, 0, StudyContext(tmp_path, [2], 1.0, 0)),
        variant,
        tmp_path / "trial",
        study_name="s",
        callbacks=[],
    )
    assert (tmp_path / "trial" / "other.safetensors").exists()
    assert (tmp_path / "trial" / "peers.json").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["stages.0.objective.kd.teacher=ow"], "no teacher is named 'ow'; available: own"),
        (["self_teachers={own: {use: EMATeache}}"], "no teacher made of the student is named 'EMATeache'"),
        (["self_teachers={}"], "stages.0.objective.kd"),
        (["peers={own: small_cnn}"], "has that name already"),
        (["peers={other: small_cnn}"], "self_teachers: it is for one student, and the recipe has peers"),
        (["peers={other: small_cnn}", "training.batch_pairing=repeat_previous"], "training.batch_pairing: it is for "
            "one student"),
        (["training.batch_pairing=repeat_previou"], "'repeat_previous'"),
        (["training.batch_pairing=repeat_previous", "training.batch_size=15"], "batch_size 15 is odd"),
        (
            ["stages.0.objective.byot={use: BYOTLoss, layers: [low]}", "training.keep_weights=best"],
            "its heads are those of the last step",
        ),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe_are_one_sentence(recipe, settings, sentence):
    with pytest.raises(LimbeckError) as error:
        resolve_recipe(load_recipe(recipe, settings))
    assert sentence in str(error.value)
