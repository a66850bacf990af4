"""Detection: rows are anchors, mAP of any resample of images is that of pycocotools, images without boxes count."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import limbeck
from limbeck import LimbeckError
from limbeck.core.task import DeployableTask, Scores
from limbeck.data import InMemory, Normalization, Split, iterate_batches
from limbeck.data.box_store import CROWD, BoxStore
from limbeck.data.module import make_splits
from limbeck.evaluation.metric_bootstrap import paired_gain
from limbeck.export import ModelMetadata, export_task, read_model_metadata
from limbeck.losses import DetectionLoss, FitNetLoss, LogitMSELoss
from limbeck.models import detector
from limbeck.tasks import Detection
from limbeck.tasks.detection.boxes import Detections, TargetBoxes, select_detections
from limbeck.tasks.detection.deploy import suppress_batch
from limbeck.teachers import FrozenTeacher, InputMapping, adapt_teacher
from limbeck.testing import check_task

detectors = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "detectors.py")))
CLASSES, make_batch, random_boxes, tiny_detector = (
    detectors.CLASSES, detectors.make_batch, detectors.random_boxes, detectors.tiny_detector
)  # fmt: skip
TASK = Detection(CLASSES)


def random_images(num_images=30, seed=0, crowds=False):
    """Boxes of each image, and detections near some of them, as a network that is right now and then.

    With ``crowds`` a third of the boxes are large and ignored.
    """
    generator = torch.Generator().manual_seed(seed)
    images = []
    for i in range(num_images):
        boxes, labels = random_boxes(i % 6, generator), torch.randint(0, CLASSES, (i % 6,), generator=generator)
        near = (
            boxes + torch.randn(boxes.shape, generator=generator) * torch.rand(len(boxes), 1, generator=generator) * 9
        )
        found = torch.cat([near, near[:2] + 1, random_boxes(4, generator)])
        found[:, 2:] = found[:, 2:].maximum(found[:, :2] + 1)
        found_labels = torch.cat([labels, labels[:2], torch.randint(0, CLASSES, (4,), generator=generator)])
        scores, order = torch.rand(len(found), generator=generator).sort(descending=True)
        ignored = torch.zeros_like(labels)
        if crowds:  # around two boxes
            ignored[2::3] = CROWD
            boxes[2::3, 2:] += 60
        images.append((Detections(found[order], scores, found_labels[order]), TargetBoxes(boxes, labels, ignored)))
    return images


def statistics_of(images):
    found, targets = zip(*images, strict=True)
    return TASK._statistics(list(found), list(targets))


def evaluate_by_pycocotools(images):
    """The twelve numbers of pycocotools, and AP by class."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def to_xywh(box):
        left, top, right, bottom = box.double().tolist()
        return [left, top, right - left, bottom - top]

    truth, found = COCO(), []
    truth.dataset = {"images": [], "annotations": [], "categories": [{"id": c} for c in range(CLASSES)]}
    for i, (detections, target) in enumerate(images):
        truth.dataset["images"].append({"id": i})
        for box, label, crowd in zip(target.boxes, target.labels.tolist(), target.ignored.tolist(), strict=True):
            xywh, number = to_xywh(box), len(truth.dataset["annotations"]) + 1
            truth.dataset["annotations"].append(
                {
                    "id": number,
                    "image_id": i,
                    "category_id": label,
                    "bbox": xywh,
                    "area": xywh[2] * xywh[3],
                    "iscrowd": int(crowd == CROWD),
                }
            )
        found += [
            {"image_id": i, "category_id": label, "bbox": to_xywh(box), "score": score}
            for box, score, label in zip(
                *(part if part.ndim > 1 else part.tolist() for part in detections), strict=True
            )
        ]
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    by_class = [float(precision[:, :, c][precision[:, :, c] > -1].mean()) for c in range(CLASSES)]
    return evaluation.stats, by_class


