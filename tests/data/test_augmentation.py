"""Views: a pure function of (seed, sample, view); and what each transform does to an image, against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from limbeck.core.errors import LimbeckError
from limbeck.data import Augmentation, affine, horizontal_flip, random_crop
from limbeck.data.counter_rng import CounterRNG
from limbeck.data.transforms.geometry import Affine

EVERYTHING = Augmentation((random_crop(2), horizontal_flip(), affine(degrees=20.0, translate=0.2)))


class Given:
    """Draws that are what the test says: ``[batch, k]`` numbers."""

    def __init__(self, numbers):
        self.numbers = torch.tensor(numbers, dtype=torch.float32)

    def uniform(self, many):
        assert self.numbers.shape[1] == many
        return self.numbers

    def uniform_between(self, low, high):
        return low + (high - low) * self.uniform(len(low))


def make_images(many, channels=2, height=9, width=7):
    return torch.rand(many, channels, height, width, generator=torch.Generator().manual_seed(0))


def draws(many, seed=0):
    return CounterRNG.for_samples(torch.arange(many), torch.zeros(many, dtype=torch.long), seed=seed, transform_index=0)


def moved(images, *, degrees=0.0, scale=1.0, right=0.0, down=0.0, border="zeros"):
    """The affine transform at exactly these numbers."""
    reach = max(abs(right), abs(down), 1e-9)
    transform = Affine(abs(degrees), (scale, scale), reach, border)
    half = [0.5 + 0.5 * part / whole for part, whole in ((right, reach), (down, reach))]
    return transform(images, Given([[1.0 if degrees > 0 else 0.0, 0.0, *half]] * len(images)))


# A view is a pure function


def test_a_view_is_the_same_in_any_batch_and_order():
    images, sample, view = make_images(30), torch.arange(30) * 3, torch.arange(30) % 4
    whole = EVERYTHING.apply(images, sample, view, seed=5)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    shuffled = EVERYTHING.apply(images[order], sample[order], view[order], seed=5)
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=0)
    for i in (0, 11, 29):
        single = EVERYTHING.apply(images[i : i + 1], sample[i : i + 1], view[i : i + 1], seed=5)
        torch.testing.assert_close(single[0], whole[i], rtol=0, atol=1e-6)


def test_a_view_is_the_same_whatever_was_drawn_before():
    images, sample, view = make_images(4), torch.arange(4), torch.zeros(4, dtype=torch.long)
    torch.manual_seed(0)
    first = EVERYTHING.apply(images, sample, view, seed=0)
    torch.manual_seed(99)
    torch.rand(100)
    EVERYTHING.apply(images, sample + 1, view, seed=0)
    again = Augmentation((random_crop(2), horizontal_flip(), affine(degrees=20.0, translate=0.2))).apply(
        images, sample, view, seed=0
    )
    assert torch.equal(first, again)


class Viewed(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        return EVERYTHING.apply(make_images(12)[i : i + 1], torch.tensor([i]), torch.tensor([i % 3]), seed=2)[0]


def test_a_view_is_the_same_in_a_worker():
    here = torch.stack([Viewed()[i] for i in range(12)])
    there = torch.cat(list(DataLoader(Viewed(), batch_size=5, num_workers=2)))
    assert torch.equal(here, there)


@pytest.mark.parametrize("change", [{"seed": 1}, {"sample": 1}, {"view": 1}])
def test_another_seed_sample_or_view_gives_another_image(change):
    image = make_images(1)

    def shown(seed=0, sample=0, view=0):
        return EVERYTHING.apply(image, torch.tensor([sample]), torch.tensor([view]), seed=seed)

    assert not torch.equal(shown(), shown(**change))


def test_a_transform_done_twice_draws_twice():
    images = torch.arange(81.0).reshape(1, 1, 9, 9).repeat(200, 1, 1, 1) / 81
    sample, view = torch.arange(200), torch.zeros(200, dtype=torch.long)
    once, twice = Augmentation((horizontal_flip(),)), Augmentation((horizontal_flip(), horizontal_flip()))
    turned = (once.apply(images, sample, view, seed=0) != images).any(3).any(2).any(1).float().mean()
    again = (twice.apply(images, sample, view, seed=0) != images).any(3).any(2).any(1).float().mean()
    assert 0.35 < turned < 0.65
    assert 0.35 < again < 0.65  # it would be 0 if both flips drew the same number


def test_views_come_in_turn():
    showing = torch.arange(7)
    assert Augmentation(num_views=3).view_index(showing).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert Augmentation(num_views=1).view_index(showing).tolist() == [0] * 7
    assert Augmentation().view_index(showing).tolist() == list(range(7))


def test_views_keep_images_in_0_to_1():
    images = (make_images(200, height=8, width=8) > 0.5).float()
    for border in ("zeros", "border", "reflection"):
        views = Augmentation(
            (
                affine(degrees=40.0, scale=(0.5, 2.0), translate=0.3, padding_mode=border),
                random_crop(3, "reflect"),
                horizontal_flip(),
            )
        )
        shown = views.apply(images, torch.arange(200), torch.zeros(200, dtype=torch.long), seed=0)
        assert shown.shape == images.shape
        assert shown.min() >= 0
        assert shown.max() <= 1


def test_a_transform_of_your_own_is_clamped():
    shown = Augmentation((lambda images, draws: images * 4 - 2,)).apply(
        make_images(3), torch.arange(3), torch.zeros(3, dtype=torch.long), seed=0
    )
    assert (shown.min(), shown.max()) == (0, 1)


def test_no_transform_leaves_images_unchanged():
    features = torch.randn(5, 11)
    assert Augmentation().apply(features, torch.arange(5), torch.zeros(5, dtype=torch.long), seed=0) is features


def test_views_change_nothing_in_place():
    images = make_images(6)
    before = images.clone()
    EVERYTHING.apply(images, torch.arange(6), torch.zeros(6, dtype=torch.long), seed=0)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Augmentation(num_views=-1),
        lambda: random_crop(0),
        lambda: random_crop(2, "wrap"),
        lambda: horizontal_flip(1.5),
        lambda: horizontal_flip(-0.1),
        lambda: horizontal_flip(math.nan),
        lambda: affine(degrees=-1.0),
        lambda: affine(scale=(0.0, 1.0)),
        lambda: affine(scale=(1.2, 0.8)),
        lambda: affine(translate=1.5),
        lambda: affine(translate=-0.1),
        lambda: affine(padding_mode="mirror"),
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(LimbeckError, match=r"must be .*got"):
        wrong()


# Crop


def test_crop_cuts_at_exactly_every_place():
    padding, side = 2, 5
    image = torch.arange(1.0, side * side + 1).reshape(1, 1, side, side) / 100
    padded = np.pad(image[0, 0].numpy(), padding)
    windows = {
        padded[y : y + side, x : x + side].tobytes(): (y, x)
        for y in range(2 * padding + 1)
        for x in range(2 * padding + 1)
    }
    assert len(windows) == 25
    shown = random_crop(padding)(image.repeat(5000, 1, 1, 1), draws(5000))
    places = [windows[crop.numpy().tobytes()] for crop in shown[:, 0]]
    counts = np.array([places.count(place) for place in windows.values()])
    assert (counts > 0).all()
    assert ((counts - 200) ** 2 / 200).sum() < 24 + 5 * (2 * 24) ** 0.5


@pytest.mark.parametrize("padding", [1, 2, 3, 4, 7, 8, 16])
def test_the_greatest_draw_cuts_at_the_last_place(padding):
    greatest = (2**24 - 1) / 2**24
    image = make_images(1, 1, 20, 20)
    shown = random_crop(padding)(image, Given([[greatest, greatest]]))
    assert torch.equal(shown[0, 0, : 20 - padding, : 20 - padding], image[0, 0, padding:, padding:])
    assert (shown[0, 0, 20 - padding :] == 0).all()


def test_crop_draws_height_and_width_apart():
    image = torch.zeros(1, 1, 4, 9)
    image[0, 0, 1, 4] = 1
    low = random_crop(1)(image, Given([[0.0, 0.99]]))
    assert low.nonzero().tolist() == [[0, 0, 2, 3]]  # cut at the top (moves down) and at the right (moves left)


def test_crop_reflects_like_numpy():
    image = make_images(1, 1, 6, 5)
    shown = random_crop(3, "reflect")(image, Given([[0.0, 0.0]]))[0, 0].numpy()
    np.testing.assert_array_equal(shown, np.pad(image[0, 0].numpy(), 3, mode="reflect")[:6, :5])


def test_an_image_too_small_to_reflect_is_an_error():
    with pytest.raises(LimbeckError, match="padding must be at most 7 to reflect a 8×8 image, got 8"):
        random_crop(8, "reflect")(make_images(1, 1, 8, 8), draws(1))


# Flip


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.5, 1.0])
def test_flip_mirrors_left_and_right_with_its_probability(probability):
    image, many = make_images(1), 4000
    shown = horizontal_flip(probability)(image.repeat(many, 1, 1, 1), draws(many))
    mirrored = torch.from_numpy(image.numpy()[:, :, :, ::-1].copy())
    is_mirrored = (shown == mirrored).flatten(1).all(1)
    assert ((shown == image).flatten(1).all(1) ^ is_mirrored).all()
    spread = (probability * (1 - probability) / many) ** 0.5
    assert abs(is_mirrored.double().mean().item() - probability) <= 4 * spread


# Affine


@pytest.mark.parametrize("shape", [(8, 8), (9, 7), (4, 12)])
def test_affine_without_movement_is_the_identity(shape):
    images = make_images(5, 2, *shape)
    still = affine(degrees=0.0, scale=(1.0, 1.0), translate=0.0)
    torch.testing.assert_close(still(images, draws(5)), images, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [6, 7])
def test_a_positive_angle_turns_clockwise(side):
    images = make_images(3, 2, side, side)
    clockwise = torch.from_numpy(np.rot90(images.numpy(), k=-1, axes=(2, 3)).copy())
    torch.testing.assert_close(moved(images, degrees=90.0), clockwise, rtol=0, atol=1e-5)
    torch.testing.assert_close(moved(images, degrees=90.0), torch.rot90(images, -1, (2, 3)), rtol=0, atol=1e-5)
    torch.testing.assert_close(moved(images, degrees=-90.0), torch.rot90(images, 1, (2, 3)), rtol=0, atol=1e-5)


def test_angles_go_both_ways_equally_often():
    image = torch.zeros(1, 1, 33, 33)
    image[0, 0, 2, 16] = 1  # straight up: a clockwise turn moves it to the right
    shown = affine(degrees=30.0, scale=(1.0, 1.0), translate=0.0)(image.repeat(1000, 1, 1, 1), draws(1000))
    centre = (shown.sum(2) * torch.arange(33.0)).sum(2) / shown.sum((2, 3)) - 16
    assert 0.4 < (centre > 0).double().mean() < 0.6
    assert 6 < centre.max() <= 14 * math.sin(math.radians(30)) + 0.6
    assert -6 > centre.min() >= -14 * math.sin(math.radians(30)) - 0.6


@pytest.mark.parametrize(("right", "down"), [(0.25, 0.0), (-0.25, 0.0), (0.0, 0.25), (0.0, -0.5), (0.25, -0.25)])
def test_a_shift_moves_by_its_share_of_width_and_height(right, down):
    images = make_images(2, 2, 8, 12)
    x, y = round(right * 12), round(down * 8)
    expected = torch.zeros_like(images)
    expected[:, :, max(y, 0) : 8 + min(y, 0), max(x, 0) : 12 + min(x, 0)] = images[
        :, :, max(-y, 0) : 8 + min(-y, 0), max(-x, 0) : 12 + min(-x, 0)
    ]
    torch.testing.assert_close(moved(images, right=right, down=down), expected, rtol=0, atol=1e-5)


def test_a_shift_happens_after_the_turn():
    # The image is turned and zoomed about its center, and then moved by the whole shift whatever the angle.
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    shown = moved(image, degrees=90.0, right=1 / 3)
    assert shown[0, 0, 4, 7] == pytest.approx(1, abs=1e-4)
    shown = moved(image, scale=2.0, down=1 / 3)
    assert shown[0, 0].argmax().item() == 7 * 9 + 4


def test_a_turn_keeps_the_proportions_of_a_image_that_is_not_square():
    # A quarter turn of a wide image takes its middle square to its middle square; a stretched one would not.
    image = make_images(1, 1, 6, 12)
    middle = image[:, :, :, 3:9]
    shown = moved(image, degrees=90.0)
    torch.testing.assert_close(shown[:, :, :, 3:9], torch.rot90(middle, -1, (2, 3)), rtol=0, atol=1e-5)
    assert (shown[:, :, :, :2].abs() < 1e-5).all()


@pytest.mark.parametrize("degrees", [17.0, -40.0])
@pytest.mark.parametrize("scale", [0.8, 1.3])
def test_affine_equals_a_bilinear_warp_in_float64(degrees, scale):
    height, width, right, down = 9, 14, 0.1, -0.2
    image = make_images(1, 1, height, width)
    shown = moved(image, degrees=degrees, scale=scale, right=right, down=down)[0, 0]
    pixels, angle = image[0, 0].double().numpy(), math.radians(degrees)
    expected = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            # Where this pixel comes from, in pixels about the center: shift back, turn back, zoom back.
            x = column - (width - 1) / 2 - right * width
            y = row - (height - 1) / 2 - down * height
            from_x = (math.cos(angle) * x + math.sin(angle) * y) / scale + (width - 1) / 2
            from_y = (-math.sin(angle) * x + math.cos(angle) * y) / scale + (height - 1) / 2
            left, top = math.floor(from_x), math.floor(from_y)
            for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                if 0 <= i < height and 0 <= j < width:
                    expected[row, column] += pixels[i, j] * (1 - abs(from_y - i)) * (1 - abs(from_x - j))
    np.testing.assert_allclose(shown.numpy(), expected, atol=1e-4)


def test_a_zoom_above_one_enlarges():
    image = torch.zeros(1, 1, 20, 20)
    image[0, 0, 8:12, 8:12] = 1
    assert moved(image, scale=1.5).sum() == pytest.approx(16 * 1.5**2, rel=0.1)
    assert moved(image, scale=0.75).sum() == pytest.approx(16 * 0.75**2, rel=0.1)
