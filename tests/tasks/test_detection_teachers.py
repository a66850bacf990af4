"""Teachers and losses that do not fit a detector are refused before training; those that fit work."""

from __future__ import annotations

import re
import runpy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

import limbeck
from limbeck import LimbeckError, schedules
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.data import BoxStore, InMemory, Split
from limbeck.data.module import make_splits
from limbeck.distiller import Objective
from limbeck.losses import (
    BinaryKDLoss,
    CrossEntropyLoss,
    DetectionLoss,
    DISTLoss,
    DKDLoss,
    DMLLoss,
    FitNetLoss,
    KDLoss,
    LDLoss,
    LogitMSELoss,
    QualityFocalLoss,
)
from limbeck.losses._bases import LogitLoss
from limbeck.losses.temperature import (
    Constant,
    Dynamic,
    Learned,
    LogitStandardization,
    LossAdaptive,
    PerSample,
    Scheduled,
    temperature_warnings,
)
from limbeck.models import detector
from limbeck.tasks import Detection
from limbeck.teachers import combine_teachers

detectors = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "detectors.py")))
TASK = Detection(detectors.CLASSES)
LAYERS = {key: {"last": "backbone"} for key in ("student", "retina", "fcos")}


@pytest.fixture(scope="module")
def teachers():
    return {name: detectors.tiny_detector(kind, width=8) for name, kind in (("retina", "retinanet"), ("fcos", "fcos"))}


def make_distiller(teachers, ensemble="mean_logits", **objective):
    return limbeck.Distiller(
        detectors.tiny_detector("retinanet"), teachers, objective={"target": DetectionLoss(), **objective}, task=TASK,
        feature_layers={name: LAYERS[name] for name in ("student", *teachers)}, ensemble=ensemble,
    )  # fmt: skip


def test_teachers_of_different_rows_teach_by_losses_that_name_them(teachers):
    batch = detectors.make_batch()
    losses = {"boxes": BinaryKDLoss(teacher="retina"), "features": FitNetLoss("last", teacher="fcos")}
    distiller = make_distiller(teachers, **losses).prepare(batch)
    output = distiller(batch)
    output.total.backward()
    assert min(output.by_loss["boxes"], output.by_loss["features"]) > 0
    assert distiller.forward_context(batch).teacher is None


def test_a_loss_on_both_teachers_of_different_rows_is_refused(teachers):
    message = (
        r"different shapes cannot be combined, got \{'retina': .*\}: set `teacher` of the loss to one of retina, fcos"
    )
    with pytest.raises(LimbeckError, match=message) as caught:
        make_distiller(teachers, kd=BinaryKDLoss())(detectors.make_batch())
    assert caught.value.__notes__ == ["raised by the loss 'kd'"]


def test_equally_many_rows_of_different_anchors_are_not_combined_or_compared(teachers):
    other = detectors.tiny_detector("retinanet", width=6)
    other.network.anchor_generator = AnchorGenerator(((12, 40),), ((1.0,),))
    batch, both = detectors.make_batch(), {"retina": teachers["retina"], "fcos": other}
    assert make_distiller(both, kd=BinaryKDLoss(teacher="retina"))(batch).total > 0
    message = "rows of different anchors cannot be combined, got retina, fcos: set `teacher` of the loss to one"
    with pytest.raises(LimbeckError, match=message):
        make_distiller(both, kd=BinaryKDLoss())(batch)
    with pytest.raises(LimbeckError, match="rows of an ensemble must have the same anchors, and those of retina, fcos"):
        combine_teachers(make_distiller(both).forward_context(batch).teachers)
    for loss in (BinaryKDLoss(teacher="fcos"), LDLoss(teacher="fcos")):
        message = rf"the loss 'kd' \({type(loss).__name__}\) compares rows, whose anchors must be equal, and those of"
        with pytest.raises(LimbeckError, match=message):
            make_distiller(both, kd=loss)(batch)
    features = FitNetLoss("last", teacher="fcos")
    assert make_distiller(both, kd=features).prepare(batch)(batch).total > 0


SOFTMAX_POLICIES = (PerSample(), PerSample("confidence"), Dynamic(), LogitStandardization(), LossAdaptive())
SIGMOID_POLICIES = (Constant(2.0), Scheduled(schedules.linear(3.0, 1.0)), PerSample("quality"), Learned())


@pytest.mark.parametrize("policy", [*SOFTMAX_POLICIES, Learned(granularity="sample")], ids=repr)
@pytest.mark.parametrize("loss", [BinaryKDLoss, QualityFocalLoss])
def test_temperatures_by_a_softmax_are_refused_for_sigmoids(loss, policy):
    message = f"{loss.__name__} has a sigmoid for each class, and the temperature {type(policy).__name__} needs a"
    with pytest.raises(LimbeckError, match=message):
        loss(temperature=policy)