@pytest.mark.parametrize("crowds", [False, True])
def test_metrics_are_those_of_pycocotools(crowds):
    pytest.importorskip("pycocotools")
    images = random_images(crowds=crowds)
    metrics = TASK.metrics()
    for part in (images[:7], images[7:]):
        metrics.update(*zip(*part, strict=True))
    values = metrics.compute()
    expected, by_class = evaluate_by_pycocotools(images)
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
    np.testing.assert_allclose([values[name] for name in names], expected[:6], atol=1e-6)
    np.testing.assert_allclose(values["per_class"], by_class, atol=1e-6)
    assert 0.1 < values["map"] < 0.9
    statistics = statistics_of(images)
    for name in ("map", "map_50", "map_75"):
        spec = next(spec for spec in TASK.metric_specs if spec.name == name)
        assert float(TASK.metric_value(statistics, metric=spec)) == pytest.approx(values[name], abs=1e-12)


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
def test_metrics_are_those_of_torchmetrics(backend, crowds):
    pytest.importorskip(backend, reason=f"pip install {backend.replace('_', '-')}")
    mean_ap = pytest.importorskip("torchmetrics.detection", reason="pip install torchmetrics")
    images = random_images(crowds=crowds, seed=1)
    metrics = TASK.metrics()
    metrics.update(*zip(*images, strict=True))
    values = metrics.compute()
    # COCO's thresholds, in float64: those that torchmetrics has by default are rounded to float32, so that an IoU or a
    # recall that is equal to a threshold can be below it.
    reference = mean_ap.MeanAveragePrecision(
        backend=backend,
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
    )
    reference.update(
        [found._asdict() for found, _ in images],
        [{"boxes": x.boxes, "labels": x.labels, "iscrowd": (x.ignored == CROWD).long()} for _, x in images],
    )
    expected = reference.compute()
    for name in ("map", "map_50", "map_75", "map_small", "map_medium", "map_large"):
        assert values[name] == pytest.approx(float(expected[name]), abs=1e-6), name


@pytest.mark.parametrize("crowds", [False, True])
def test_map_of_a_resample_is_that_of_pycocotools_for_its_images(crowds):
    pytest.importorskip("pycocotools")
    images = random_images(crowds=crowds)
    weights = torch.randint(0, 4, (3, len(images)), generator=torch.Generator().manual_seed(1))
    values = TASK.metric_value(statistics_of(images), weights)
    for value, counts in zip(values.tolist(), weights.tolist(), strict=True):
        resample = [image for image, count in zip(images, counts, strict=True) for _ in range(count)]
        assert value == pytest.approx(evaluate_by_pycocotools(resample)[0][0], abs=1e-6)


def test_map_does_not_depend_on_the_order_of_images_with_equal_scores():
    images = [(Detections(f.boxes, (f.scores * 4).ceil() / 4, f.labels), target) for f, target in random_images()]
    statistics = statistics_of(images)
    values = [TASK.metric_value(rows) for rows in (statistics, statistics.flip(0), statistics.unique(dim=0))]
    assert float(values[0]) == pytest.approx(float(values[1]), abs=1e-12)
    assert float(values[0]) == pytest.approx(float(TASK.metric_value(statistics.repeat(2, 1))), abs=1e-12)


def test_the_bootstrap_has_1000_resamples():
    first, second = statistics_of(random_images(20)), statistics_of(random_images(20, seed=1))
    result = paired_gain(TASK, first, first.where(torch.arange(20)[:, None] % 2 == 0, second))
    assert result.num_resamples == 1_000


def test_without_any_box_the_map_is_undefined():
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    image = (nothing, TargetBoxes(torch.zeros(0, 4), *torch.zeros(2, 0, dtype=torch.long)))
    assert TASK.metric_value(statistics_of([image])).isnan()
    metrics = TASK.metrics()
    metrics.update(*zip(image, strict=True))
    assert np.isnan(metrics.compute()["map"])


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    options = {"classes": CLASSES, "fpn_channels": 32, "levels": 3}
    return [detector("retinanet", backbone=name, **options) for name in ("resnet18", "mobilenet_v3_small")]


