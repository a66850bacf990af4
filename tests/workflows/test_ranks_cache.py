"""Two processes and one cache: each asks about its share, and a later run of one process asks nothing."""

import json
import os
import subprocess
import sys

from limbeck.cli import main

RECIPE = """
task: Classification
threads: 1
data: {use: Digits, take: 128, views: {use: Views, transforms: [{use: affine}], per_sample: 2}}
teachers: {big: {use: mlp, hidden: [32]}}
student: {use: mlp, hidden: [16]}
teaching: {steps: 4, objective: {truth: CrossEntropy}}
stages:
  - {name: distill, epochs: 4, objective: {soft: {use: SoftTarget, tau: 4}}}
control: none
training: {batch: 32}
cache: {precision: float32}
"""


def test_both_processes_fill_one_cache_and_a_later_run_asks_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_CACHE", str(tmp_path / "answers"))
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "limbeck"]
    command = [*launch, "distill", str(recipe), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "two" / "record.json").read_text())["cache"]["big"]
    assert (two["asked"], two["read"], two["complete"]) == (128 * 2, 128 * 2, True)

    weights = f"teachers.big.weights={tmp_path / 'two' / 'checkpoint' / 'big.safetensors'}"
    assert main(["distill", str(recipe), weights, "training.batch=64", "--out", str(tmp_path / "one")]) == 0
    one = json.loads((tmp_path / "one" / "record.json").read_text())["cache"]["big"]
    assert (one["key"], one["asked"]) == (two["key"], 0)
