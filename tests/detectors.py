"""Small detectors, and batches with boxes, for tests."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from limbeck.models import Detector

CLASSES = 3


def random_boxes(count, generator, side=160):
    corners = torch.rand(count, 2, generator=generator) * side
    return torch.cat([corners, corners + 4 + torch.rand(count, 2, generator=generator) ** 2 * side], dim=1)


def make_batch(num_images=4, size=(64, 96), seed=0):
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.stack([random_boxes(3, generator, side=50) for _ in range(num_images)])
    return {
        "input": torch.rand(num_images, 3, *size, generator=generator),
        "boxes": boxes,
        "labels": torch.arange(3).repeat(num_images, 1) % CLASSES,
        "num_boxes": torch.tensor([3, 0, 2, 1] * num_images)[:num_images],
        "sample_id": torch.arange(num_images) + 10,
    }


class TinyBackbone(nn.Sequential):
    """One level of stride 8, which is all that torchvision's heads need."""

    out_channels = 32

    def __init__(self, width):
        super().__init__(nn.Conv2d(3, width, 4, stride=4), nn.ReLU(), nn.Conv2d(width, 32, 2, stride=2))


def tiny_detector(name, width=4):
    torch.manual_seed(width)
    if name == "fcos":
        anchors = AnchorGenerator(((8,),), ((1.0,),))
        network = FCOS(TinyBackbone(width), CLASSES, anchor_generator=anchors)
    else:
        network = RetinaNet(TinyBackbone(width), CLASSES, anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),)))
    for head in (network.head.classification_head, network.head.regression_head):
        head.conv = nn.Identity()  # without the four layers of torchvision, which are exported for seconds
    # Scores from low to high, so that their order does not depend on rounding.
    for module in network.head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return Detector(network).eval()
