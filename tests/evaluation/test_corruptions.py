"""Corruptions: shape, range, independence of the batch, severity and values by hand."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.data.split import InMemory, Split
from limbeck.evaluation.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corruption_statistics
from limbeck.evaluation.robustness.image_ops import directional_blur, plasma_fractal, zoom_center
from limbeck.tasks import Classification

# The mean change of a pixel does not increase with severity: frost darkens the image as it whitens it,
# glass alternates blur and turns, and the elastic map moves less as a batched while it tears more.
UNEVEN = {"frost", "glass_blur", "elastic_transform"}


def make_images(kind):
    photo = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)[None].float() / 255
    side = 32 if kind != "large" else 96
    tiles = torch.cat([photo[..., y : y + 256, x : x + 256] for y, x in ((0, 0), (100, 50), (150, 300), (60, 380))])
    small = nn.functional.interpolate(tiles, size=(side, side), mode="area")
    return small.mean(1, keepdim=True) if kind == "gray" else small


@pytest.mark.parametrize("kind", ["color", "gray", "large"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_shape_and_range_stay_and_the_change_rises_with_severity(name, kind):
    before = make_images(kind)
    original = before.clone()
    changes = []
    for severity in SEVERITIES:
        after = corrupt(before, name, severity)
        assert after.shape == before.shape
        assert after.dtype == torch.float32
        assert 0 <= float(after.min()) <= float(after.max()) <= 1
        assert torch.equal((after * 255).round() / 255, after)
        changes.append(float((after - before).abs().mean()))
    assert torch.equal(before, original)
    assert min(changes) > 0.002
    if name not in UNEVEN:
        # Published motion blurs 3 and 4 of small make_images differ in their radius only, where little is left to see,
        # and heavy snow is dense already at 2 in large ones.
        assert all(b > a - 0.005 for a, b in itertools.pairwise(changes)), changes
        assert changes[-1] > 1.25 * changes[0]


@pytest.mark.parametrize("kind", ["color", "large"])
def test_frost_correlates_less_with_the_image_at_higher_severity(kind):
    before = make_images(kind)
    correlations = [
        np.corrcoef(before.flatten(), corrupt(before, "frost", severity).flatten())[0, 1] for severity in SEVERITIES
    ]
    assert correlations == sorted(correlations, reverse=True)


def test_elastic_transform_is_rougher_at_higher_severity():
    """Past its affine split: how far a pixel's change differs from that of its neighbour."""
    ramp = torch.linspace(0, 1, 32).expand(8, 1, 32, 32).contiguous()
    rough = [
        float(corrupt(ramp, "elastic_transform", severity)[..., 8:24, 8:24].diff(n=2, dim=3).abs().mean())
        for severity in (2, 3, 4, 5)
    ]
    assert rough == sorted(rough)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_is_independent_of_the_batch(name):
    before = make_images("color")
    sample_ids = torch.tensor([7, 8, 9, 10])
    batched = corrupt(before, name, 3, seed=5, sample_ids=sample_ids)
    single = torch.cat(
        [corrupt(before[i : i + 1], name, 3, seed=5, sample_ids=sample_ids[i : i + 1]) for i in range(4)]
    )
    assert torch.allclose(batched, single, atol=1.01 / 255)  # sums in another order may round to the next level
    assert float((batched != single).float().mean()) < 0.01
    assert torch.equal(batched, corrupt(before, name, 3, seed=5, sample_ids=sample_ids))


def test_corruption_depends_on_seed_and_sample_id():
    before = make_images("color")
    assert not torch.equal(corrupt(before, "gaussian_noise", 1, seed=1), corrupt(before, "gaussian_noise", 1, seed=2))
    pair = corrupt(before[[0, 0]], "gaussian_noise", 1)
    assert not torch.equal(pair[0], pair[1])


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.04), (5, 0.10)])
def test_gaussian_noise_has_the_published_spread(severity, sigma):
    gray = torch.full((4, 3, 32, 32), 0.5)
    assert float((corrupt(gray, "gaussian_noise", severity) - gray).std()) == pytest.approx(sigma, rel=0.03)


def test_shot_noise_has_the_spread_of_poisson():
    gray = torch.full((4, 3, 32, 32), 0.5)
    assert float((corrupt(gray, "shot_noise", 5) - gray).std()) == pytest.approx((0.5 / 50) ** 0.5, rel=0.03)


