"""Generations of one network: each is taught by the one before it, and all of them vote."""

import json
import os
import signal
import zlib
from functools import partial

import numpy as np
import pytest
import torch

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.data import Digits
from limbeck.data.counter_rng import derive_seed
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.models import load_weights, small_cnn
from limbeck.recipe import load_recipe, to_yaml
from limbeck.training import TrainingConfig, TrainingInterrupted
from limbeck.workflows import distill, train_born_again

TASK = limbeck.tasks.Classification(10)
TRAINING = TrainingConfig(optimizer=partial(torch.optim.SGD, lr=0.05), batch_size=16)


def born(out=None, *, make=partial(small_cnn, width=4), resume=False, **settings):
    return train_born_again(
        make, Digits(num_samples=60).load(), task=TASK, steps=4, training=TRAINING, run_dir=out, resume=resume,
        callbacks=[],
        **settings,
    )  # fmt: skip


def weights(result):
    return [tensor for run in result.runs.values() for tensor in run.student.state_dict().values()]


def test_each_generation_has_a_start_of_its_own_whatever_comes_after():
    starts = []

    def make():
        network = small_cnn(width=4)
        starts.append(network.fc.weight.detach().clone())
        return network

    three, two = born(make=make), born(generations=2)
    assert list(three.runs) == ["generation1", "generation2", "generation3"]
    assert not any(torch.equal(starts[i], starts[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(three.runs["generation2"].student.fc.weight, two.runs["generation2"].student.fc.weight)


def test_the_second_generation_is_a_plain_distillation_from_the_first():
    result = born(generations=2)
    torch.manual_seed(derive_seed(0, zlib.crc32(b"generation2")))
    student, terms = small_cnn(width=4), {"target": CrossEntropyLoss(), "kd": KDLoss(temperature=1.0)}
    distiller = limbeck.Distiller(student, result.runs["generation1"].student, objective=terms, task=TASK)
    limbeck.fit(distiller, Digits(num_samples=60).load(), steps=4, training=TRAINING, phase="generation2", callbacks=[])
    for one, other in zip(student.parameters(), result.runs["generation2"].student.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_ensemble_is_the_mean_of_the_probabilities():
    result, images = born(), torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        logits = [run.student(images).double().numpy() for run in result.runs.values()]
        together = result.ensemble(images).double().numpy()
    each = [np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in logits]
    np.testing.assert_allclose(np.exp(together), np.mean(each, axis=0), rtol=1e-5)


def test_stopped_in_the_second_generation_it_ends_with_the_same_bits(tmp_path):
    whole, calls = born(tmp_path / "whole"), []

    def make():
        network = small_cnn(width=4)

        def count(*_):
            calls.append(1)
            if len(calls) == 12:
                os.kill(os.getpid(), signal.SIGTERM)

        network.register_forward_hook(count)
        return network

    with pytest.raises(TrainingInterrupted):
        born(tmp_path / "cut", make=make)
    assert not (tmp_path / "cut" / "checkpoint" / "generation3.safetensors").exists()
    result = born(tmp_path / "cut", resume=True)
    assert all(torch.equal(one, other) for one, other in zip(weights(result), weights(whole), strict=True))
    load_weights(small_cnn(width=4), str(tmp_path / "cut" / "checkpoint" / "generation1.safetensors"))


def test_the_recipe_that_comes_along_trains_every_generation(tmp_path):
    short = [
        "data.num_samples=60",
        "data.num_labeled=40",
        "teacher_training.steps=2",
        "stages.0.steps=3",
        "training.batch_size=16",
    ]
    short.append("export.to=[]")
    record = distill("digits_born_again", short, run_dir=tmp_path / "run", callbacks=[])
    assert [(name, model["steps"]) for name, model in record["models"].items()] == [
        ("generation1", 2), ("generation2", 3), ("baseline", 3), ("distilled", 3),
    ]  # fmt: skip
    sizes = {model["parameters"] for model in record["models"].values()}
    together = json.loads((tmp_path / "run" / "ensemble.json").read_text())
    assert {together["parameters"]} == {3 * size for size in sizes}
    assert 0 <= together["validation"]["metrics"]["ece"] <= 1


def test_a_shown_recipe_reads_again_as_the_same():
    whole = to_yaml(load_recipe(limbeck.recipe.find_recipe("digits_born_again")))
    assert to_yaml(load_recipe(whole)) == whole


def test_mistakes_are_one_sentence():
    with pytest.raises(LimbeckError, match="from 2 to 100, got 1"):
        born(generations=1)
    for settings, words in (
        (["generations=1"], "generations"),
        (["teachers={big: small_cnn}"], "generations makes its own .generation1., and big is given"),
    ):
        with pytest.raises(LimbeckError, match=words):
            load_recipe(limbeck.recipe.find_recipe("digits_born_again"), settings)
