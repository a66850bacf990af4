"""Accuracies count labelled rows only, also with targets as probabilities; and a training on mixed views runs."""

import math

import pytest
import torch
from torch import nn

import limbeck
from limbeck.data import Augmentation, Digits, affine, cutmix, default_augmentation, mixup
from limbeck.distiller.objective import LossOutput
from limbeck.evaluation import collect_logits
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.training import TrainingConfig, make_single_device_fabric
from limbeck.training.epoch_validation import run_validation
from limbeck.training.metric_accumulator import MetricAccumulator

TASK = limbeck.tasks.Classification(3)
FABRIC = make_single_device_fabric()
LOGITS = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [4.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
# The first is right by a hair, the second wrong; the last two have no target, though class 0 is predicted.
MIXED = torch.tensor([[0.6, 0.4, 0.0], [0.5, 0.2, 0.3], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def test_rows_of_zeros_count_neither_as_right_nor_as_wrong():
    meter = MetricAccumulator()
    meter.update(LossOutput(torch.tensor(0.0), {}, {}, LOGITS, MIXED), 4)
    meter.update(LossOutput(torch.tensor(0.0), {}, {}, LOGITS, torch.tensor([0, -100, -100, -100])), 4)
    assert meter.compute()["train/accuracy"] == pytest.approx(2 / 3)
    assert meter.num_samples == 8


@pytest.mark.parametrize(
    ("logits", "target"),
    [
        (LOGITS, torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])),  # several labels
        (LOGITS, torch.randn(4, 3)),  # values to regress
        (LOGITS[:, :1], torch.randn(4, 1)),
        (LOGITS[:, :1], torch.tensor([0, 0, 0, 0])),
        (LOGITS, torch.tensor([0.5, 1.5, 2.0, 1.0])),
        (torch.zeros(2**18 + 1, 4), torch.zeros(2**18 + 1, dtype=torch.long)),  # pixels: too many for each step
        (LOGITS, None),
    ],
)
def test_rows_without_one_class_each_have_no_accuracy(logits, target):
    meter = MetricAccumulator()
    meter.update(LossOutput(torch.tensor(0.0), {}, {}, logits, target), 2)
    assert "train/accuracy" not in meter.compute()
    assert meter.num_samples == 2
    meter.reset()
    meter.update(LossOutput(torch.tensor(0.0), {}, {}, LOGITS, torch.tensor([0, 1, 0, 0])), 4)
    assert meter.reduce(lambda value: [value, value])._has_classes == meter._has_classes


def test_measuring_leaves_rows_of_zeros_out():
    result = run_validation(nn.Identity(), [(LOGITS, MIXED)], TASK, FABRIC)
    q = LOGITS.double().softmax(1)
    assert result["val/accuracy"] == 0.5
    assert result["val/nll"] == pytest.approx(-(math.log(q[0, 0]) + math.log(q[1, 0])) / 2, rel=1e-6)
    assert run_validation(nn.Identity(), [(LOGITS, torch.zeros(4, 3))], TASK, FABRIC) == {}
    assert collect_logits(nn.Identity(), [(LOGITS, MIXED)], TASK)[1].tolist() == [0, 0, -100, -100]


@pytest.mark.parametrize(
    "views",
    [default_augmentation(crop=1, num_views=4, repeats=2), Augmentation((affine(), mixup(), cutmix(p=0.5)))],
    ids=["composite", "both"],
)
def test_a_student_learns_from_mixed_images_of_which_most_have_no_label(views):
    data = Digits(num_labeled=100, num_samples=400, augment=views).load(seed=0)

    def network(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    distiller = limbeck.Distiller(
        network(0), network(1), objective={"truth": CrossEntropyLoss(), "soft": KDLoss()},
        weights={"truth": 1.0, "soft": 0.0}, task=limbeck.tasks.Classification(10),
    )  # fmt: skip
    training = TrainingConfig(optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.01), batch_size=100)
    run = limbeck.training.fit(distiller, data, epochs=40, training=training, callbacks=[])
    assert all(math.isfinite(row["loss"]) for row in run.history)
    assert 0 < run.history[-1]["train/accuracy"] < 1
    assert run.history[-1]["val/accuracy"] > 0.5
