"""Losses, callbacks and loggers of a user in a recipe."""

import csv

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.recipe import load_recipe, resolve_recipe, to_yaml
from limbeck.testing import make_context
from limbeck.workflows import distill
from limbeck.workflows._job.training_hooks import finalize_loggers

MODULE = """
from collections.abc import Mapping

from torch import Tensor

from limbeck.training.callbacks import Callback

LOGGED = []


def squared_error(student: Tensor, teacher: Tensor, power: int = 2) -> Tensor:
    return (student - teacher).abs().pow(power).mean()


def confident(context, floor: float = 0.0) -> Tensor:
    return context.student.require_logits().float().softmax(dim=1).amax(dim=1).clamp(min=floor).mean()


class AddMetric(Callback):
    def __init__(self, name: str, value: float = 1.0):
        self.name, self.value = name, value

    def on_epoch_end(self, rows):
        rows[-1][self.name] = self.value


class ListLogger:
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        LOGGED.append((step, dict(metrics)))

    def finalize(self, status: str) -> None:
        LOGGED.append((status, {}))


class NoHook:
    pass


def make_noise(width: int) -> Tensor:
    raise RuntimeError("it must not be called")
"""
RECIPE = """
plugins: [own_parts]
task: Classification
data: {use: Digits, num_labeled: 20, num_samples: 40}
teachers: {teacher: {use: small_cnn, width: 8}}
student: {use: small_cnn, width: 4}
teacher_training: {steps: 1, objective: {target: CrossEntropyLoss}}
stages:
  - name: distill
    steps: 2
    objective:
      pair: {use: "own_parts:squared_error", power: 1, weight: 0.5}
      context: {use: "own_parts:confident"}
callbacks: [{use: "own_parts:AddMetric", name: val/own}]
loggers: ["own_parts:ListLogger"]
baselines: []
"""


@pytest.fixture
def own_parts(tmp_path, monkeypatch):
    (tmp_path / "own_parts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    import sys

    sys.modules.pop("own_parts", None)


@pytest.mark.usefixtures("own_parts")
def test_a_run_uses_the_losses_callbacks_and_loggers_of_its_recipe(tmp_path):
    recipe = load_recipe(RECIPE)
    losses, weights = resolve_recipe(recipe).stages[0].build_objective()
    context = make_context()
    student, teacher = context.pair()
    expected = (student.require_logits() - teacher.require_logits()).abs().mean()
    torch.testing.assert_close(losses["pair"](context), expected)
    assert weights["pair"] == 0.5
    assert "power: 1" in to_yaml(recipe)
    record = distill(recipe, run_dir=tmp_path / "run", callbacks=[])
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["phase"]: row["val/own"] for row in rows} == {"teacher": "1", "distilled": "1"}
    import own_parts

    assert any("distilled/val/accuracy" in metrics for _, metrics in own_parts.LOGGED)
    assert [status for status, metrics in own_parts.LOGGED if not metrics] == ["success", "success"]
    with pytest.raises(KeyboardInterrupt), finalize_loggers([own_parts.ListLogger(), own_parts.NoHook()]):
        raise KeyboardInterrupt
    assert own_parts.LOGGED[-1] == ("failed", {})
    assert record["models"]["distilled"]["steps"] == 2


@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("callbacks=[{use: 'own_parts:NoHook'}]", "callbacks.0: own_parts:NoHook must be a class of type Callback"),
        ("callbacks=[{use: 'own_parts:AddMetric'}]", "callbacks.0: own_parts:AddMetric needs 'name', text"),
        ("callbacks=[ProgressBar]", "callbacks.0: no callback is named 'ProgressBar'"),
        ("loggers=[wandb]", "loggers.0: 'wandb' is not one of 'tensorboard', 'mlflow', nor a class of your own as"),
        ("loggers=['own_parts:NoHook']", "loggers.0: own_parts:NoHook must be a class of type Logger or MetricsLogger"),
        ("stages.0.objective.pair.powr=2", "own_parts:squared_error has no setting 'powr'; did you mean 'power'?"),
        ("stages.0.objective.pair.student=2", "own_parts:squared_error has no setting 'student'"),
        (
            "stages.0.objective.pair={use: 'own_parts:make_noise', width: 1}",
            "must be annotated to return Loss or",
        ),
        ("teachers={}", "stages.0.objective.pair: own_parts:squared_error compares with a teacher"),
    ],
)
def test_a_mistake_is_one_sentence_before_training(tmp_path, override, message):
    with pytest.raises(LimbeckError) as error:
        distill(load_recipe(RECIPE, [override]), run_dir=tmp_path / "run", callbacks=[])
    assert message in str(error.value)
    assert not (tmp_path / "run" / "recipe.yaml").exists()
