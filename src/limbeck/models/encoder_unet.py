"""U-Net on a network of torchvision or timm: its features at strides 2, 4, 8, ... are the encoder.

Ronneberger et al., 2015, https://arxiv.org/abs/1505.04597, with a pretrained encoder as in TernausNet (Iglovikov &
Shvets, 2018, https://arxiv.org/abs/1801.05746).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.models.build import _build_or_raise, require_model_name, torchvision
from limbeck.models.options import require_positive
from limbeck.models.timm_weights import timm_pretrained_options
from limbeck.models.unet import UNetBlock, run_unet_decoder

__all__ = ["EncoderUNet", "encoder_unet"]

_PROBE_SIDE = 64
_MAX_DEPTH = 5


def encoder_unet(
    *, encoder: str, width: int = 16, depth: int = 4, classes: int = 11, channels: int = 3, pretrained: bool = False
) -> EncoderUNet:
    """``depth`` levels of an encoder, and a decoder with ``width`` channels at stride 2 and twice as many at each next.

    Args:
        encoder: ``torchvision:NAME`` or ``timm:NAME``, a convolutional network for classification, such as
            ``timm:tf_efficientnet_lite0`` or ``torchvision:mobilenet_v3_large``.
        width: channels of the decoder at stride 2.
        depth: number of levels, 2 to 5: the encoder ends at stride 2^depth.
        classes: number of classes.
        channels: channels of the image.
        pretrained: start the encoder from published weights.

    Raises:
        LimbeckError: the encoder has no features at these strides, or its weights cannot be downloaded.

    >>> encoder_unet(encoder="torchvision:mobilenet_v3_small", depth=3, classes=5)(torch.zeros(2, 3, 36, 48)).shape
    torch.Size([2, 5, 18, 24])
    """
    require_positive(width=width, depth=depth, classes=classes, channels=channels)
    if not 2 <= depth <= _MAX_DEPTH:
        raise LimbeckError(f"depth must be from 2 to {_MAX_DEPTH}, got {depth}: change it")
    library, colon, name = encoder.partition(":")
    if library not in ("timm", "torchvision") or not colon or not name:
        raise LimbeckError(f"encoder must be torchvision:NAME or timm:NAME, got {encoder!r}: choose a network")
    build = _build_timm if library == "timm" else _build_torchvision
    return EncoderUNet(build(name, channels, depth, pretrained=pretrained), width, depth, classes, channels)


@final
class EncoderUNet(nn.Module):
    """See :func:`encoder_unet`. Maps ``[batch, channels, height, width]`` to logits of half the height and width.

    Feature layers: ``encoder`` (a mapping, so name its layers), ``decoderN`` ... ``decoder1`` with ``decoder1`` at
    stride 2.

    Args:
        encoder: maps an image to features by name, ``1`` at stride 2 to ``depth`` at stride 2^depth.
        width: channels of ``decoder1``.
        depth: number of levels.
        classes: number of classes.
        channels: channels of the image.
    """

    def __init__(self, encoder: nn.Module, width: int, depth: int, classes: int, channels: int) -> None:
        super().__init__()
        self.encoder, self.depth = encoder, depth
        with torch.no_grad():
            features = _run_eval(encoder, torch.zeros(1, channels, _PROBE_SIDE, _PROBE_SIDE))
        below = features[str(depth)].shape[1]
        for level in range(depth - 1, 0, -1):
            out_channels = width << (level - 1)
            self.add_module(f"decoder{level}", UNetBlock(below + features[str(level)].shape[1], out_channels))
            below = out_channels
        self.classifier = nn.Conv2d(below, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """The logits at stride 2."""
        features: dict[str, Tensor] = self.encoder(image)
        skips = [features[str(level)] for level in range(1, self.depth)]
        logits: Tensor = self.classifier(run_unet_decoder(self, features[str(self.depth)], skips))
        return logits


@final
class _TimmEncoder(nn.Module):
    """The features of a network of timm by level."""

    def __init__(self, network: nn.Module, depth: int) -> None:
        super().__init__()
        self.network, self.names = network, tuple(str(level) for level in range(1, depth + 1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, self.network(image), strict=True))


def _build_timm(name: str, channels: int, depth: int, *, pretrained: bool) -> nn.Module:
    require_model_name("timm", name)
    import timm

    settings: dict[str, Any] = {"features_only": True, "in_chans": channels}
    with torch.device("meta"):
        network: Any = _build_or_raise("timm", timm.create_model, name, settings)
    indices = {reduction: index for index, reduction in enumerate(network.feature_info.reduction())}
    _require_strides(name, indices, depth)
    settings["out_indices"] = tuple(indices[2**level] for level in range(1, depth + 1))
    if pretrained:
        settings |= timm_pretrained_options(name, tensors=network.state_dict().keys())
    return _TimmEncoder(_build_or_raise("timm", timm.create_model, name, settings), depth)


def _build_torchvision(name: str, channels: int, depth: int, *, pretrained: bool) -> nn.Module:
    return _trace_encoder(torchvision(name, classes=2, channels=channels, pretrained=pretrained), name, channels, depth)


def _trace_encoder(network: nn.Module, name: str, channels: int, depth: int) -> nn.Module:
    """The layers of ``network`` up to stride 2^depth, traced by torchvision's feature extraction."""
    from torchvision.models.feature_extraction import create_feature_extractor

    layers = _find_layers(network, channels)
    _require_strides(name, layers, depth)
    outputs = {layers[2**level]: str(level) for level in range(1, depth + 1)}
    try:
        encoder: nn.Module = create_feature_extractor(network, outputs, suppress_diff_warning=True)
    except Exception as error:  # torch.fx raises errors of any type
        raise LimbeckError(
            f"{name} cannot be traced by torch.fx ({format_root_cause(error)}): choose another encoder"
        ) from error
    return encoder


def _require_strides(name: str, strides: Collection[int], depth: int) -> None:
    if missing := [2**level for level in range(1, depth + 1) if 2**level not in strides]:
        raise LimbeckError(
            f"encoder must have features at stride {missing[0]}, and {name} has them at "
            f"{', '.join(map(str, sorted(strides))) or 'none'}: choose a convolutional network, or a smaller depth"
        )


def _find_layers(network: nn.Module, channels: int) -> dict[int, str]:
    """The last of the outermost layers of each stride, by stride: a whole block rather than one of its layers."""
    layers: dict[int, str] = {}

    def make_hook(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
                stride, remainder = divmod(_PROBE_SIDE, output.shape[2])
                if not remainder and name.count(".") <= layers.get(stride, name).count("."):
                    layers[stride] = name

        return hook

    handles = [module.register_forward_hook(make_hook(name)) for name, module in network.named_modules() if name]
    try:
        with torch.no_grad():
            _run_eval(network, torch.zeros(1, channels, _PROBE_SIDE, _PROBE_SIDE))
    except Exception as error:  # such as networks for images of one size
        raise LimbeckError(
            f"encoder must take images of {_PROBE_SIDE}x{_PROBE_SIDE}, got {type(network).__name__} "
            f"({format_root_cause(error)}): choose a convolutional network"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return layers


def _run_eval(network: nn.Module, image: Tensor) -> Any:
    """The output of ``network`` in eval mode, whose mode is restored."""
    was_training = network.training
    output = network.eval()(image)
    network.train(was_training)
    return output
