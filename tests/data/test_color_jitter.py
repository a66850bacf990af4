"""Color jitter is torchvision's, image by image, and a resized crop is too."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as v2

from limbeck.core.errors import LimbeckError
from limbeck.data import color_jitter, random_resized_crop
from limbeck.data.counter_rng import CounterRNG
from limbeck.data.transforms.color_jitter import adjust_color_, adjust_hue
from limbeck.data.transforms.geometry import RandomResizedCrop

KERNELS = (v2.adjust_brightness, v2.adjust_contrast, v2.adjust_saturation, v2.adjust_hue)


def make_images(many, channels=3, height=9, width=7):
    return torch.rand(many, channels, height, width, generator=torch.Generator().manual_seed(0))


def draws(many, seed=0):
    return CounterRNG.for_samples(torch.arange(many), torch.zeros(many, dtype=torch.long), seed=seed, transform_index=0)


def by_torchvision(jitter, images, drawn):
    """Each image by v2's own functions, in the order and by the factors that were drawn for it."""
    shown = []
    for image, numbers in zip(images, drawn.uniform(8).tolist(), strict=True):
        ends = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        factors = [low + (high - low) * number for (low, high), number in zip(ends, numbers[:4], strict=True)]
        for what in sorted(range(4), key=lambda i: numbers[4 + i]):
            image = KERNELS[what](image, factors[what])
        shown.append(image)
    return torch.stack(shown)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"hue": 0.5, "contrast": 2.0}, {"saturation": (0.0, 5.0), "hue": 0.0}])
def test_color_jitter_equals_torchvision_for_each_image(channels, settings):
    jitter, images, drawn = color_jitter(**settings), make_images(200, channels), draws(200)
    torch.testing.assert_close(jitter(images, drawn), by_torchvision(jitter, images, drawn), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("what", "kernel"), list(enumerate(KERNELS[:3])))
def test_each_adjustment_equals_torchvision(what, kernel):
    images, factor = make_images(20), torch.linspace(0, 3, 20)
    expected = torch.stack([kernel(image, float(f)) for image, f in zip(images, factor, strict=True)])
    torch.testing.assert_close(
        adjust_color_(images.clone(), torch.full((20,), what), factor), expected, rtol=0, atol=1e-6
    )


def test_hue_is_that_of_pythons_own_hsv():
    images, turn = make_images(8, 3, 3, 3), torch.tensor([-0.5, -0.2, 0.0, 0.1, 0.25, 1 / 3, 0.49, 0.5])
    images[0, :, 0, 0] = 0.4  # gray has no hue
    images[1, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
    images[2, :, 0, 0] = 0.0
    shown = adjust_hue(images, turn)
    for i in range(8):
        for place in np.ndindex(3, 3):
            hue, saturation, value = colorsys.rgb_to_hsv(*images[(i, slice(None), *place)].tolist())
            expected = colorsys.hsv_to_rgb((hue + float(turn[i])) % 1, saturation, value)
            assert shown[(i, slice(None), *place)].tolist() == pytest.approx(expected, abs=2e-6)


def test_every_order_and_the_whole_of_each_range_are_drawn():
    jitter, drawn = color_jitter(0.4, 0.2, 0.1, 0.05), draws(4000).uniform(8)
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (
        (0.6, 1.4), (0.8, 1.2), (0.9, 1.1), (-0.05, 0.05),
    )  # fmt: skip
    orders = [tuple(order) for order in drawn[:, 4:].argsort(1).tolist()]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 24
    assert ((counts - 4000 / 24) ** 2 / (4000 / 24)).sum() < 23 + 5 * 46**0.5
    grey = torch.full((4000, 1, 1, 1), 0.5)
    shown = color_jitter(0.4, 0.0, 0.0, 0.0)(grey, draws(4000)).flatten() / 0.5
    assert 0.6 <= shown.min() < 0.605
    assert 1.395 < shown.max() <= 1.4


def test_grey_images_keep_what_they_have_of_colour():
    grey = make_images(30, 1)
    assert torch.equal(color_jitter(0.0, 0.0, 0.9, 0.5)(grey, draws(30)), grey)
    assert not torch.equal(color_jitter(0.3, 0.0, 0.9, 0.5)(grey, draws(30)), grey)


def test_color_jitter_does_not_depend_on_the_batch_and_changes_nothing_in_place():
    images, sample, view = make_images(30, 3, 32, 32), torch.arange(30) * 3, torch.arange(30) % 4
    before, jitter = images.clone(), color_jitter()

    def shown(rows):
        return jitter(images[rows], CounterRNG.for_samples(sample[rows], view[rows], seed=5, transform_index=2))

    whole = shown(torch.arange(30))
    assert torch.equal(images, before)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(shown(order), whole[order], rtol=0, atol=1e-6)
    for i in (0, 13, 29):
        torch.testing.assert_close(shown(torch.tensor([i]))[0], whole[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 2, 5, 5), (4, 4, 5, 5), (4, 7)])
