"""Segmentation: rows are pixels of a class, mean IoU comes of sums over images, networks of unlike size agree."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

import limbeck
from limbeck import LimbeckError
from limbeck.core.task import DeployableTask
from limbeck.data import Normalization
from limbeck.evaluation.class_metrics import NLL
from limbeck.losses import CrossEntropyLoss, CWDLoss, KDLoss
from limbeck.models import unet
from limbeck.tasks import Segmentation
from limbeck.tasks.segmentation.report import color_mask, mark_errors

CLASSES, VOID = 4, 255
TASK = Segmentation(CLASSES)


def make_batch(num_images=6, size=(9, 12), seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, CLASSES - 1, (num_images, *size), generator=generator)
    mask[:, 0] = VOID
    mask[1, 2, 3] = CLASSES - 1  # a class of one pixel
    return {
        "input": torch.rand(num_images, 3, *size, generator=generator),
        "target": mask,
        "sample_id": torch.arange(num_images) + 10,
    }


class Fixed(nn.Module):
    """Returns logits of its own."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, image):
        return self.logits


def random_logits(size=(9, 12), num_images=6, seed=1):
    logits = torch.randn(num_images, CLASSES, *size, generator=torch.Generator().manual_seed(seed))
    logits[:, CLASSES - 1] -= 9  # never predicted
    return logits


def numpy_iou(predicted, target, weights=None):
    """Mean IoU in float64 over the classes with a union, and the IoU of each class."""
    weights = np.ones(len(target)) if weights is None else np.asarray(weights, dtype=np.float64)
    ious = []
    for c in range(CLASSES):
        intersection = union = 0.0
        for image, w in enumerate(weights):
            valid = target[image] != VOID
            p, t = (predicted[image] == c) & valid, (target[image] == c) & valid
            intersection, union = intersection + w * (p & t).sum(), union + w * (p | t).sum()
        ious.append(intersection / union if union else np.nan)
    return np.nanmean(ious), ious


