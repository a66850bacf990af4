"""Training in stages: what each has of its own, what goes on from one to the next, and who is asked."""

import csv
import shutil
import sys

import pytest
import torch
from torch import nn

from limbeck.models import load_weights
from limbeck.recipe import load_recipe
from limbeck.teachers import FrozenTeacher
from limbeck.training.callbacks import Callback
from limbeck.workflows import distill
from limbeck.workflows._job.job import Job

RECIPE = """
task: Classification
data: {use: Digits, num_labeled: 60, num_samples: 120}
teachers: {big: {use: small_cnn, width: 6}}
student: {use: small_cnn, width: 4}
teacher_training: {steps: 3, objective: {target: CrossEntropyLoss}}
stages:
  - name: warm
    steps: 4
    objective: {target: CrossEntropyLoss}
  - name: held
    steps: 6
    objective:
      kd: {use: KDLoss, weight: {use: across_stages, schedule: {use: linear, start: 1, end: 0}}}
      fitnet: {use: FitNetLoss, layer: here}
    feature_layers: &layers {student: {here: block2}, big: {here: block2}}
    freeze: [block1, pool]
    training: {optimizer: {use: AdamW, lr: 0.003}, scheduler: {use: OneCycleLR, max_lr: 0.003}, batch_size: 24,
    ema_decay: 0.5}
  - name: free
    steps: 5
    objective:
      fitnet: {use: FitNetLoss, layer: here, weight: 0.5}
      kd: {use: KDLoss, weight: {use: linear, start: 1, end: 0}}
    feature_layers: *layers
    training: {optimizer: {lr: 0.01}, scheduler: null}
training: {optimizer: {use: SGD, lr: 0.05, momentum: 0.9}, scheduler: {use: OneCycleLR, max_lr: 0.05}, batch_size: 32}
baselines: []
num_threads: 1
"""


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """A run, and what each training of the student was given, by its stage; ``folder`` is where it is."""
    job, seen, asked = sys.modules["limbeck.workflows._job.job"], {}, [0]
    fit, answer = job.fit, FrozenTeacher.predict

    def copied(module):
        return {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def spy(distiller, data, **settings):
        training, one = settings["training"], {**settings, "teachers": list(distiller.teachers), "modes": set()}
        optimizer = training.optimizer([nn.Parameter(torch.zeros(1))])
        one["optimizer"] = (type(optimizer).__name__, optimizer.defaults["lr"])
        one["scheduler"] = training.scheduler and type(training.scheduler(optimizer, 9)).__name__

        class Look(Callback):
            def on_train_start(self, **_):
                one["begin"] = copied(distiller)

        before = asked[0]
        hook = distiller.student.block1.bn.register_forward_hook(
            lambda module, *_: one["modes"].add(module.training) if torch.is_grad_enabled() else None
        )
        run = fit(distiller, data, **{**settings, "callbacks": [Look()]})
        hook.remove()
        one.update(asked=asked[0] - before, end=copied(distiller))
        if settings["phase"] == "distilled":
            seen[settings["stage"]] = one
        return run

    def counted(self, batch, task):
        asked[0] += 1
        return answer(self, batch, task)

    folder = tmp_path_factory.mktemp("stages")
    (folder / "stages.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "fit", spy)
        patch.setattr(FrozenTeacher, "predict", counted)
        distill(folder / "stages.yaml", run_dir=folder / "run", callbacks=[])
    seen["folder"] = folder / "run"
    return seen


def test_each_stage_has_its_own_optimizer_scheduler_rate_and_batch(trainings):
    result = {
        name: (one["optimizer"], one["scheduler"], one["training"].batch_size, one["training"].ema_decay)
        for name, one in trainings.items()
        if name != "folder"
    }
    assert result == {
        "warm": (("SGD", 0.05), "OneCycleLR", 32, None),
        "held": (("AdamW", 0.003), "OneCycleLR", 24, 0.5),
        "free": (("SGD", 0.01), None, 32, None),
    }  # fmt: skip


def test_frozen_parts_keep_weights_and_statistics_and_come_free_again(trainings):
    moved = {
        name: {key for key, tensor in one["begin"].items() if not torch.equal(tensor, one["end"][key])}
        for name, one in trainings.items()
        if name != "folder"
    }
    first = {key for key in trainings["warm"]["begin"] if key.startswith("student.block1.")}
    assert {key.removeprefix("student.block1.") for key in first} == {
        "conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked",
    }  # fmt: skip
    assert first <= moved["warm"]
    assert not first & moved["held"]
    assert {"student.block2.bn.running_mean", "student.block2.conv.weight", "student.fc.bias"} <= moved["held"]
    assert first <= moved["free"]


def test_frozen_parts_run_in_eval_mode_in_their_stage_only(trainings):
    assert [trainings[name]["modes"] for name in ("warm", "held", "free")] == [{True}, {False}, {True}]


def test_a_stage_goes_on_with_the_weights_of_the_one_before(trainings):
    for before, after in (("warm", "held"), ("held", "free")):
        student = {key for key in trainings[after]["begin"] if key.startswith("student.")}
        assert all(torch.equal(trainings[before]["end"][key], trainings[after]["begin"][key]) for key in student)


def test_what_a_term_learned_goes_on_in_the_next_stage(trainings):
    key = "objective.trainable.fitnet.projection.layer.weight"
    held, free = trainings["held"], trainings["free"]
    assert not torch.equal(held["begin"][key], held["end"][key])
    assert torch.equal(held["end"][key], free["begin"][key])


def test_begun_again_between_two_stages_it_goes_on_with_what_the_term_learned(trainings, tmp_path):
    shutil.copytree(trainings["folder"] / "checkpoint", tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "distilled.free.pt").unlink()
    job = Job.from_recipe(load_recipe(trainings["folder"].parent / "stages.yaml"), tmp_path)
    teacher = load_weights(job.build_teacher("big"), tmp_path / "checkpoint" / "big.safetensors")
    run = job.train_stages("distilled", job.build_student(), {"big": teacher}, resume=True, callbacks=[])
    ended = trainings["free"]["end"]
    assert all(torch.equal(ended[f"student.{name}"], tensor) for name, tensor in run.student.state_dict().items())


def test_a_stage_without_a_term_on_a_teacher_asks_none_and_shows_labeled_images(trainings):
    assert [trainings[name]["teachers"] for name in ("warm", "held", "free")] == [[], ["big"], ["big"]]
    assert [trainings[name]["subset"] for name in ("warm", "held", "free")] == ["labeled", "all", "all"]
    # Once a step, and once to shape the projection.
    assert [trainings[name]["asked"] for name in ("warm", "held", "free")] == [0, 7, 6]


def test_the_overall_weight_goes_on_and_the_plain_one_begins_again(trainings):
    assert [(trainings[name]["steps_before"], trainings[name]["total_steps"]) for name in ("warm", "held", "free")] == [
        (0, 15), (4, 15), (10, 15),
    ]  # fmt: skip
    with (trainings["folder"] / "metrics.csv").open() as file:
        last = {row["stage"]: row["loss_weight/kd"] for row in csv.DictReader(file) if row["phase"] == "distilled"}
    # The last step of `held` is the tenth of fifteen, begun after nine; that of `free` is begun after four of five.
    assert float(last["held"]) == pytest.approx(1 - 9 / 15, abs=1e-5)
    assert float(last["free"]) == pytest.approx(1 - 4 / 5, abs=1e-5)


@pytest.mark.parametrize("subset", ["all", "labeled"])
def test_a_stage_with_a_teacher_is_trained_on_its_subset(tmp_path, monkeypatch, subset):
    """And a baseline on labeled samples whatever the subset is."""
    job_module, subsets = sys.modules["limbeck.workflows._job.job"], {}
    fit = job_module.fit

    def spy(distiller, data, **settings):
        subsets[settings["phase"]] = settings["subset"]
        return fit(distiller, data, **settings)

    monkeypatch.setattr(job_module, "fit", spy)
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)
    changes = [
        f"stages=[{{name: distill, steps: 1, objective: {{target: CrossEntropyLoss, kd: KDLoss}}, subset: {subset}}}]",
        "teacher_training.steps=1", "training.scheduler=null",
    ]  # fmt: skip
    job = Job.from_recipe(load_recipe(path, changes), tmp_path / "run")
    for phase, networks in (("distilled", {"big": job.build_network("big")}), ("baseline", {})):
        job.train_stages(phase, job.build_student(), networks, resume=False, callbacks=[])
    assert subsets == {"distilled": subset, "baseline": "labeled"}
