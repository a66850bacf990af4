"""small_vit: the parameters of its formula, positions and attention as their papers have them, any size; it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from limbeck import models
from limbeck.core.errors import LimbeckError
from limbeck.models.onnx_graph import export_onnx_bytes
from limbeck.models.small_vit import sincos_positions


@pytest.mark.parametrize(("patch", "width", "depth", "heads"), [(4, 96, 6, 3), (2, 16, 1, 4), (7, 8, 2, 1)])
@pytest.mark.parametrize(("classes", "channels"), [(10, 1), (3, 3)])
def test_it_has_the_parameters_of_its_formula(patch, width, depth, heads, classes, channels):
    net = models.small_vit(
        patch_size=patch, width=width, depth=depth, num_heads=heads, classes=classes, channels=channels
    )
    formula = (
        (channels * patch**2 + 1) * width + depth * (12 * width**2 + 13 * width) + 2 * width + (width + 1) * classes
    )
    assert sum(parameter.numel() for parameter in net.parameters()) == formula
    assert net(torch.zeros(2, channels, 2 * patch, 3 * patch)).shape == (2, classes)


def test_positions_are_sines_and_cosines_of_row_and_column():
    positions = sincos_positions(3, 5, 8).reshape(3, 5, 8).numpy()
    for row in range(3):
        for column in range(5):
            # Two rates: 1 and 1/10,000.
            expected = [
                f(place / rate) for place in (row, column) for f in (np.sin, np.cos) for rate in (1.0, 10_000.0)
            ]
            np.testing.assert_allclose(positions[row, column], expected, rtol=1e-5, atol=1e-7)


def test_a_block_agrees_with_numpy():
    torch.manual_seed(0)
    block = models.small_vit(width=8, num_heads=2, depth=1).block1.double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    w = {name: parameter.detach().numpy() for name, parameter in block.named_parameters()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = tokens.numpy()
    heard = []
    q, k, v = np.split(linear(norm(x, "norm1"), "qkv"), 3, axis=-1)
    for head in (slice(0, 4), slice(4, 8)):
        score = q[..., head] @ k[..., head].transpose(0, 2, 1) / 2.0
        score = np.exp(score - score.max(-1, keepdims=True))
        heard.append(score / score.sum(-1, keepdims=True) @ v[..., head])
    x = x + linear(np.concatenate(heard, axis=-1), "proj")
    inside = torch.tensor(linear(norm(x, "norm2"), "fc1"))
    x = x + linear(F.gelu(inside).numpy(), "fc2")
    np.testing.assert_allclose(block(tokens).detach().numpy(), x, rtol=1e-9)


def test_outputs_depend_on_the_positions_of_patches():
    torch.manual_seed(0)
    net, image = models.small_vit(width=16, num_heads=2, depth=2, channels=1).eval(), torch.rand(1, 1, 8, 8)
    moved = torch.cat([image[..., 4:], image[..., :4]], dim=3)
    assert (net(image) - net(moved)).abs().max() > 1e-4


def test_it_learns_digits():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)
    torch.manual_seed(0)
    net = models.small_vit(patch_size=2, width=32, depth=2, num_heads=2, channels=1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(6):
        for rows in torch.randperm(1400).split(32):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    assert (net(x[1400:]).argmax(1) == y[1400:]).float().mean() > 0.6


def test_it_can_be_exported():
    onnxruntime = pytest.importorskip("onnxruntime")
    net, images = models.small_vit(width=16, num_heads=2, depth=2).eval(), torch.rand(3, 3, 16, 16)
    session = onnxruntime.InferenceSession(export_onnx_bytes(net, images, name="it"))
    np.testing.assert_allclose(
        session.run(None, {"input": images.numpy()})[0], net(images).detach().numpy(), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.small_vit(width=97), "multiple of 4 and of the 3 heads, got 97; use 96"),
        (lambda: models.small_vit(depth=0), "depth must be an integer of at least 1, got 0"),
        (lambda: models.small_vit()(torch.zeros(1, 3, 30, 32)), r"multiples of 4, got \[1, 3, 30, 32\]"),
        (lambda: models.small_vit()(torch.zeros(1, 1, 32, 32)), r"images must be \[batch, 3, height, width\]"),
    ],
)
def test_a_mistake_is_one_sentence(make, message):
    with pytest.raises(LimbeckError, match=message):
        make()