LAYERS = {"p3": "backbone.fpn#0", "p4": "backbone.fpn#1"}


def test_student_and_teacher_with_equal_anchors_have_equal_rows(networks):
    batch, (teacher, student) = make_batch(), networks
    context = limbeck.Distiller(
        student,
        teacher,
        objective=LogitMSELoss(),
        task=TASK,
        feature_layers=dict.fromkeys(("student", "teacher"), LAYERS),
    ).forward_context(batch)
    for name in ("anchors", "level"):
        assert torch.equal(context.student.by_row[name], context.teacher.by_row[name])
    rows = len(context.student.require_logits())
    assert context.student.row_to_sample.bincount().tolist() == [rows // 4] * 4
    assert context.student.feature("p4").shape == context.teacher.feature("p4").shape == (4, 32, 4, 6)
    assert context.sample_targets["image_size"].tolist() == [[64, 96]] * 4
    assert context.sample_targets["boxes"] is batch["boxes"]
    assert context.teacher.extra == {}
    assert context.student.extra.keys() == {"loss_classification", "loss_bbox_regression"}
    deltas, anchors = context.student.by_row["box_deltas"], context.student.by_row["anchors"]
    sizes = anchors[:, 2:] - anchors[:, :2]
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[:, :2] * sizes
    sides = sizes * deltas[:, 2:].exp()
    expected = torch.cat([centers - sides / 2, centers + sides / 2], dim=1)
    torch.testing.assert_close(context.student.by_row["boxes"], expected, rtol=1e-4, atol=1e-3)


def test_with_other_anchors_losses_on_logits_are_refused_and_losses_on_features_work(networks):
    teacher = detector("fcos", backbone="mobilenet_v3_small", classes=CLASSES, fpn_channels=64, levels=3)
    objective = {"target": DetectionLoss(), "p3": FitNetLoss("p3")}
    layers = dict.fromkeys(("student", "teacher"), LAYERS)
    distiller = limbeck.Distiller(networks[1], teacher, objective=objective, task=TASK, feature_layers=layers)
    distiller.prepare(make_batch())
    loss = distiller(make_batch())
    loss.total.backward()
    assert loss.by_loss["p3"] > 0
    distiller = limbeck.Distiller(networks[1], teacher, objective=LogitMSELoss(), task=TASK)
    with pytest.raises(LimbeckError, match="both need the same rows"):
        distiller(make_batch())


def test_networks_and_batches_that_do_not_fit_are_refused(networks):
    batch = make_batch()
    with pytest.raises(LimbeckError, match="takes a list: give"):
        TASK.outputs(networks[0].network, batch)
    with pytest.raises(
        LimbeckError, match="must return logits, box_deltas, row_boxes, anchors, level by name, got a T"
    ):
        TASK.outputs(nn.Conv2d(3, 3, 1), {"input": batch["input"]})
    with pytest.raises(LimbeckError, match="labels of boxes must be from 0 to 1, got 2: set the task's classes"):
        Detection(2).outputs(networks[1], batch)
    with pytest.raises(LimbeckError, match="scores of the network must be of 4 classes, got 3"):
        Detection(4).score(networks[1].eval(), batch)
    with pytest.raises(LimbeckError, match="DetectionLoss needs the losses of the student on its boxes, got none"):
        limbeck.Distiller(networks[1], objective=DetectionLoss(), task=TASK)({"input": batch["input"]})


def test_a_teacher_has_its_own_normalization_and_no_input_size(networks):
    data, own = Normalization((0.2,) * 3, (0.5,) * 3), Normalization((0.5,) * 3, (0.5,) * 3)
    network = networks[0].requires_grad_(True)  # trained, so it is called with the boxes
    adapted = adapt_teacher(network, InputMapping(data_normalization=data, teacher_normalization=own))
    batch = make_batch()
    expected = TASK.outputs(network, {**batch, "input": own.apply(data.invert(batch["input"]))})
    outputs = TASK.outputs(adapted, batch)
    torch.testing.assert_close(outputs.logits, expected.logits)
    torch.testing.assert_close(outputs.extra["loss_classification"], expected.extra["loss_classification"])
    teacher = FrozenTeacher(adapted, LAYERS)
    assert teacher.predict((batch["input"],), TASK).feature("p4").shape == (4, 32, 4, 6)
    resized = adapt_teacher(network, InputMapping(data_normalization=data, input_size=32))
    with pytest.raises(LimbeckError, match=r"must take images of the size of the data.*remove input_size"):
        TASK.outputs(resized, batch)


@pytest.mark.parametrize("name", ["classes", "max_detections", "nms_threshold"])
def test_settings_out_of_bounds_are_refused(name):
    with pytest.raises(LimbeckError, match=f"{name}.* must be|{name} in"):
        Detection(**{"classes": 3, name: 0})
    with pytest.raises(LimbeckError, match="max_detections must be from 1 to 10000, got 1000000000"):
        Detection(3, max_detections=10**9)


@pytest.mark.parametrize(("name", "value"), [("scores", torch.nan), ("boxes", torch.inf)])
def test_outputs_that_are_not_finite_are_refused(networks, name, value):
    class Network(nn.Module):
        def forward(self, images):
            raw = networks[1].eval()(images)
            raw[name][1, 0, 0] = value
            return raw

    with torch.no_grad(), pytest.raises(LimbeckError, match=f"{name} of the network must be finite, got NaN or inf"):
        TASK.score(Network(), make_batch())


def test_a_score_of_nan_leaves_the_other_detections_as_they_are():
    boxes = torch.tensor([[0.0, 0, 2, 2], [4, 4, 6, 6], [8, 8, 9, 9]])
    found = select_detections(
        boxes, torch.tensor([[torch.nan], [0.9], [0.8]]), score_threshold=0.5, nms_threshold=0.5, num_candidates=3,
        max_detections=3,
    )  # fmt: skip
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])
    assert found.boxes.tolist() == boxes[1:].tolist()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    store = BoxStore(
        [random_boxes(i % 4, generator, side=40) for i in range(24)],
        [torch.randint(0, CLASSES, (i % 4,), generator=generator) for i in range(24)],
    )
    split = Split.from_boxes(InMemory(torch.rand(24, 3, 64, 64, generator=generator)), store)
    return make_splits("boxes", "abc", split, seed=0, validation=0.25, test=0.25)


