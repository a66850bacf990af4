"""unet: the parameters that its formula says, images of any size, and features of the sizes of its levels."""

from __future__ import annotations

import pytest
import torch

from limbeck import LimbeckError, models


def block(inputs, outputs):
    """Two 3×3 convolutions without bias, with the scale and shift of their norms."""
    return 9 * inputs * outputs + 9 * outputs**2 + 4 * outputs


@pytest.mark.parametrize(("width", "depth", "classes", "channels"), [(4, 2, 3, 1), (8, 3, 11, 3)])
def test_parameters(width, depth, classes, channels):
    widths = [width * 2**level for level in range(depth + 1)]
    expected = sum(block(a, b) for a, b in zip([channels, *widths], widths, strict=False))
    expected += sum(block(3 * w, w) for w in widths[:-1]) + (width + 1) * classes
    net = models.unet(width=width, depth=depth, classes=classes, channels=channels)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected


def test_sides_need_not_be_even():
    net, sizes = models.unet(width=2, depth=2, classes=3), {}
    for name in ("encoder1", "encoder2", "bottleneck", "decoder2", "decoder1"):
        net.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: sizes.update({name: out.shape[2:]}))
    assert net(torch.zeros(2, 3, 15, 22)).shape == (2, 3, 15, 22)
    assert [tuple(size) for size in sizes.values()] == [(15, 22), (7, 11), (3, 5), (7, 11), (15, 22)]


def test_images_that_are_too_small_are_refused():
    with pytest.raises(LimbeckError, match="sides of at least 8 pixels for depth 3"):
        models.unet(classes=3)(torch.zeros(1, 3, 7, 20))


def test_torchvision_builds_segmentation_networks():
    net = models.torchvision("lraspp_mobilenet_v3_large", classes=5, channels=1).eval()
    assert net(torch.zeros(1, 1, 32, 48))["out"].shape == (1, 5, 32, 48)
