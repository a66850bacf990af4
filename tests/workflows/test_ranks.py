"""The main job on two processes: what one process does with the doubled batch, and one fate for both."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from limbeck.cli import main
from limbeck.models import load_weights, mlp
from limbeck.workflows import distill

RECIPE = """
task: Classification
data: {use: Digits, num_samples: 400, augment: {use: Augmentation, transforms: [{use: affine}]}}
teachers: {big: {use: mlp, hidden: [64]}}
student: {use: mlp, hidden: [16]}
teacher_training: {steps: 12, objective: {target: CrossEntropyLoss}}
stages:
  - name: distill
    steps: 24
    objective:
      target: {use: CrossEntropyLoss, weight: 0.1}
      kd: {use: KDLoss, temperature: 4, weight: 0.9}
      sp: {use: SPLoss, layer: mid, weight: 3, gather_distributed: true}
    feature_layers: {student: {mid: layer1}, big: {mid: layer1}}
training: {optimizer: {use: SGD, lr: 0.2, momentum: 0.9}, batch_size: 32}
num_threads: 1
"""
SLOW = """
import time
from limbeck.training.train_state import TrainState
step = TrainState.step_optimizer
def step_optimizer(self):
    time.sleep(0.05)
    step(self)
TrainState.step_optimizer = step_optimizer
"""
BROKEN = """
import os
from limbeck.core.errors import LimbeckError
from limbeck.training.train_state import TrainState
from limbeck.workflows._job.job import Job
def broken(self, *_):
    if os.environ["RANK"] == "1":
        raise LimbeckError("the disk of the second machine is gone")
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def two(recipe, tmp_path_factory):
    """The folder of a run that torchrun started, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "two"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "limbeck"]
    command = [*launch, "distill", str(recipe), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def record(folder):
    return json.loads((folder / "record.json").read_text())


def weights(folder, name="distilled"):
    state = torch.load(folder / "checkpoint" / f"{name}.{'teacher_training' if name == 'big' else 'distill'}.pt")
    return state["student"]


def until(condition):
    limit = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.01)


def test_the_job_equals_that_of_one_process_with_the_doubled_batch(two, recipe, tmp_path):
    folder, _ = two
    one = distill(recipe, ["training.batch_size=64"], run_dir=tmp_path / "one", callbacks=[])
    for name in ("big", "baseline", "distilled"):
        ours, theirs = weights(tmp_path / "one", name), weights(folder, name)
        assert max(float((tensor - theirs[key]).abs().max()) for key, tensor in ours.items()) < 1e-4, name
        assert (
            one["models"][name]["test"]["metrics"]["accuracy"]
            == record(folder)["models"][name]["test"]["metrics"]["accuracy"]
        )
    assert one["verdict"]["text"] == record(folder)["verdict"]["text"]


def test_the_test_set_is_read_once(two):
    folder, _ = two
    assert record(folder)["test_set"]["num_reads"] == 1
    assert json.loads((folder / "checkpoint" / "test_access.json").read_text())["num_reads"] == 1


def test_the_record_says_how_many_processes_there_were(two):
    distributed = {"world_size": 2, "strategy": "ddp", "batch_size_per_process": 32, "global_batch_size": 64}
    assert record(two[0])["distributed"] == distributed


def test_only_rank_zero_prints_and_writes(two):
    folder, printed = two
    for line in ("400 training samples", "measuring", "test split, n = 359", "report.html"):
        assert printed.count(line) == 1, line
    assert not [path for path in folder.rglob("*") if "partial" in path.name]
    assert len((folder / "metrics.csv").read_text().splitlines()) == 1 + 2 + 4 + 4


@pytest.mark.parametrize("asked", [[1], [0, 1]], ids=["one process", "all of them"])
def test_a_signal_stops_all_and_the_run_goes_on_to_the_same_bits(two, recipe, ranks, tmp_path, asked):
    out = tmp_path / "stopped"
    run = ranks("distill", recipe, "--out", out, first=SLOW)
    until(lambda: (out / "checkpoint" / "baseline.distill.pt").exists())
    time.sleep(0.3)
    for rank in asked:
        os.kill(run.processes[rank].pid, signal.SIGTERM)
    assert run.wait() == [128 + signal.SIGTERM] * 2, run.output()
    assert "".join(run.output()).count("stopped by SIGTERM: the work is saved") == 1
    assert not (out / "record.json").exists()
    again = ranks("distill", recipe, "--out", out, "--resume")
    assert again.wait() == [0, 0], again.output()
    ours, theirs = (load_weights(mlp(hidden=(16,)), folder).state_dict() for folder in (out, two[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert record(out)["test_set"]["num_reads"] == 1


def test_both_fill_one_cache_and_the_next_run_asks_nothing(recipe, ranks, tmp_path):
    """384 images in 2 views, in 6 steps of 2 × 32 each: four rounds show every view twice."""
    settings = [
        f"cache.root={tmp_path / 'outputs'}",
        "data.augment.num_views=2",
        "data.num_samples=384",
        "baselines=[]",
    ]
    for run, (asked, read) in {"first": (768, 768), "second": (0, 1536)}.items():
        both = ranks("distill", recipe, *settings, f"student.hidden=[{len(run)}]", "--out", tmp_path / run)
        assert both.wait() == [0, 0], both.output()
        kept = record(tmp_path / run)["cache"]["big"]
        assert (kept["misses"], kept["hits"], kept["repaired"], kept["is_complete"]) == (asked, read, 0, True)


def test_a_failure_in_training_ends_all(recipe, ranks, tmp_path):
    run = ranks("distill", recipe, "--out", tmp_path / "run", first=BROKEN + "TrainState.step_optimizer = broken")
    assert run.wait() == [2, 2]
    first, second = run.output()
    assert second.strip() == "limbeck (process 1): the disk of the second machine is gone"
    assert first.strip().splitlines()[-1].startswith("limbeck: process 0 of 2 lost the others: one of them ended")


def test_a_failure_before_training_ends_all_and_leaves_nothing(recipe, ranks, tmp_path):
    run = ranks("distill", recipe, "--out", tmp_path / "run", first=BROKEN + "Job.validate = broken")
    assert run.wait() == [2, 2]
    first, second = run.output()
    assert first.startswith("loading the data")
    assert "\n" not in first[:-1]
    assert second == "limbeck (process 1): the disk of the second machine is gone\n"
    assert not (tmp_path / "run").exists()


def test_an_error_of_all_processes_is_printed_once(recipe, ranks, tmp_path):
    run = ranks("distill", recipe, "student.hiden=[3]", "--out", tmp_path / "run")
    assert run.wait() == [2, 2]
    assert len("".join(run.output()).splitlines()) == 1
    assert "did you mean 'hidden'" in run.output()[0]


def test_a_killed_process_ends_the_others(recipe, ranks, tmp_path):
    run = ranks("distill", recipe, "--out", tmp_path / "run", first=SLOW)
    until(lambda: (tmp_path / "run" / "metrics.csv").exists())
    run.processes[0].kill()
    assert run.wait() == [-signal.SIGKILL, 2]
    assert "process 1 of 2 lost the others" in run.output()[1]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("training.devices=2", "training.devices is 2, and the number of processes is 1: start it with torchrun"),
        ("training.strategy=ddp", "spreads a training over processes, and there is one"),
        ("training.strategy=fspd", "is not one of 'auto', 'ddp', 'fsdp'"),
        ("training={strategy: fsdp, ema_decay: 0.9}", "no process has under fsdp"),
        ("training={strategy: fsdp, precision: 16-mixed}", "under fsdp it is one of"),
        ("stages.0.objective.kd.gather_distributed=3", "3 is not true or false"),
    ],
)
def test_settings_of_processes_that_cannot_be_are_one_sentence(recipe, tmp_path, capsys, setting, says):
    assert main(["distill", str(recipe), setting, "--out", str(tmp_path / "run")]) == 2
    output = capsys.readouterr().err
    assert says in output
    assert len(output.splitlines()) == 1


def test_a_place_without_the_others_is_one_sentence(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["distill", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert "start the processes with torchrun" in capsys.readouterr().err