def test_mean_iou_of_any_resample_is_that_of_numpy_and_torchmetrics():
    from torchmetrics.functional.classification import multiclass_jaccard_index

    batch, logits = make_batch(), random_logits()
    scores = TASK.score(Fixed(logits), batch)
    predicted, target = logits.argmax(1), batch["target"]
    expected, ious = numpy_iou(predicted.numpy(), target.numpy())
    assert float(TASK.metric_value(scores.statistics)) == pytest.approx(expected, abs=1e-12)
    # Only the second image has the last class, so it is left out where that image is not drawn.
    weights = torch.tensor([[1, 0, 2, 1, 1, 1], [0, 6, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    by_resample = [numpy_iou(predicted.numpy(), target.numpy(), w)[0] for w in weights.tolist()]
    np.testing.assert_allclose(TASK.metric_value(scores.statistics, weights).numpy(), by_resample, atol=1e-12)
    by_torchmetrics = multiclass_jaccard_index(predicted, target, num_classes=CLASSES, ignore_index=VOID)
    assert float(by_torchmetrics) == pytest.approx(expected, abs=1e-6)

    metrics = TASK.metrics()
    metrics.update(*scores.metric_args)
    values = metrics.compute()
    np.testing.assert_allclose(values["per_class"], ious)
    assert values["miou"] == pytest.approx(expected, abs=1e-12)
    valid = target != VOID
    assert values["pixel_accuracy"] == pytest.approx(float((predicted == target)[valid].double().mean()))
    recalls = [float((predicted == target)[target == c].double().mean()) for c in range(CLASSES)]
    assert values["mean_class_accuracy"] == pytest.approx(np.mean(recalls))
    assert values["class_num_samples"] == [6, 6, 6, 1]
    counts = [[int(((target == i) & (predicted == j)).sum()) for j in range(CLASSES)] for i in range(CLASSES)]
    assert values["confusion_matrix"] == {"unit": "pixels", "counts": counts}
    assert "confusion_matrix" not in Segmentation(classes=101).metrics().compute()


def test_a_class_in_neither_target_nor_predictions_is_left_out():
    batch = {"input": torch.zeros(1, 3, 1, 2), "target": torch.tensor([[[0, 1]]])}
    logits = F.one_hot(torch.tensor([[[0, 0]]]), CLASSES).permute(0, 3, 1, 2).float()
    scores = TASK.score(Fixed(logits), batch)
    assert float(TASK.metric_value(scores.statistics)) == pytest.approx((1 / 2 + 0) / 2)
    metrics = TASK.metrics()
    metrics.update(*scores.metric_args)
    assert np.isnan(metrics.compute()["per_class"]).tolist() == [False, False, True, True]


def test_monitored_values_are_mean_iou_and_the_loss_of_a_pixel():
    batch, logits = make_batch(), random_logits()
    monitored = torch.cat([
        TASK.monitor(Fixed(logits[part]), {name: value[part] for name, value in batch.items()})
        for part in (slice(0, 2), slice(2, 6))
    ])  # fmt: skip
    assert float(TASK.metric_value(monitored)) == pytest.approx(
        float(TASK.metric_value(TASK.score(Fixed(logits), batch).statistics))
    )
    log_p = logits.double().log_softmax(1).numpy()
    images, rows, columns = np.nonzero(batch["target"].numpy() != VOID)
    losses = -log_p[images, batch["target"].numpy()[images, rows, columns], rows, columns]
    assert float(TASK.metric_value(monitored, metric=NLL)) == pytest.approx(losses.mean(), rel=1e-6)


def test_rows_are_the_pixels_of_a_class_on_the_grid():
    batch, logits = make_batch(), random_logits()
    batch["target"][2] = -100  # no target: every pixel is a row
    task = Segmentation(CLASSES, stride=2)
    outputs = task.outputs(Fixed(logits), batch)
    expected_logits, expected_target, expected_sample = [], [], []
    for image in range(6):
        for row in range(0, 9, 2):
            for column in range(0, 12, 2):
                label = int(batch["target"][image, row, column])
                if label < CLASSES and (label >= 0 or image == 2):
                    expected_logits.append(logits[image, :, row, column])
                    expected_target.append(label)
                    expected_sample.append(image)
    torch.testing.assert_close(outputs.logits, torch.stack(expected_logits))
    assert task.target(batch).tolist() == expected_target
    assert outputs.row_to_sample.tolist() == expected_sample
    assert outputs.spatial_logits.shape == (6, CLASSES, 5, 6)
    assert task.outputs(Fixed(logits), batch["input"]).logits.shape == (6 * 5 * 6, CLASSES)
    assert task.target(batch["input"]) is None


def test_the_mask_of_losses_is_on_the_grid_of_spatial_logits():
    batch, task = make_batch(), Segmentation(CLASSES, stride=2)
    batch["target"][2, 4:] = -5
    outputs, mask = task.outputs(Fixed(random_logits()), batch), task.sample_targets(batch)["mask"]
    assert mask.shape == (6, *outputs.spatial_logits.shape[2:])
    on_grid = batch["target"][:, ::2, ::2]
    assert torch.equal(mask, torch.where((on_grid < 0) | (on_grid == VOID), -100, on_grid))
    assert torch.equal(mask[mask >= 0], task.target(batch))
    assert task.sample_targets({"input": batch["input"]}) == {}


def test_logits_of_another_size_are_resized_to_the_image():
    batch, small = make_batch(), random_logits(size=(4, 7))
    outputs = TASK.outputs(Fixed({"out": small}), batch)
    expected = F.interpolate(small, size=(9, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(outputs.spatial_logits, expected)
    is_row = batch["target"] != VOID
    torch.testing.assert_close(outputs.logits, expected.movedim(1, -1)[is_row])


def test_student_and_teacher_of_unlike_size_are_compared():
    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, CLASSES, 3, stride=4)

        def forward(self, image):
            return {"out": self.conv(image)}

    student, teacher = unet(width=4, depth=2, classes=CLASSES), Strided()
    objective = {"target": CrossEntropyLoss(), "kd": KDLoss(), "cwd": CWDLoss(temperature=1.0)}
    distiller = limbeck.Distiller(student, teacher, objective=objective, task=TASK)
    distiller.prepare(make_batch())
    loss = distiller(make_batch())
    loss.total.backward()
    assert loss.total.isfinite()
    assert student.classifier.weight.grad.abs().sum() > 0


def test_images_without_a_target_count_nowhere():
    batch = make_batch()
    batch["target"][0], batch["target"][4] = -100, VOID
    scores, monitored = TASK.score(Fixed(random_logits()), batch), TASK.monitor(Fixed(random_logits()), batch)
    for statistics in (scores.statistics, monitored):
        assert statistics.isnan().all(dim=1).tolist() == [True, False, False, False, True, False]
    assert len(scores.metric_args[0]) == 4
    assert TASK.score(Fixed(random_logits()), {"input": batch["input"]}).statistics.isnan().all()


def test_a_cache_outlives_other_labels():
    batch, task = make_batch(), Segmentation(CLASSES, stride=2)
    network = Fixed(random_logits())
    stored = task.encode_outputs(task.outputs(network, {"input": batch["input"]}), batch)
    decoded, expected = task.decode_outputs(stored, batch), task.outputs(network, batch)
    assert torch.equal(decoded.logits, expected.logits)
    assert torch.equal(decoded.row_to_sample, expected.row_to_sample)
    assert torch.equal(decoded.spatial_logits, expected.spatial_logits)
    with pytest.raises(LimbeckError, match=r"must be \[6, 9, 12\] for this batch and stride 1, got \[6, 5, 6\]"):
        TASK.decode_outputs(stored, batch)


def test_examples_show_the_masks_in_color():
    batch = make_batch(num_images=2)
    batch["target"][1] = VOID
    scores = TASK.score(Fixed(F.one_hot(batch["target"] % 255, CLASSES).movedim(3, 1).float()), batch)
    first, second = TASK.examples(batch, {"student": scores}, {})
    text = first.predictions["student"].text
    assert (first.sample_id, text) == (10, "mean IoU 100 %, wrong pixels in red: 0 %")
    assert all(
        panel.image.startswith(b"\x89PNG") for panel in (first.input, first.target, second.predictions["student"])
    )
    assert second.target == ("no target", b"", None)
    colors = color_mask(torch.arange(-1, 19)[None], classes=19)[:, 0].T
    assert len(colors.unique(dim=0)) == 20
    assert colors[0].tolist() == [1, 1, 1]


def test_wrong_pixels_are_red_and_those_without_a_class_are_not():
    target, predicted = torch.tensor([[0, 1, -100, 2]]), torch.tensor([[0, 2, 1, 0]], dtype=torch.uint8)
    marked = mark_errors(torch.full((3, 1, 4), 0.5), predicted, target)
    torch.testing.assert_close(marked[:, 0, [0, 2]], torch.full((3, 2), 0.35))
    torch.testing.assert_close(marked[:, 0, [1, 3]], torch.tensor([0.9, 0.1, 0.1])[:, None].expand(3, 2))


def test_predictions_stand_above_their_errors():
    batch = make_batch(num_images=2)
    predicted = batch["target"].clone()
    predicted[0, 1:3] = (predicted[0, 1:3] + 1) % 3
    scores = TASK.score(Fixed(F.one_hot(predicted % 255, CLASSES).movedim(3, 1).float()), batch)
    example = TASK.examples(batch, {"student": scores}, {})[0]
    panel = example.predictions["student"]
    assert panel.text.endswith("wrong pixels in red: 25 %")  # 2 of 8 rows; the first has no class
    image = np.asarray(Image.open(io.BytesIO(panel.image)))
    assert image.shape == (9 + 1 + 9, 12, 3)
    red = (image == [230, 26, 26]).all(axis=2)
    assert red.sum() == red[11:13].sum() == 24


def test_the_deployed_network_normalizes_and_returns_logits_of_the_size_of_the_image():
    class Data:
        normalization = Normalization((0.5,) * 3, (0.25,) * 3)

    image = torch.rand(2, 3, 9, 12)
    network = nn.Conv2d(3, CLASSES, 3, stride=3)
    deployed = TASK.deployment_model(network, Data())
    expected = F.interpolate(network((image - 0.5) / 0.25), size=(9, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(deployed(image), expected)
    assert isinstance(TASK, DeployableTask)


@pytest.mark.parametrize(
    ("target", "message"),
    [(torch.full((6, 9, 12), 7), r"classes in 0\.\.3, and 255 for no class, got 7; set the task's classes"),
     (torch.zeros(6, 9, 11, dtype=torch.long), r"the image's size, \[6, 9, 12\], got torch.int64 \[6, 9, 11\]"),
     (torch.zeros(6, 9, 12), "class indices of the image's size.*got torch.float32")],
)  # fmt: skip
def test_wrong_masks_are_refused(target, message):
    with pytest.raises(LimbeckError, match=message):
        TASK.target(make_batch() | {"target": target})


def test_logits_that_are_not_finite_are_refused():
    logits = random_logits()
    logits[0, 1, 2, 3] = torch.nan
    with pytest.raises(LimbeckError, match="logits must be finite, got NaN or infinity"):
        TASK.score(Fixed(logits), make_batch())


def test_a_network_of_other_classes_is_refused():
    with pytest.raises(LimbeckError, match=r"must be \[6, 4, rows, columns\], got \[6, 5, 9, 12\]"):
        TASK.outputs(Fixed(torch.zeros(6, 5, 9, 12)), make_batch())
    with pytest.raises(LimbeckError, match="ignore_index none of the classes"):
        Segmentation(CLASSES, ignore_index=3)
