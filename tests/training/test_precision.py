"""Mixed precision rounds the inputs of matrix products, never the batch: teachers and caches get the same images."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import limbeck
from limbeck.data import Augmentation, Digits, affine
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.models import small_cnn
from limbeck.teachers import CachedTeacher
from limbeck.training import TrainingConfig, make_single_device_fabric

TASK = limbeck.tasks.Classification(classes=10)
SETTINGS = TrainingConfig(optimizer=partial(torch.optim.SGD, lr=0.05), batch_size=32)


@pytest.fixture(scope="module")
def data():
    return Digits(num_samples=96, augment=Augmentation((affine(),), num_views=2)).load(seed=0)


class Ear(nn.Module):
    """Records the dtypes of its inputs and products."""

    def __init__(self):
        super().__init__()
        self.layer, self.dtypes = nn.Linear(64, 10), []

    def forward(self, image):
        logits = self.layer(image.flatten(1))
        self.dtypes.append((image.dtype, logits.dtype))
        return logits


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_the_batch_stays_float32_and_products_are_rounded(data, precision):
    student, teacher = Ear(), Ear()
    distiller = limbeck.Distiller(student, {"big": teacher}, objective={"soft": KDLoss()}, task=TASK)
    limbeck.fit(
        distiller, data, steps=2, training=SETTINGS, fabric=make_single_device_fabric(precision=precision), callbacks=[]
    )
    half = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
    trained = [one for one in student.dtypes if one[1] == half]
    assert len(trained) >= 2, "nothing was trained in 16 bits"
    assert {dtype for dtype, _ in student.dtypes + teacher.dtypes} == {torch.float32}


def test_gradients_are_looked_at_under_bfloat16_too(data):
    distiller = limbeck.Distiller(
        Ear(), {"big": Ear()}, objective={"truth": CrossEntropyLoss(), "soft": KDLoss()}, task=TASK
    )
    fabric = make_single_device_fabric(precision="bf16-mixed")
    run = limbeck.fit(distiller, data, steps=3, training=SETTINGS, fabric=fabric, callbacks=[])
    assert run.history[-1]["grad_norm_ratio/soft"] > 0


def test_a_cache_filled_in_mixed_precision_serves_a_run_in_full_precision(data, tmp_path):
    torch.manual_seed(0)
    network, misses = small_cnn(width=8).eval(), []
    for precision in ("bf16-mixed", "32-true"):
        teacher = CachedTeacher(network, data, root=tmp_path)
        distiller = limbeck.Distiller(small_cnn(width=4), {"big": teacher}, objective={"soft": KDLoss()}, task=TASK)
        fabric = make_single_device_fabric(precision=precision)
        limbeck.fit(distiller, data, epochs=2, training=SETTINGS, fabric=fabric, callbacks=[])
        misses.append(teacher.misses)
    assert misses == [96 * 2, 0]