def perfect_outputs(network, batch):
    """The outputs of ``network``, with the boxes of the target as its only detections."""
    with torch.no_grad():
        raw = dict(network(batch["input"]))
    raw["boxes"], raw["scores"] = raw["boxes"].clone(), torch.zeros_like(raw["scores"])
    for i, count in enumerate(batch["num_boxes"].tolist()):
        for k in range(count):
            raw["boxes"][i, k], raw["scores"][i, k, batch["labels"][i, k]] = batch["boxes"][i, k], 1.0
    return raw | {"loss_classification": torch.zeros(())}


@pytest.mark.parametrize("settings", [{}, {"export_nms": True}])
def test_the_task_keeps_the_contract(data, settings):
    task = Detection(CLASSES, score_threshold=0.0, max_detections=20, **settings)
    assert isinstance(task, DeployableTask)
    network, teacher = tiny_detector("retinanet"), tiny_detector("retinanet", width=8)
    check_task(task, data, network, teacher=teacher, oracle=lambda batch: perfect_outputs(network, batch))


def test_a_cache_of_few_rows_keeps_those_of_the_highest_scores():
    task, batch = Detection(CLASSES, cached_rows=10), make_batch()
    with torch.no_grad():
        outputs = task.outputs(tiny_detector("retinanet"), batch)
    stored = task.encode_outputs(outputs, batch)
    assert sum(tensor[0].numel() for tensor in stored.values()) == 10 * (CLASSES + 4 + 4 + 1) + CLASSES + 1
    decoded = task.decode_outputs(stored, batch)
    is_cached, logits = decoded.by_row["is_cached"], outputs.require_logits()
    assert is_cached.reshape(4, -1).sum(dim=1).tolist() == [10] * 4
    for tensors in (
        (decoded.require_logits(), logits),
        *((decoded.by_row[name], outputs.by_row[name]) for name in ("boxes", "box_deltas")),
    ):
        torch.testing.assert_close(tensors[0][is_cached], tensors[1][is_cached])
    best = logits.amax(dim=1).reshape(4, -1)
    assert best[is_cached.reshape(4, -1)].reshape(4, 10).amin(dim=1).tolist() == best.topk(10).values[:, -1].tolist()
    torch.testing.assert_close(decoded.require_logits().reshape(4, -1, 3).mean(1), logits.reshape(4, -1, 3).mean(1))
    assert torch.equal(decoded.row_to_sample, outputs.row_to_sample)
    assert "anchors" not in decoded.by_row


