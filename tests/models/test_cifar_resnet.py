"""The CIFAR networks are the literature's: their parameter counts, their shapes, and a published network's accuracy."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from limbeck import models
from limbeck.core.errors import LimbeckError

DATA = Path(os.environ.get("LIMBECK_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))
RESNETS = [
    "resnet8",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet8x4",
    "resnet32x4",
]
WIDE = ["wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"]


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def counted_by_hand(depth: int, widths: list[int], classes: int, *, projection: bool) -> int:
    total, before = 3 * widths[0] * 9 + 2 * widths[0], widths[0]
    for stage, after in enumerate(widths[1:]):
        for block in range((depth - 2) // 6):
            total += before * after * 9 + after * after * 9 + 4 * after
            if projection and block == 0 and (stage > 0 or before != after):
                total += before * after + 2 * after
            before = after
    return total + before * classes + classes


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet20", 0.28),
        ("resnet56", 0.86),
        ("resnet110", 1.74),
        ("resnet8x4", 1.23),
        ("resnet32x4", 7.43),
        ("wrn_16_2", 0.70),
        ("wrn_40_1", 0.57),
        ("wrn_40_2", 2.26),
    ],
)
def test_counts_at_100_classes_are_those_of_the_distillation_literature(name, millions):
    assert round(parameters(getattr(models, name)(classes=100)) / 1e6, 2) == millions


@pytest.mark.parametrize(("depth", "millions"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7")])
def test_counts_with_padding_are_those_of_he(depth, millions):
    count = parameters(getattr(models, f"resnet{depth}")(classes=10, shortcut="padding"))
    digits = len(millions.split(".")[1])
    assert f"{count / 1e6:.{digits}f}" == millions


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_every_resnet_has_the_parameters_counted_by_hand(name, shortcut):
    depth = int(re.match(r"resnet(\d+)", name)[1])
    widths = [32, 64, 128, 256] if name.endswith("x4") else [16, 16, 32, 64]
    built = parameters(getattr(models, name)(classes=7, shortcut=shortcut))
    assert built == counted_by_hand(depth, widths, 7, projection=shortcut == "projection")


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "wrn_16_1", "wrn_16_2"])
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (4, 33)])
def test_any_image_gives_one_row_of_logits(name, channels, size):
    net = getattr(models, name)(classes=5, channels=channels)
    assert net(torch.zeros(2, channels, size, size)).shape == (2, 5)


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_stages_can_be_tapped_by_path(shortcut):
    net = models.resnet8x4(shortcut=shortcut)
    shapes = {}
    for path in ("stem", "layer1", "layer2", "layer3", "pool", "fc"):
        net.get_submodule(path).register_forward_hook(
            lambda _, __, out, path=path: shapes.update({path: tuple(out.shape)})
        )
    net(torch.zeros(2, 3, 32, 32))
    assert shapes == {
        "stem": (2, 32, 32, 32),
        "layer1": (2, 64, 32, 32),
        "layer2": (2, 128, 16, 16),
        "layer3": (2, 256, 8, 8),
        "pool": (2, 256, 1, 1),
        "fc": (2, 10),
    }


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1"])
def test_no_later_layer_changes_a_tapped_map(name):
    net = getattr(models, name)()
    seen = {}
    for path, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda _, __, out, path=path: seen.update({path: (out, out.clone())}))
    net(torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(now, then) for now, then in seen.values())


def test_padding_takes_every_second_pixel_between_channels_of_zeros():
    shortcut = models.resnet8(shortcut="padding").layer2[0].shortcut
    x = torch.randn(1, 16, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = np.zeros((1, 32, 3, 3), dtype=np.float32)
    expected[:, 8:24] = x.numpy()[:, :, ::2, ::2]
    np.testing.assert_array_equal(shortcut(x).numpy(), expected)


@pytest.mark.parametrize("name", ["resnet20", "wrn_16_2"])
def test_convolutions_begin_with_the_spread_of_he(name):
    torch.manual_seed(0)
    net = getattr(models, name)()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: models.resnet20(shortcut="conv"), "shortcut must be 'projection' or 'padding', got 'conv'"),
        (lambda: models.resnet20(classes=0), "classes must be an integer of at least 1, got 0"),
        (lambda: models.resnet20(channels=True), "channels must be an integer"),
        (lambda: models.wide_resnet(18, 2), "6 n + 4"),
        (lambda: models.wide_resnet(16, 0), "width must be an integer of at least 1"),
        (lambda: models.wrn_16_1(dropout=1.0), "from 0 to below 1"),
        (lambda: type(models.resnet8())(21, (16, 16, 32, 64)), "6 n + 2"),
    ],
)
def test_a_shape_that_does_not_exist_is_refused(build, says):
    with pytest.raises(LimbeckError, match=re.escape(says)):
        build()


def test_dropout_acts_in_training_only():
    net = models.wrn_16_1(dropout=0.5)
    image = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(net(image), net(image))
    net.eval()
    assert torch.equal(net(image), net(image))


def test_published_resnet20_reaches_its_accuracy():
    """91.5 % on 1,000 lossless CIFAR-10 test images, as the data's README states."""
    trained = DATA / "cifar10_resnets" / "akamaster_resnet20_cifar10.npz"
    data_file = DATA / "cifar10_lossless5k" / "lossless5k.npz"
    if not (trained.is_file() and data_file.is_file()):
        pytest.skip(f"no published CIFAR-10 networks and images under {DATA}: set LIMBECK_DATA")
    renamed = {"conv1.": "stem.0.", "bn1.": "stem.1.", "linear.": "fc."}
    with np.load(trained) as file:
        state = {}
        for name in file.files:
            ours = next((b + name.removeprefix(a) for a, b in renamed.items() if name.startswith(a)), name)
            state[ours] = torch.from_numpy(file[name])
    net = models.resnet20(classes=10, shortcut="padding").eval()
    lacking, unknown = net.load_state_dict(state, strict=False)
    assert not unknown
    assert all(name.endswith("num_batches_tracked") for name in lacking)
    with np.load(data_file) as file:
        x, y = file["x_test"].astype(np.float32) / 255, file["y_test"]
    x = (x - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    with torch.no_grad():
        batches = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).split(250)
        answers = torch.cat([net(batch).argmax(1) for batch in batches]).numpy()
    assert round(100 * float((answers == y).mean()), 1) == 91.5
