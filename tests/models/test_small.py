"""small_cnn and mlp: the parameters their formula says, any image, and both can learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck import models
from limbeck.core.errors import LimbeckError


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("width", [1, 5, 8, 64])
@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize(("classes", "channels"), [(10, 1), (3, 4)])
def test_small_cnn_has_the_parameters_of_its_formula(width, depth, classes, channels):
    last = 3 * width // 2
    formula = (
        9 * channels * width
        + 9 * width**2 * (depth - 2)
        + 9 * width * last
        + 2 * (width * (depth - 1) + last)
        + (last + 1) * classes
    )
    net = models.small_cnn(width=width, depth=depth, classes=classes, channels=channels)
    assert parameters(net) == formula


@pytest.mark.parametrize(("size", "places"), [(8, [8, 4, 4]), (28, [14, 7, 7]), (32, [16, 8, 4]), (65, [32, 16, 8])])
def test_small_cnn_halves_a_map_that_has_room(size, places):
    net, sides = models.small_cnn(), []
    for number in (1, 2, 3):
        net.get_submodule(f"block{number}").register_forward_hook(lambda _, __, out: sides.append(out.shape[-1]))
    assert net(torch.zeros(2, 1, size, size)).shape == (2, 10)
    assert sides == places


def test_small_cnn_takes_images_that_are_not_square():
    assert models.small_cnn(channels=3)(torch.zeros(2, 3, 8, 40)).shape == (2, 10)


def test_small_cnn_of_one_block():
    assert models.small_cnn(depth=1)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_small_cnn_learns_digits():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)
    torch.manual_seed(0)
    net = models.small_cnn()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(12):
        for rows in torch.randperm(1400).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        right = (net(x[1400:]).argmax(1) == y[1400:]).float().mean().item()
    assert right > 0.88


def test_mlp_is_matrix_products_and_relu():
    net = models.mlp(hidden=(6, 5), classes=3, channels=2, size=4).double()
    x = torch.randn(7, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b, c = (layer for layer in net.modules() if isinstance(layer, nn.Linear))
    values = x.numpy().reshape(7, 32)
    for layer in (a, b):
        values = (values @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()).clip(min=0)
    expected = values @ c.weight.detach().numpy().T + c.bias.detach().numpy()
    torch.testing.assert_close(net(x).detach(), torch.from_numpy(expected))


def test_mlp_without_hidden_layers_is_linear():
    assert parameters(models.mlp(hidden=(), classes=3, size=8)) == 64 * 3 + 3


def test_mlp_names_the_image_it_was_built_for():
    with pytest.raises(LimbeckError, match=r"images must be \[1, 8, 8\], got \[1, 28, 28\]"):
        models.mlp()(torch.zeros(2, 1, 28, 28))


@pytest.mark.parametrize("options", [{"width": 0}, {"depth": 0}, {"width": 2.5}, {"classes": -1}, {"channels": "3"}])
def test_small_cnn_refuses_what_is_no_count(options):
    with pytest.raises(LimbeckError, match=f"{next(iter(options))} must be an integer of at least 1"):
        models.small_cnn(**options)


def test_mlp_refuses_a_width_of_zero():
    with pytest.raises(LimbeckError, match="each width in hidden must be an integer of at least 1, got 0"):
        models.mlp(hidden=(8, 0))
