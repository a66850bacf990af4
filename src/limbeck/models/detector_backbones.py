"""Backbones of detectors: networks for classification, with a feature pyramid or the extra layers of SSDLite."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.ssdlite import _extra_block, _normal_init
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from limbeck.core.errors import LimbeckError
from limbeck.models.build import _build_or_raise, _replace_input_layer, require_model_name
from limbeck.models.timm_weights import timm_pretrained_options

__all__ = ["make_fpn_backbone", "make_ssdlite_backbone"]

_PROBE_SIDE = 64
_TIMM = "timm:"


def make_fpn_backbone(
    name: str, *, levels: int, channels: int, out_channels: int, pretrained: bool
) -> FPNBackbone:  # fmt: skip
    """The backbone ``name`` with a feature pyramid of 3 to 5 levels from stride 8 on.

    The fourth of four levels is subsampled from the third; five levels are P3 to P7 of RetinaNet.
    """
    body, widths = _make_body(name, (8, 16, 32), channels=channels, pretrained=pretrained)
    extra = {3: None, 4: LastLevelMaxPool(), 5: LastLevelP6P7(out_channels, out_channels) if levels == 5 else None}
    return FPNBackbone(body, FeaturePyramidNetwork(widths, out_channels, extra_blocks=extra[levels]), out_channels)


def make_ssdlite_backbone(name: str, *, levels: int, channels: int, pretrained: bool) -> SSDLiteBackbone:
    """The backbone ``name`` at the strides 16 and 32, with extra layers of half the size each."""
    body, widths = _make_body(name, (16, 32), channels=channels, pretrained=pretrained)
    return SSDLiteBackbone(body, [*widths, *(512, 256, 256, 128)[: levels - 2]])


@final
class FPNBackbone(nn.Module):
    """A body with a feature pyramid, as torchvision's ``BackboneWithFPN``; returns maps by name.

    Args:
        body: maps images to feature maps by name.
        fpn: torchvision's ``FeaturePyramidNetwork``.
        out_channels: channels of its maps.
    """

    def __init__(self, body: nn.Module, fpn: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.body, self.fpn, self.out_channels = body, fpn, out_channels

    def forward(self, images: Tensor) -> Any:
        return self.fpn(self.body(images))


@final
class SSDLiteBackbone(nn.Module):
    """A body with the extra layers of SSDLite; returns maps by name.

    Args:
        body: maps images to two feature maps by name.
        out_channels: channels of each map.
    """

    def __init__(self, body: nn.Module, out_channels: Sequence[int]) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        self.body, self.out_channels = body, list(out_channels)
        pairs = zip(self.out_channels[1:], self.out_channels[2:], strict=False)
        self.extra = nn.ModuleList([_extra_block(inputs, outputs, norm) for inputs, outputs in pairs])
        _normal_init(self.extra)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = list(self.body(images).values())
        for block in self.extra:
            maps.append(block(maps[-1]))
        return {str(i): tensor for i, tensor in enumerate(maps)}


@final
class TimmBody(nn.Module):
    """A feature network of timm, whose maps have names.

    Args:
        network: made with ``features_only=True``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {str(i): tensor for i, tensor in enumerate(self.network(images))}


def _make_body(
    name: str, strides: Sequence[int], *, channels: int, pretrained: bool
) -> tuple[nn.Module, list[int]]:  # fmt: skip
    """A network that returns the maps of ``strides``, and their channels."""
    if name.startswith(_TIMM):
        body = _make_timm_body(name.removeprefix(_TIMM), strides, channels=channels, pretrained=pretrained)
    else:
        require_model_name("torchvision", name)
        network = _build_or_raise("torchvision", get_model, name, {"weights": "DEFAULT" if pretrained else None})
        if channels != 3:
            _replace_input_layer(network, name, channels, pretrained=pretrained)
        layers = getattr(network, "features", network)
        body = IntermediateLayerGetter(layers, _layers_by_stride(layers, name, strides, channels))
    try:
        maps = _run_probe(body, channels).values()
    except Exception as error:  # such as networks for images of one size
        raise LimbeckError(f"{name} cannot be the backbone of a detector: choose a ResNet or MobileNet") from error
    if [_PROBE_SIDE // tensor.shape[-1] for tensor in maps] != list(strides):
        raise LimbeckError(f"{name} must have layers of the strides {list(strides)}: choose another backbone")
    return body, [tensor.shape[1] for tensor in maps]


def _make_timm_body(name: str, strides: Sequence[int], *, channels: int, pretrained: bool) -> TimmBody:
    require_model_name("timm", name)
    import timm

    settings: dict[str, Any] = {"features_only": True, "in_chans": channels}
    with torch.device("meta"):
        network: Any = _build_or_raise("timm", timm.create_model, name, settings)
    indices = {stride: index for index, stride in enumerate(network.feature_info.reduction())}
    if missing := [stride for stride in strides if stride not in indices]:
        raise LimbeckError(
            f"{name} must have layers of the strides {list(strides)}, and has none of {missing[0]}: choose another "
            "backbone"
        )
    settings["out_indices"] = tuple(indices[stride] for stride in strides)
    if pretrained:
        settings |= timm_pretrained_options(name, tensors=network.state_dict().keys())
    return TimmBody(_build_or_raise("timm", timm.create_model, name, settings))


def _layers_by_stride(layers: nn.Module, name: str, strides: Sequence[int], channels: int) -> dict[str, str]:
    """The last child of each stride, with the position of its map."""
    last: dict[int, str] = {}

    def record(child: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] > 1:
            last[_PROBE_SIDE // output.shape[-1]] = child

    hooks = [
        module.register_forward_hook(lambda _, __, output, child=child: record(child, output))
        for child, module in layers.named_children()
    ]
    try:
        _run_probe(layers, channels)
    except Exception as error:
        raise LimbeckError(f"{name} cannot be the backbone of a detector: choose a ResNet or MobileNet") from error
    finally:
        for hook in hooks:
            hook.remove()
    if missing := [stride for stride in strides if stride not in last]:
        raise LimbeckError(
            f"{name} must have layers of the strides {list(strides)}, and has none of {missing[0]}: choose another "
            "backbone"
        )
    return {last[stride]: str(i) for i, stride in enumerate(strides)}


def _run_probe(network: nn.Module, channels: int) -> Any:
    was_training = network.training
    with torch.no_grad():
        output = network.eval()(torch.zeros(1, channels, _PROBE_SIDE, _PROBE_SIDE))
    network.train(was_training)
    return output