def test_impulse_noise_has_the_published_fraction_half_of_it_white():
    after = corrupt(torch.full((8, 3, 64, 64), 0.4), "impulse_noise", 5)
    assert float((after == 0).float().mean()) == pytest.approx(0.035, rel=0.1)
    assert float((after == 1).float().mean()) == pytest.approx(0.035, rel=0.1)


def test_contrast_and_brightness_by_hand():
    before = torch.tensor([0.2, 0.6]).repeat(32, 16)[None, None]
    assert corrupt(before, "contrast", 2).unique().tolist() == pytest.approx([0.3, 0.5], abs=1 / 255)
    color = torch.tensor([0.4, 0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    brighter = corrupt(color, "brightness", 2)[0, :, 0, 0]
    assert brighter.tolist() == pytest.approx([0.5, 0.25, 0.125], abs=1 / 255)
    assert float(corrupt(torch.zeros(1, 3, 32, 32), "brightness", 2).mean()) == pytest.approx(0.1, abs=1 / 255)


def test_brightness_matches_hsv():
    import colorsys

    before = make_images("color")[:1, :, :6, :6]
    after = corrupt(before, "brightness", 3)
    for y in range(6):
        for x in range(6):
            h, s, v = colorsys.rgb_to_hsv(*before[0, :, y, x].tolist())
            expected = colorsys.hsv_to_rgb(h, s, min(v + 0.15, 1))
            assert after[0, :, y, x].tolist() == pytest.approx(expected, abs=1 / 255)


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate", "contrast"])
def test_constant_images_stay_constant(name):
    flat = torch.full((2, 3, 32, 32), 128 / 255)
    assert torch.allclose(corrupt(flat, name, 5), flat, atol=1.01 / 255)


def test_directional_blur_is_half_a_gaussian():
    dot = torch.zeros(1, 1, 21, 21)
    dot[0, 0, 10, 10] = 1.0
    weights = np.exp(-np.square(np.arange(5)) / 2.0)
    down = directional_blur(dot, torch.tensor([0.0]), radius=2, sigma=1.0)[0, 0, :, 10].numpy()
    assert down[6:11] == pytest.approx((weights / weights.sum())[::-1])
    assert float(down.sum()) == pytest.approx(1.0)


def test_zoom_keeps_center_and_size():
    ramp = torch.linspace(0, 1, 33).expand(1, 1, 33, 33)
    zoomed = zoom_center(ramp, 1.5)
    assert zoomed.shape == ramp.shape
    assert float(zoomed[..., 16, 16]) == pytest.approx(0.5, abs=0.02)
    assert float(zoomed[..., 0, 32] - zoomed[..., 0, 0]) == pytest.approx(1 / 1.5, abs=0.06)


def test_higher_decay_gives_a_smoother_fractal():
    rough, smooth = (
        plasma_fractal([np.random.default_rng(i) for i in range(8)], 32, 24, decay=decay) for decay in (1.3, 3.0)
    )
    assert rough.shape == (8, 1, 32, 24)
    assert float(rough.diff(dim=3).abs().mean()) > 2 * float(smooth.diff(dim=3).abs().mean())


def test_all_networks_get_the_same_corrupted_images():
    class Bright(nn.Module):
        def forward(self, pixels):
            mean = pixels.mean((1, 2, 3))
            return torch.stack([mean, 0.5 - mean + mean.detach() * 0], dim=1)

    split = Split.from_images(InMemory(make_images("gray")), torch.tensor([0, 0, 0, -100]))
    result = corruption_statistics(
        {"a": Bright(), "b": Bright()}, split, Classification(2), corruptions=["brightness", "contrast"],
        severities=(1, 5),
    )  # fmt: skip
    assert result["a"]["brightness"].shape == (2, 3, 1)
    assert all(torch.equal(result["a"][name], result["b"][name]) for name in result["a"])
    assert result["a"]["brightness"][1].all()


@pytest.mark.parametrize(
    ("images", "name", "severity", "message"),
    [
        (torch.rand(1, 3, 8, 8), "gausian_noise", 1, "gaussian_noise"),
        (torch.rand(1, 3, 8, 8), "fog", 6, "from 1 to 5"),
        (torch.rand(1, 2, 8, 8), "fog", 1, "1 or 3"),
        (torch.rand(1, 3, 8, 8) * 255, "fog", 1, "0..1"),
    ],
)
def test_invalid_corruptions_raise(images, name, severity, message):
    with pytest.raises(LimbeckError, match=message):
        corrupt(images, name, severity)