@pytest.mark.parametrize(("name", "export_nms"), [("retinanet", False), ("fcos", True)])
def test_an_exported_file_gives_the_detections_of_torch(data, name, export_nms, tmp_path):
    network, task = tiny_detector(name), Detection(CLASSES, export_nms=export_nms)
    batches = list(iterate_batches(data.validation, None, batch_size=4))
    metadata = ModelMetadata(task="Detection", class_names=("a", "b", "c"), output=task.output_description)
    info = export_task(
        task, task.deployment_model(network, data), batches, tmp_path / "net.onnx", metadata=metadata, tolerance=1e-3
    )
    assert info["label_agreement"] > 0.99
    text = read_model_metadata(tmp_path / "net.onnx").output
    assert ("after non-maximum suppression" in text) == export_nms
    assert ("without non-maximum suppression" in text) != export_nms


def test_suppression_of_a_batch_is_that_of_each_image():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.stack([random_boxes(60, generator) for _ in range(3)])
    scores = torch.rand(3, 60, CLASSES, generator=generator) ** 3
    settings = {"score_threshold": 0.2, "nms_threshold": 0.4, "num_candidates": 100, "max_detections": 12}
    for i, (found_boxes, found_scores, labels) in enumerate(
        zip(*suppress_batch(boxes, scores, **settings), strict=True)
    ):
        expected = select_detections(boxes[i], scores[i], **settings)
        count = len(expected.scores)
        assert labels[:count].tolist() == expected.labels.tolist()
        assert (labels[count:] == -1).all()
        torch.testing.assert_close(found_boxes[:count], expected.boxes)
        torch.testing.assert_close(found_scores[:count], expected.scores)


def test_examples_mark_false_and_missed_boxes():
    batch = {
        "input": torch.zeros(1, 1, 40, 40), "sample_id": torch.tensor([7]), "num_boxes": torch.tensor([2]),
        "boxes": torch.tensor([[[2.0, 2, 12, 12], [20, 20, 38, 38]]]), "labels": torch.tensor([[0, 1]]),
    }  # fmt: skip
    found = Detections(
        torch.tensor([[2.0, 2, 12, 12], [20, 20, 38, 38], [0, 30, 5, 39]]), torch.tensor([0.9, 0.8, 0.1]),
        torch.tensor([0, 0, 1]),
    )  # fmt: skip
    scores = {"student": Scores(torch.zeros(1, 1), [found])}
    (example,) = TASK.examples(batch, scores, {"class_names": ["cell", "plate", "other"]})
    assert example.sample_id == 7
    assert example.target.text == "1 cell, 1 plate"
    assert example.predictions["student"].text == "1 correct, 1 false (red), 1 missed (yellow)"
    pixels = torchvision.io.decode_image(
        torch.frombuffer(bytearray(example.predictions["student"].image), dtype=torch.uint8)
    )
    assert pixels[:, 2, 2].tolist() == [26, 204, 51]
    assert pixels[0, 20, 20:38].min() == 255
    nothing = {**batch, "num_boxes": torch.tensor([-1])}
    (example,) = TASK.examples(nothing, scores, {})
    assert (example.target.text, example.predictions["student"].text) == ("not annotated", "2 found")
