"""Two processes and one cache: each asks about its share, and a later run of one process asks nothing."""

import json

from limbeck.cli import main

RECIPE = """
task: Classification
num_threads: 1
data: {use: Digits, num_samples: 128, augment: {use: Augmentation, transforms: [{use: affine}], num_views: 2}}
teachers: {big: {use: mlp, hidden: [32]}}
student: {use: mlp, hidden: [16]}
teacher_training: {steps: 4, objective: {target: CrossEntropyLoss}}
stages:
  - {name: distill, epochs: 4, objective: {kd: {use: KDLoss, temperature: 4}}}
baselines: []
training: {batch_size: 32}
cache: {dtype: float32}
"""


def test_both_processes_fill_one_cache_and_a_later_run_asks_nothing(tmp_path, monkeypatch, ranks):
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "outputs"))
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)
    run = ranks("distill", recipe, "--out", tmp_path / "two")
    assert run.wait() == [0, 0], run.output()
    two = json.loads((tmp_path / "two" / "record.json").read_text())["cache"]["big"]
    assert (two["misses"], two["hits"], two["is_complete"]) == (128 * 2, 128 * 2, True)

    weights = f"teachers.big.weights={tmp_path / 'two' / 'checkpoint' / 'big.safetensors'}"
    assert main(["distill", str(recipe), weights, "training.batch_size=64", "--out", str(tmp_path / "one")]) == 0
    one = json.loads((tmp_path / "one" / "record.json").read_text())["cache"]["big"]
    assert (one["key"], one["misses"]) == (two["key"], 0)
