"""Mixed precision rounds the inputs of matrix products, never the batch; other precisions convert every pass."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import limbeck
from limbeck.data import Augmentation, Digits, affine
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.models import small_cnn
from limbeck.teachers import CachedTeacher, FrozenTeacher
from limbeck.teachers.self_teachers import EMATeacher
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
    limbeck.training.fit(
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
    run = limbeck.training.fit(distiller, data, steps=3, training=SETTINGS, fabric=fabric, callbacks=[])
    assert run.history[-1]["grad_norm_ratio/soft"] > 0


def test_a_cache_filled_in_mixed_precision_serves_a_run_in_full_precision(data, tmp_path):
    torch.manual_seed(0)
    network, misses = small_cnn(width=8).eval(), []
    for precision in ("bf16-mixed", "32-true"):
        teacher = CachedTeacher(network, data, root=tmp_path)
        distiller = limbeck.Distiller(small_cnn(width=4), {"big": teacher}, objective={"soft": KDLoss()}, task=TASK)
        fabric = make_single_device_fabric(precision=precision)
        limbeck.training.fit(distiller, data, epochs=2, training=SETTINGS, fabric=fabric, callbacks=[])
        misses.append(teacher.misses)
    assert misses == [96 * 2, 0]


def copied(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16-true", torch.bfloat16), ("16-true", torch.float16), ("64-true", torch.float64)]
)
def test_converted_precisions_train_validate_and_give_the_types_back(data, precision, dtype):
    torch.manual_seed(0)
    student, teacher = small_cnn(width=4), small_cnn(width=8)
    before, dtypes = copied(teacher), []
    student.register_forward_hook(lambda _, args, output: dtypes.append((args[0].dtype, output.dtype)))
    distiller = limbeck.Distiller(
        student, {"big": teacher}, objective={"truth": CrossEntropyLoss(), "soft": KDLoss(), "hint": FitNetLoss("mid")},
        feature_layers={"student": {"mid": "block1"}, "big": {"mid": "block1"}}, task=TASK,
    )  # fmt: skip
    fabric = make_single_device_fabric(precision=precision)
    settings = SETTINGS.model_copy(update={"keep_weights": "best"})
    run = limbeck.training.fit(distiller, data, epochs=2, training=settings, fabric=fabric, callbacks=[])

    assert set(dtypes) == {(dtype, dtype)}, "a forward pass, perhaps of validation, missed the precision"
    assert all(0 <= row["val/accuracy"] <= 1 and row["val/nll"] > 0 for row in run.history)
    tensors = [*distiller.state_dict().values(), *teacher.state_dict().values()]
    assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32}
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert run.student(torch.zeros(2, 1, 8, 8)).dtype == torch.float32


def test_float64_is_the_plain_loop_in_float64(data):
    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    candidate, reference = network(), network().double()
    fabric = make_single_device_fabric(precision="64-true")
    distiller = limbeck.Distiller(candidate, objective={"truth": CrossEntropyLoss()}, task=TASK)
    limbeck.training.fit(distiller, data, steps=4, training=SETTINGS, fabric=fabric, callbacks=[])
    optimizer, stream = torch.optim.SGD(reference.parameters(), lr=0.05), data.batches(batch_size=32)
    for step in range(4):
        batch = stream.batch(step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(reference(batch["input"].double()), batch["target"]).backward()
        optimizer.step()
    assert torch.allclose(candidate[1].weight, reference[1].weight.float(), atol=1e-7)


def test_validation_runs_under_autocast(data):
    student, during = Ear(), []
    student.register_forward_hook(lambda *_: during.append((student.training, torch.is_autocast_enabled("cpu"))))
    distiller = limbeck.Distiller(student, objective={"truth": CrossEntropyLoss()}, task=TASK)
    fabric = make_single_device_fabric(precision="bf16-mixed")
    limbeck.training.fit(distiller, data, steps=1, training=SETTINGS, fabric=fabric, callbacks=[])
    assert set(during) == {(True, True), (False, True)}


def test_a_teacher_in_bfloat16_works_under_mixed_precision(data):
    layers = {"student": {"mid": "layer"}, "big": {"mid": "layer"}}
    distiller = limbeck.Distiller(
        Ear(), {"big": Ear().bfloat16()}, objective={"hint": FitNetLoss("mid")}, feature_layers=layers, task=TASK
    )
    fabric = make_single_device_fabric(precision="bf16-mixed")
    run = limbeck.training.fit(distiller, data, steps=1, training=SETTINGS, fabric=fabric, callbacks=[])
    assert run.history[0]["loss"] > 0


def test_an_interrupted_training_gives_the_teacher_back(data):
    teacher = Ear()
    before = copied(teacher)
    distiller = limbeck.Distiller(Ear(), {"big": teacher}, objective={"soft": KDLoss()}, task=TASK)
    distiller.student.register_forward_hook(lambda module, *_: 1 / 0 if module.training else None)
    with pytest.raises(ZeroDivisionError):
        limbeck.training.fit(
            distiller, data, steps=1, fabric=make_single_device_fabric(precision="bf16-true"), callbacks=[]
        )
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("precision", "settings", "teacher", "message"),
    [
        ("16-true", {"optimizer": torch.optim.AdamW}, None, "rounds eps=1e-08 of AdamW to 0"),
        ("16-true", {"ema_decay": 0.5}, None, "training.ema_decay averages weights"),
        ("bf16-true", {"ema_decay": 0.5}, None, "training.ema_decay averages weights"),
        ("bf16-true", {}, EMATeacher(0.5), "big averages weights"),
        ("64-true", {}, "cached", "'big', and its cache holds outputs for float32 inputs"),
        ("bf16-true", {}, "onnxruntime", "its backend onnxruntime needs float32"),
    ],
)
def test_what_cannot_work_is_refused_before_training(data, tmp_path, precision, settings, teacher, message):
    if teacher == "cached":
        teacher = CachedTeacher(Ear(), data, root=tmp_path)
    elif teacher == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is an extra: pip install 'limbeck[onnx]'")
        teacher = FrozenTeacher(Ear(), backend="onnxruntime")
    objective = {"truth": CrossEntropyLoss()} | ({} if teacher is None else {"soft": KDLoss()})
    distiller = limbeck.Distiller(Ear(), {} if teacher is None else {"big": teacher}, objective=objective, task=TASK)
    training = SETTINGS.model_copy(update=settings)
    fabric = make_single_device_fabric(precision=precision)
    with pytest.raises(limbeck.LimbeckError, match=message):
        limbeck.training.fit(distiller, data, steps=2, training=training, fabric=fabric, callbacks=[])
