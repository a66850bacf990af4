"""Constructors of torch, networks and losses that cannot train are named with their recipe key before training."""

import re

import pytest

from limbeck.core.errors import LimbeckError
from limbeck.recipe import load_recipe
from limbeck.workflows._job.job import DataCache, Job

RECIPE = """
task: Classification
data: {use: Digits, num_samples: 200}
teachers: {teacher: {use: small_cnn, width: 4, depth: 1}}
teacher_training: {steps: 2, objective: {target: CrossEntropyLoss}}
student: {use: small_cnn, width: 4, depth: 1}
stages: [{name: distill, steps: 20, objective: {kd: KDLoss}}]
training: {optimizer: {use: SGD, lr: 0.1}}
num_threads: 1
"""


@pytest.fixture(scope="module")
def rehearse(tmp_path_factory):
    data_cache, folder = DataCache(), tmp_path_factory.mktemp("run")
    return lambda *overrides: Job.from_recipe(load_recipe(RECIPE, overrides), folder, data_cache=data_cache).validate()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.scheduler={use: OneCycleLR, max_lr: 0.1, total_steps: 5}",
            "training.scheduler: OneCycleLR ends after 5 steps, and the stage steps it 20 times: remove total_steps",
        ),
        ("training.scheduler={use: CosineAnnealingLR, T_max: 0}", "training.scheduler: CosineAnnealingLR fails"),
        ("training.scheduler={use: StepLR, step_size: 0}", "training.scheduler: StepLR fails"),
        (
            "training.scheduler={use: OneCycleLR, max_lr: 0.1, div_factor: 0}",
            "training.scheduler: OneCycleLR: ZeroDivisionError",
        ),
        ("training.optimizer={use: AdamW, lr: 1e308}", "not finite after one step of AdamW: lower lr"),
        ("training.optimizer={use: LBFGS}", "training.optimizer: LBFGS fails"),
        ("training.optimizer={use: SparseAdam}", "training.optimizer: SparseAdam fails"),
        ("student.channels=5", "student: small_cnn fails on two samples of the data (RuntimeError: Given groups=1"),
        ("teachers.teacher.channels=5", "teachers.teacher: small_cnn fails on two samples of the data"),
        ("student={use: mlp, size: 28}", "student: images must be [1, 28, 28], got [1, 8, 8]"),
        ("cache={root: /proc/x}", "/proc/x cannot be used (No such file or directory)"),
    ],
)
def test_what_cannot_train_is_named_with_its_key(override, message, rehearse):
    more = ["data.augment={use: Augmentation, num_views: 2}"] if "cache" in override else []
    if "LR" in override:
        more.append("teacher_training.steps=20")
    with pytest.raises(LimbeckError, match=re.escape(message)):
        rehearse(override, *more)


def test_a_loss_that_fails_is_named(rehearse, monkeypatch):
    def fail(self, context):
        raise IndexError("index 3 is out of range")

    monkeypatch.setattr("limbeck.losses.KDLoss.__call__", fail)
    message = r"stages.0: .*\(IndexError: index 3 is out of range; raised by the loss 'kd'\): check its losses"
    with pytest.raises(LimbeckError, match=message):
        rehearse()


def test_threads_are_limited_by_the_cores_of_the_machine(rehearse, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(LimbeckError, match="num_threads must be at most 32 on this machine, which has 2 cores, got 33"):
        rehearse("num_threads=33")


def test_schedulers_that_end_with_the_stage_are_accepted(rehearse):
    rehearse("training.scheduler={use: OneCycleLR, max_lr: 0.1, total_steps: 20}")
    rehearse("training.scheduler={use: StepLR, step_size: 1, interval: epoch}")
    rehearse("training.scheduler={use: ReduceLROnPlateau, interval: epoch}")


def test_a_rehearsal_does_not_change_a_network(rehearse, tmp_path):
    job = Job.from_recipe(load_recipe(RECIPE), tmp_path)
    before = {name: tensor.clone() for name, tensor in job.build_student().state_dict().items()}
    job.validate()
    after = job.build_student().state_dict()
    assert all((tensor == after[name]).all() for name, tensor in before.items())