def test_other_channels_are_refused(shape):
    with pytest.raises(LimbeckError, match=r"images must have 1 or 3 channels for color_jitter, got \["):
        color_jitter()(torch.rand(shape), draws(4))


@pytest.mark.parametrize(
    "settings",
    [
        {"brightness": -0.1}, {"contrast": (1.2, 0.8)}, {"saturation": (-0.1, 1.0)}, {"hue": 0.6}, {"hue": (-0.7, 0.1)},
        {"brightness": math.nan}, {"contrast": math.inf}, {"hue": -0.1},
    ],
)  # fmt: skip
def test_impossible_jitter_is_refused(settings):
    with pytest.raises(LimbeckError, match=r"must be .*got"):
        color_jitter(**settings)


def test_jitter_of_nothing_is_refused():
    with pytest.raises(LimbeckError, match="must change something"):
        color_jitter(0, 0, 0, 0)


# Resized crop


@pytest.mark.parametrize("channels", [1, 3])
def test_a_resized_crop_is_torchvisions_of_the_same_box(channels):
    images, crop, drawn = make_images(40, channels, 16, 20), random_resized_crop((0.1, 1.0)), draws(40)
    boxes = crop.sample_boxes((16, 20), drawn)
    expected = [
        v2.resized_crop(image, *box, [16, 20], antialias=True) for image, box in zip(images, boxes, strict=True)
    ]
    torch.testing.assert_close(crop(images, drawn), torch.stack(expected), rtol=0, atol=1e-5)


def test_boxes_have_the_requested_area_and_aspect():
    boxes = np.array(RandomResizedCrop((0.2, 0.6), (0.5, 2.0)).sample_boxes((100, 100), draws(3000)), dtype=float)
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 100).all()
    assert (left + width <= 100).all()
    share, ratio = height * width / 1e4, width / height
    assert 0.19 < share.min() < 0.21
    assert 0.55 < share.max() < 0.61
    assert 0.48 < ratio.min() < 0.53
    assert 1.9 < ratio.max() < 2.1
    assert abs(np.log(ratio).mean()) < 0.05
    assert top[height < 60].max() > 40


def test_a_image_of_an_impossible_shape_is_cut_in_its_middle():
    # As torchvision falls back: the whole width of an image that is too narrow, as high as the ratio allows.
    assert RandomResizedCrop((1.0, 1.0), (0.75, 4 / 3)).sample_boxes((40, 10), draws(1)) == [[13, 0, 13, 10]]
    assert RandomResizedCrop((1.0, 1.0), (0.75, 4 / 3)).sample_boxes((10, 41), draws(1)) == [[0, 14, 10, 13]]


@pytest.mark.parametrize("settings", [((0.0, 1.0),), ((0.5, 0.2),), ((0.5, 1.5),), ((0.1, 1.0), (0.0, 1.0))])
def test_impossible_boxes_are_refused(settings):
    with pytest.raises(LimbeckError, match=r"must be .*got"):
        random_resized_crop(*settings)
