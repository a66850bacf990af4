"""Sliding windows, scales and flips of validation and test, against NumPy; training rows are those of one pass."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.data import Normalization
from limbeck.tasks import Segmentation
from limbeck.tasks.segmentation.inference import averaged_logits, resize, window_starts

CLASSES = 3
PLAIN = Segmentation(CLASSES)


@pytest.fixture(scope="module")
def network():
    """Depends on the border of its input (padding), so windows differ from the whole image."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, CLASSES, 5, padding=2, stride=2)).eval()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, 3, 12, 18, generator=generator)
    return {"input": image, "target": torch.randint(0, CLASSES, (2, 12, 18), generator=generator)}


def run(network, image):
    with torch.no_grad():
        return resize(network(image), image.shape[-2:])


def softmax(z):
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("window", [(12, 18), (64, 64), (12, 99)])
@pytest.mark.parametrize("overlap", [0.0, 0.9])
def test_a_window_as_large_as_the_image_is_the_plain_result(network, batch, window, overlap):
    task = Segmentation(CLASSES, window=window, overlap=overlap)
    with torch.no_grad():
        assert torch.equal(task.monitor(network, batch), PLAIN.monitor(network, batch))
        assert torch.equal(task.score(network, batch).statistics, PLAIN.score(network, batch).statistics)


@pytest.mark.parametrize(("window", "overlap"), [((6, 8), 0.5), ((5, 18), 0.0), ((12, 7), 0.3)])
def test_windows_are_averaged_as_in_numpy(network, batch, window, overlap):
    image = batch["input"]
    total, count = np.zeros((2, CLASSES, 12, 18)), np.zeros((12, 18))
    for top in window_starts(12, window[0], overlap):
        for left in window_starts(18, window[1], overlap):
            rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
            total[..., rows, columns] += run(network, image[..., rows, columns]).double().numpy()
            count[rows, columns] += 1
    assert count.min() == 1
    with torch.no_grad():
        actual = averaged_logits(lambda view: run(network, view), image, window=window, overlap=overlap)
        predictions = Segmentation(CLASSES, window=window, overlap=overlap).score(network, batch).predictions
    np.testing.assert_allclose(actual.numpy(), total / count, rtol=1e-5, atol=1e-6)
    assert np.array_equal(torch.stack(predictions).numpy(), (total / count).argmax(axis=1))


@pytest.mark.parametrize(("scales", "flip"), [((1.0,), True), ((0.5, 1.0, 1.5), False), ((0.75, 1.25), True)])
def test_scales_and_flips_average_probabilities_as_in_numpy(network, batch, scales, flip):
    image, probabilities = batch["input"], []
    for scale in scales:
        size = (round(12 * scale), round(18 * scale))
        scaled = image if scale == 1 else F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        for is_flipped in (False, True)[: 1 + flip]:
            view = torch.flip(scaled, [3]) if is_flipped else scaled
            logits = run(network, view)
            logits = torch.flip(logits, [3]) if is_flipped else logits
            logits = F.interpolate(logits, size=(12, 18), mode="bilinear", align_corners=False)
            probabilities.append(softmax(logits.double().numpy()))
    expected = np.mean(probabilities, axis=0)
    task = Segmentation(CLASSES, scales=scales, flip=flip)
    with torch.no_grad():
        actual = averaged_logits(lambda view: run(network, view), image, scales=scales, flip=flip)
        monitored = task.monitor(network, batch)
    np.testing.assert_allclose(actual.exp().numpy(), expected, rtol=1e-5, atol=1e-7)
    images, rows, columns = np.indices((2, 12, 18))
    losses = -np.log(expected[images, batch["target"].numpy(), rows, columns])
    assert float(task.metric_value(monitored, metric=task.monitored_metrics[1])) == pytest.approx(
        losses.mean(), rel=1e-5
    )


def test_a_flip_of_a_symmetric_network_is_the_plain_prediction(batch):
    network = nn.Conv2d(3, CLASSES, 1).eval()
    with torch.no_grad():
        flipped = Segmentation(CLASSES, flip=True).score(network, batch)
        plain = PLAIN.score(network, batch)
    assert torch.equal(torch.stack(flipped.predictions), torch.stack(plain.predictions))


def test_training_rows_caches_and_deployed_networks_use_one_pass(network, batch):
    task = Segmentation(CLASSES, window=(4, 4), scales=(0.5, 1.0), flip=True)
    assert repr(task) == repr(PLAIN)  # the key of a cache
    with torch.no_grad():
        assert torch.equal(task.outputs(network, batch).logits, PLAIN.outputs(network, batch).logits)

        data = SimpleNamespace(normalization=Normalization((0.0,) * 3, (1.0,) * 3))
        deployed = task.deployment_model(network, data).eval()
        assert torch.equal(task.score(deployed, batch).statistics, PLAIN.score(network, batch).statistics)


def test_the_record_has_the_settings_of_inference():
    task = Segmentation(CLASSES, window=(4, 6), overlap=0.25, scales=(0.5, 1.0), flip=True)
    metrics = task.metrics()
    metrics.update(torch.eye(CLASSES, dtype=torch.int64)[None])
    expected = {"window": [4, 6], "overlap": 0.25, "scales": [0.5, 1.0], "flip": True}
    assert metrics.compute()["inference"] == expected
    metrics = PLAIN.metrics()
    metrics.update(torch.eye(CLASSES, dtype=torch.int64)[None])
    assert "inference" not in metrics.compute()


@pytest.mark.parametrize("length", range(1, 30))
@pytest.mark.parametrize(("window", "overlap"), [(4, 0.5), (7, 0.0), (5, 0.9), (1, 0.0)])
def test_windows_cover_the_image_with_their_overlap(length, window, overlap):
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, length - window)
    steps = np.diff(starts)
    assert (steps >= 1).all()
    assert (steps <= max(1, int(window * (1 - overlap)))).all()


@pytest.mark.parametrize(("window", "overlap"), [(20, 0.9), (10, 0.8), (100, 0.07), (10, 0.7), (512, 0.75)])
def test_rounding_adds_no_windows(window, overlap):
    step = round(window * (1 - overlap))
    assert window_starts(5 * step + window, window, overlap) == [i * step for i in range(6)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"window": (0, 4)}, r"window must be height and width of at least 1 pixel, got \(0, 4\)"),
     ({"overlap": 1.0}, r"overlap must be from 0 to below 1, got 1\.0"),
     ({"scales": ()}, r"scales must be numbers above 0 and up to 8\.0, got \(\)"),
     ({"scales": (1.0, -1.0)}, r"scales must be numbers above 0")],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(LimbeckError, match=message):
        dataclasses.replace(PLAIN, **settings)
