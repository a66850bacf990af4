"""Object detectors: torchvision's RetinaNet, FCOS, SSDLite and Faster R-CNN with a backbone of choice.

Lin et al., 2017, https://arxiv.org/abs/1708.02002; Tian et al., 2019, https://arxiv.org/abs/1904.01355; Sandler et al.,
2018, https://arxiv.org/abs/1801.04381; Ren et al., 2015, https://arxiv.org/abs/1506.01497.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.models.options import require_positive
from limbeck.models.weights import load_weights

__all__ = ["Detector", "detector", "require_detector_call"]

DetectorName = Literal["retinanet", "fcos", "ssdlite", "faster_rcnn"]
_ANCHOR_SCALE = {"retinanet": 4.0, "fcos": 1.0, "faster_rcnn": 4.0}
_MIN_SCALE, _MAX_SCALE = 0.125, 100
"""So that the side of the smallest anchor is at least a pixel."""
_GROUPS = 32
"""Channels are a multiple of it, since heads normalize by ``GroupNorm(32)``."""


@final
class Detector(nn.Module):
    """A detector of torchvision, called with a batch of images of one size; names of layers are torchvision's.

    Images are neither resized nor normalized: the data does both.

    Args:
        network: a ``RetinaNet``, ``FCOS``, ``SSD`` or ``FasterRCNN`` of ``torchvision.models.detection``.

    Raises:
        LimbeckError: another network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        from limbeck.models.detector_outputs import count_classes, is_detector

        if not is_detector(network):
            raise LimbeckError(
                "network must be a RetinaNet, FCOS, SSD or FasterRCNN of torchvision.models.detection, got a "
                f"{type(network).__name__}: use limbeck.models.detector"
            )
        self.network = network
        self.classes = count_classes(network)

    @property
    def wrapped_network(self) -> nn.Module:
        """The network, which layer names and saved weights are relative to."""
        return self.network

    def forward(self, images: Tensor, targets: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The raw outputs of the head, in eval mode the detections, and with ``targets`` torchvision's losses.

        Args:
            images: ``[batch, channels, height, width]``.
            targets: ``boxes`` ``[batch, k, 4]`` (left, top, right, bottom in pixels), ``labels`` ``[batch, k]`` from 0
                and ``num_boxes`` ``[batch]`` (−1: not annotated); with ``ignored`` ``[batch, k]``, anchors on boxes
                where it is not 0 are not trained as background.

        Returns:
            ``logits`` ``[batch, rows, classes]`` (of SSD with the background first, of Faster R-CNN the objectness
            ``[batch, rows, 1]``), ``box_deltas`` and ``row_boxes`` ``[batch, rows, 4]`` (encoded; decoded to pixels),
            ``anchors`` ``[rows, 4]`` in pixels, ``level`` ``[rows]``, of FCOS ``centerness_logits`` ``[batch, rows]``;
            in eval mode ``boxes`` ``[batch, n, 4]`` and ``scores`` ``[batch, n, classes]``: of Faster R-CNN after its
            non-maximum suppression, else of each row; and with ``targets`` scalars ``loss_NAME``.
        """
        from limbeck.models.detector_outputs import detector_outputs

        return detector_outputs(self.network, images, targets)


def detector(
    name: DetectorName = "retinanet", *, backbone: str = "resnet18", classes: int, channels: int = 3,
    fpn_channels: int = 128, levels: int | None = None, anchor_scale: float | None = None, pretrained: bool = False,
    weights: str | Path | None = None,
) -> Detector:  # fmt: skip
    """A detector with the backbone ``backbone`` for images of any size.

    The feature pyramid has the strides 8, 16, 32, … (of SSDLite 16, 32, …). Its levels are the layers
    ``backbone.fpn#0``, ``backbone.fpn#1``, ``backbone.fpn#2``, ``backbone.fpn#p6`` and ``backbone.fpn#p7`` (of SSDLite
    ``backbone#0``, …).

    Args:
        name: ``retinanet``, ``fcos``, ``ssdlite`` or ``faster_rcnn``.
        backbone: a network of torchvision for classification: ``resnet18``, ``mobilenet_v3_small``,
            ``efficientnet_b0``, …; or ``timm:NAME``, such as ``timm:tf_efficientnet_lite0``.
        classes: number of classes, without the background.
        channels: channels of the images.
        fpn_channels: channels of the feature pyramid, a multiple of 32.
        levels: number of levels: 3, 4 or 5 (default 5), of SSDLite 2 to 6 (default 6).
        anchor_scale: side of the smallest anchor of a level by its stride (default 4, of FCOS 1, the square of the
            stride); not of SSDLite, whose anchors are fractions of the image.
        pretrained: start the backbone from the weights that torchvision or timm publishes.
        weights: a file or run folder to load, as in :func:`~limbeck.models.load_weights`.

    Raises:
        LimbeckError: an unknown name, settings that do not fit each other, or weights that cannot be loaded.

    >>> net = detector("retinanet", backbone="mobilenet_v3_small", fpn_channels=32, levels=3, classes=2).eval()
    >>> import torch
    >>> net(torch.zeros(1, 3, 64, 64))["scores"].shape  # 9 anchors at each of 8², 4² and 2² locations
    torch.Size([1, 756, 2])
    """
    if name not in _BUILDERS:
        raise LimbeckError(
            f"name must be {', '.join(_BUILDERS)}, got {name!r}; near it: {suggest_names(name, _BUILDERS)}"
        )
    if pretrained and weights is not None:
        raise LimbeckError(f"{name}: set 'pretrained' or 'weights' ({weights}), not both")
    default_levels, fewest, most = (6, 2, 6) if name == "ssdlite" else (5, 3, 5)
    levels = default_levels if levels is None else levels
    require_positive(classes=classes, channels=channels, fpn_channels=fpn_channels, levels=levels)
    if not fewest <= levels <= most:
        raise LimbeckError(f"levels of {name} must be from {fewest} to {most}, got {levels}")
    if anchor_scale is not None and (name == "ssdlite" or not _MIN_SCALE <= anchor_scale <= _MAX_SCALE):
        raise LimbeckError(f"anchor_scale of {name} must be {_scale_rule(name)}, got {anchor_scale}")
    if name != "ssdlite" and fpn_channels % _GROUPS:
        raise LimbeckError(f"fpn_channels must be a multiple of {_GROUPS}, got {fpn_channels}")
    from limbeck.models.detector_backbones import make_fpn_backbone, make_ssdlite_backbone

    if name == "ssdlite":
        body: nn.Module = make_ssdlite_backbone(backbone, levels=levels, channels=channels, pretrained=pretrained)
    else:
        body = make_fpn_backbone(
            backbone, levels=levels, channels=channels, out_channels=fpn_channels, pretrained=pretrained
        )
    scale = _ANCHOR_SCALE.get(name, 0.0) if anchor_scale is None else anchor_scale
    network = Detector(_BUILDERS[name](body, classes, levels, scale))
    return network if weights is None else _load(network, weights)


def require_detector_call(network: nn.Module) -> None:
    """Refuse a detector of torchvision itself, which is called with a list of images, and one with resized images.

    Raises:
        LimbeckError: says how to adapt it.
    """
    if getattr(getattr(network, "mapping", None), "input_size", None) is not None:
        raise LimbeckError(
            "a detector must take images of the size of the data, since its boxes are in pixels of its input: remove "
            "input_size"
        )
    detection = sys.modules.get("torchvision.models.detection")
    if detection is None or isinstance(network, Detector):
        return
    if isinstance(network, detection.RetinaNet | detection.FCOS | detection.FasterRCNN | detection.ssd.SSD):
        raise LimbeckError(
            f"the network must take a batch of images, and {type(network).__name__} of torchvision takes a list: give "
            "limbeck.models.Detector(network)"
        )


def _scale_rule(name: str) -> str:
    return (
        "None, since its anchors are fractions of the image"
        if name == "ssdlite"
        else f"from {_MIN_SCALE} to {_MAX_SCALE}"
    )


def _load(network: Detector, weights: str | Path) -> Detector:
    load_weights(network, weights)
    return network


def _retinanet(backbone: Any, classes: int, levels: int, scale: float) -> nn.Module:
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.retinanet import RetinaNetHead

    anchors = _anchor_generator(levels, scale, octaves=3)
    head = RetinaNetHead(
        backbone.out_channels, anchors.num_anchors_per_location()[0], classes,
        norm_layer=partial(nn.GroupNorm, _GROUPS),  # as in retinanet_resnet50_fpn_v2
    )  # fmt: skip
    network: nn.Module = RetinaNet(backbone, classes, anchor_generator=anchors, head=head)
    return network


def _fcos(backbone: Any, classes: int, levels: int, scale: float) -> nn.Module:
    from torchvision.models.detection import FCOS

    network: nn.Module = FCOS(backbone, classes, anchor_generator=_anchor_generator(levels, scale, ratios=(1.0,)))
    return network


def _faster_rcnn(backbone: Any, classes: int, levels: int, scale: float) -> nn.Module:
    from torchvision.models.detection import FasterRCNN
    from torchvision.ops import MultiScaleRoIAlign

    network: nn.Module = FasterRCNN(
        backbone, classes + 1, rpn_anchor_generator=_anchor_generator(levels, scale),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], output_size=7, sampling_ratio=2),
    )  # fmt: skip
    return network


def _ssdlite(backbone: Any, classes: int, levels: int, scale: float) -> nn.Module:
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD
    from torchvision.models.detection.ssdlite import SSDLiteHead

    # As in ssdlite320_mobilenet_v3_large.
    anchors = DefaultBoxGenerator([[2, 3]] * levels, min_ratio=0.2, max_ratio=0.95)
    norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    head = SSDLiteHead(backbone.out_channels, anchors.num_anchors_per_location(), classes + 1, norm)
    network: nn.Module = SSD(backbone, anchors, (320, 320), classes + 1, head=head)
    return network


def _anchor_generator(
    levels: int, scale: float, *, octaves: int = 1, ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
) -> Any:
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    sizes = tuple(
        tuple(int(scale * 8 * 2**level * 2 ** (octave / 3)) for octave in range(octaves)) for level in range(levels)
    )
    return AnchorGenerator(sizes, (ratios,) * levels)


_BUILDERS = {"retinanet": _retinanet, "fcos": _fcos, "ssdlite": _ssdlite, "faster_rcnn": _faster_rcnn}
