"""A run has several teachers as its recipe says: each with its own input mapping, masked, cached, and in an
ensemble.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from limbeck.core.errors import LimbeckError
from limbeck.models import save_weights, small_cnn
from limbeck.recipe import load_recipe
from limbeck.workflows import distill
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.stages import make_distiller

RECIPE = """
plugins: [teachers_of_my_own]
task: Classification
data: {use: Digits, num_samples: 200, augment: {use: Augmentation, transforms: [horizontal_flip], num_views: 2}}
teachers: {}
student: {use: small_cnn, width: 4}
stages: [{name: distill, steps: 6, objective: {target: CrossEntropyLoss, kd: {use: KDLoss, temperature: 2}}}]
training: {optimizer: {use: SGD, lr: 0.05}, batch_size: 32}
baselines: []
num_threads: 1
"""
OWN = """
from collections.abc import Callable

import torch

def unsure(classes=10) -> Callable:
    def ask(images):
        logits = images.flatten(1)[:, :classes].clone()
        logits[logits.mean(1) > 0] = torch.nan
        return logits
    return ask
"""


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    network = small_cnn(width=4).eval()
    save_weights(network, tmp_path / "big.safetensors")
    return network


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "teachers_of_my_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def made(teachers, **more):
        for teacher in teachers.values():
            if teacher["use"] == "small_cnn":
                teacher.update(width=4, weights=str(tmp_path / "big.safetensors"))
        return Job.from_recipe(
            load_recipe(yaml.safe_dump({**yaml.safe_load(RECIPE), "teachers": teachers, **more})), tmp_path / "run"
        )

    return made


def exchange(job):
    """What the first batch of the first stage makes of everybody."""
    teachers = {name: job.build_teacher(name) for name in job.recipe.teachers}
    distiller = make_distiller(job, job.build_student(), teachers, job.plan.stages[0], phase="distilled")
    batch = job.data.batches(batch_size=32).batch(0)
    return distiller.prepare(batch).forward_context(batch), batch


@pytest.mark.parametrize("cached", [False, True])
def test_a_teacher_with_another_input_mapping_equals_the_manual_computation(job, network, tmp_path, cached):
    names = ["3", "1", "0", "2", "9", "8", "7", "6", "5", "4"]
    big = {"use": "small_cnn", "input_size": 12, "normalize": {"mean": [0.4], "std": [0.3]}, "class_names": names}
    kept = {"cache": {"root": str(tmp_path / "outputs"), "dtype": "float32"}} if cached else {}
    made = job({"big": big}, **kept)
    context, batch = exchange(made)
    pixels = made.data.normalization.invert(batch["input"])
    large = torch.nn.functional.interpolate(pixels, size=(12, 12), mode="bilinear")
    with torch.no_grad():
        theirs = network((large - 0.4) / 0.3)
    expected = theirs[:, [names.index(str(digit)) for digit in range(10)]]
    torch.testing.assert_close(context.teacher.require_logits(), expected, rtol=1e-4, atol=1e-4)
    if cached:
        again, _ = exchange(made)
        assert made.caches[-1][1].stats()["hits"] == 32
        torch.testing.assert_close(again.teacher.require_logits(), context.teacher.require_logits(), rtol=0, atol=0)


def test_classes_that_a_teacher_lacks_are_left_to_the_others(job, network):
    few = {"use": "small_cnn", "class_names": [*"01234", *"abcde"], "missing_classes": "mask"}
    context, batch = exchange(job({"few": few, "all": {"use": "small_cnn"}}, ensemble="MeanProbabilities"))
    knows = batch["target"] < 5
    assert context.teachers["few"].valid.tolist() == knows.tolist()
    with torch.no_grad():
        full = network(batch["input"])
    torch.testing.assert_close(context.teacher.require_logits()[~knows].softmax(1), full[~knows].softmax(1))
    half = torch.cat([full[knows][:, :5].softmax(1), torch.zeros(int(knows.sum()), 5)], dim=1)
    expected = (half + full[knows].softmax(1)) / 2
    torch.testing.assert_close(context.teacher.require_logits()[knows].exp(), expected, rtol=1e-5, atol=1e-7)


def test_a_mask_file_selects_the_samples_of_a_teacher(job, network, tmp_path):
    mask = np.arange(2000) % 3 == 0
    np.save(tmp_path / "mask.npy", mask)
    context, batch = exchange(job({"big": {"use": "small_cnn", "coverage": str(tmp_path / "mask.npy")}}))
    assert context.teacher.valid.tolist() == mask[batch["sample_id"].numpy()].tolist()


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            {"use": "small_cnn", "coverage": "SHORT"},
            "teachers.big.coverage: .* holds 5 samples, and the sample ids of the training split",
        ),
        ({"use": "small_cnn", "class_names": [*"0123456789a"]}, "build the model with classes: 10"),
        ({"use": "small_cnn", "class_names": [*"0123456abc"]}, "teachers.big: the teacher does not have the class '7'"),
        ({"use": "small_cnn", "normalize": {"mean": [0.1] * 3, "std": [1.0] * 3}}, "teachers.big: normalize has 3"),
    ],
)
def test_a_mistake_shows_before_anything_is_trained(job, network, tmp_path, teacher, message):
    np.save(tmp_path / "SHORT.npy", np.ones(5, dtype=bool))
    if "coverage" in teacher:
        teacher["coverage"] = str(tmp_path / "SHORT.npy")
    with pytest.raises(LimbeckError, match=message):
        job({"big": teacher}).validate()


def test_a_run_with_a_partial_foreign_teacher_a_large_one_and_learned_weights_ends(job, network, tmp_path):
    teachers = {
        "unsure": {"use": "teachers_of_my_own:unsure", "coverage": "finite"},
        "big": {"use": "small_cnn", "input_size": 12, "normalize": "none"},
    }
    recipe = job(teachers, ensemble="LearnedWeights").recipe
    record = distill(recipe, run_dir=tmp_path / "run", callbacks=[])
    assert record["models"]["distilled"]["steps"] == 6
    answered = record["models"]["unsure"]["validation"]["num_samples"]
    assert 0 < answered < record["models"]["big"]["validation"]["num_samples"]
    metrics = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert "ensemble" in metrics


def test_a_training_with_learned_weights_that_was_stopped_goes_on_with_the_same_bits(job, network, tmp_path):
    made = job({"one": {"use": "small_cnn"}, "two": {"use": "small_cnn", "input_size": 12}}, ensemble="LearnedWeights")
    teachers = {name: made.build_teacher(name) for name in made.recipe.teachers}
    whole = made.train_stages("distilled", made.build_student(), teachers, resume=False, callbacks=[])
    state = torch.load(tmp_path / "run" / "checkpoint" / "distilled.distill.pt", weights_only=True)
    assert state["losses"]["trainable.ensemble.scores"].abs().sum() > 0
    again = made.train_stages("distilled", made.build_student(), teachers, resume=True, callbacks=[])
    for one, other in zip(whole.student.parameters(), again.student.parameters(), strict=True):
        assert torch.equal(one, other)