@pytest.mark.parametrize("policy", SIGMOID_POLICIES, ids=lambda policy: type(policy).__name__)
def test_other_temperatures_are_accepted_for_sigmoids(policy):
    assert QualityFocalLoss(temperature=policy).temperature is policy
    assert BinaryKDLoss(temperature=policy).temperature is policy


def test_a_temperature_by_a_softmax_of_a_loss_of_your_own_is_refused(teachers):
    @dataclass(frozen=True)
    class Difference(LogitLoss):
        uses_softmax = False
        fn = staticmethod(lambda student, teacher, *, temperature: ((student - teacher) / temperature).square().mean())

    message = "the temperature Dynamic of the loss 'kd' needs a softmax over classes, and the head has a sigmoid"
    with pytest.raises(LimbeckError, match=message):
        make_distiller({"retina": teachers["retina"]}, kd=Difference(temperature=Dynamic()))(detectors.make_batch())
    make_distiller({"retina": teachers["retina"]}, kd=Difference(temperature=1.0))(detectors.make_batch())


@pytest.mark.parametrize("loss", [KDLoss(), DKDLoss(), DISTLoss(), CrossEntropyLoss(), DMLLoss()])
def test_losses_with_a_softmax_are_refused_for_sigmoids(loss, teachers):
    message = (
        f"the loss 'kd' ({type(loss).__name__}) needs a softmax over classes, and the head has a sigmoid for each "
    )
    message += "class: use BinaryKDLoss or QualityFocalLoss"
    with pytest.raises(LimbeckError, match=re.escape(message)):
        make_distiller({"retina": teachers["retina"]}, kd=loss)(detectors.make_batch())


@pytest.mark.parametrize("loss", [LogitMSELoss(), QualityFocalLoss()])
def test_other_losses_on_logits_are_accepted(loss, teachers):
    make_distiller({"retina": teachers["retina"]}, kd=loss)(detectors.make_batch())


def test_an_ensemble_of_probabilities_is_refused_for_sigmoids(teachers):
    both = {"retina": teachers["retina"], "fcos": detectors.tiny_detector("retinanet", width=6)}
    make_distiller(both, kd=BinaryKDLoss())(detectors.make_batch())
    with pytest.raises(LimbeckError, match=r"MeanProbabilities averages a softmax over classes.*: use mean_logits"):
        make_distiller(both, "mean_probabilities", kd=BinaryKDLoss())(detectors.make_batch())


def test_a_head_with_a_background_class_has_a_softmax():
    options = {"backbone": "mobilenet_v3_small", "classes": detectors.CLASSES, "fpn_channels": 32, "levels": 2}
    student, teacher = (detector("ssdlite", **options) for _ in range(2))
    loss = limbeck.Distiller(student, teacher, objective=KDLoss(temperature=2.0), task=TASK)(detectors.make_batch())
    assert loss.total > 0


@pytest.mark.parametrize("loss", [BinaryKDLoss(), QualityFocalLoss()])
def test_one_class_is_trained_with_its_gradient_norms(loss):
    outputs = [Outputs(logits=torch.randn(4, 1), row_to_sample=torch.arange(4)) for _ in range(2)]
    objective = Objective({"kd": loss})
    objective.collect_diagnostics = True
    output = objective(LossContext(student=outputs[0], teacher=outputs[1], teachers={"big": outputs[1]}))
    assert (list(output.temperatures), list(output.teacher_entropy)) == (["kd"], [])


def test_a_temperature_above_the_usual_range_is_a_warning():
    assert temperature_warnings({"kd": BinaryKDLoss(temperature=4.0)}, TASK) == [
        "the temperature of kd is 4, and the usual range of Detection is 1 to 3: check that this is intended"
    ]


def test_images_without_annotations_count_in_losses_on_the_teacher_only(teachers):
    store = BoxStore([torch.tensor([[4.0, 4, 30, 30]])] * 8, [torch.tensor([1])] * 8)
    split = Split.from_boxes(InMemory(torch.rand(8, 3, 64, 64)), store)
    unlabeled = InMemory(torch.rand(4, 3, 64, 64))
    data = make_splits("boxes", "abc", split, seed=0, validation=0.25, test=0.25, unlabeled=unlabeled)
    batch = data.batches(batch_size=8).batch(0)
    assert sorted(batch["num_boxes"].tolist()) == [-1] * 4 + [1] * 4
    is_labeled = batch["num_boxes"] >= 0
    distiller = make_distiller({"retina": teachers["retina"]}, kd=BinaryKDLoss())
    both, labeled = (
        distiller({name: field[mask] for name, field in batch.items()}).by_loss
        for mask in (torch.ones_like(is_labeled), is_labeled)
    )
    torch.testing.assert_close(both["target"], labeled["target"])
    assert both["kd"] != labeled["kd"]
