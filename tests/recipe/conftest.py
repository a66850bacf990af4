"""The recipe of the docs, a plugin package on disk, and one way to ask for an error's sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from limbeck.core.errors import LimbeckError

DIGITS = """
name: digits
seed: 0
plugins: []                                    # packages which `use:` may import from, e.g. [mypackage]
task: {use: Classification}
data: {use: Digits, num_labeled: 200, augment: {use: Augmentation, transforms: [{use: affine, degrees: 15}],
num_views: 0}}
teachers:
  big: {use: small_cnn, width: 64, weights: runs/teacher}
student: {use: small_cnn, width: 8}
teacher_training: {epochs: 40, objective: {truth: {use: CrossEntropyLoss}}}
stages:
  - name: distill
    epochs: 30
    objective:
      truth: {use: CrossEntropyLoss, weight: 0.1}
      soft: {use: KDLoss, temperature: 4, weight: {use: linear, start: 1.0, end: 0.5}}
    feature_layers: {student: {mid: block2}, big: {mid: block2}}
training:
  optimizer: {use: AdamW, lr: 0.003}
  scheduler: {use: OneCycleLR, max_lr: 0.003, interval: step}
  batch_size: 64
  grad_accum_steps: 1
  max_grad_norm: null
  ema_decay: null
  early_stopping_patience: null
  precision: 32-true
  keep_weights: last
baselines: [student_only]
export: {to: [onnx]}
"""


@pytest.fixture
def digits() -> str:
    return DIGITS


@pytest.fixture
def sentence() -> Callable[..., str]:
    """The one line that a mistake gives."""

    def ask(call: Callable[..., Any], *args: Any, **more: Any) -> str:
        with pytest.raises(LimbeckError) as caught:
            call(*args, **more)
        text = str(caught.value)
        assert "\n" not in text
        assert "pydantic" not in text
        return text

    return ask


@pytest.fixture
def plugin(tmp_path, monkeypatch) -> str:
    """A package whose import leaves a trace, with good and bad things in it; its name."""
    name = "limbeck_test_plugin"
    folder = tmp_path / "site" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("TRACE = []\n")
    (folder / "nets.py").write_text(
        "from os import system\n"
        "from collections import OrderedDict\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, *, width: int, classes: int, act: object = print):\n"
        "        super().__init__()\n"
        "        self.width, self.classes = width, classes\n"
        "def build(width: int = 3) -> Net:\n"
        "    return Net(width=width, classes=2)\n"
        "number = 3\n"
    )
    (folder / "broken.py").write_text("raise RuntimeError('no luck\\ntoday')\n")
    (folder / "leaves.py").write_text("raise SystemExit(3)\n")
    (folder / "needs.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    yield name
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]
