"""Any classification network of torchvision or timm, by name, with the right classes and channels.

https://docs.pytorch.org/vision/stable/models.html and https://huggingface.co/docs/timm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.models.checks import require_at_least
from limbeck.models.weights import load_weights

__all__ = ["timm", "torchvision"]

_RENAMED_OPTIONS = {"num_classes": "classes", "in_chans": "channels", "checkpoint_path": "weights"}

# No loss would train those heads; and torchvision warns unless the initialisation is chosen.
_NO_AUXILIARY_HEADS: Mapping[str, Any] = {"aux_logits": False, "init_weights": True}


def torchvision(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    **options: Any,
) -> nn.Module:
    """A classification network of ``torchvision.models``.

    Args:
        name: ``resnet18``, ``mobilenet_v3_small``, ...; a misspelt one is answered with the nearest.
        classes: number of classes.
        channels: of the image. Other than 3, the first convolution gets a new weight: random with the spread that the
            network's own initialisation gave it, or, if pretrained, the mean over the three colors, scaled so that a
            gray image gives what it gave in three equal channels.
        pretrained: start from the weights that torchvision publishes (its default set), which needs a network once.
            Their head is kept if it has ``classes`` outputs, and is replaced by a random one if not.
        weights: a file or run folder to load, as in :func:`~limbeck.models.load_weights`; instead of ``pretrained``.
        stem: ``cifar`` begins a ResNet with a 3×3 convolution of stride 1 and no pooling, as is usual for 32×32
            images, which the ``imagenet`` stem shrinks to 8×8 before the first block.
        options: passed on to torchvision: ``dropout``, ``image_size``, ...

    Raises:
        LimbeckError: for an unknown name or option, weights that cannot be fetched or do not fit, or a network whose
            channels cannot be changed.

    >>> net = torchvision("squeezenet1_1", classes=5, channels=1)
    >>> list(net(torch.zeros(2, 1, 64, 64)).shape)
    [2, 5]
    """
    from torchvision import models as zoo

    require_at_least(1, classes=classes, channels=channels)
    _validate_options(name, options, pretrained=pretrained, weights=weights)
    names = zoo.list_models(module=zoo)
    if name not in names:
        raise LimbeckError(
            f"torchvision has no classification network named {name!r}; the nearest: {suggest_names(name, names)}"
        )
    if pretrained:
        # Built with its own head first: torchvision renames old weights and sets what goes with them.
        model = _build_or_raise("torchvision", zoo.get_model, name, {"weights": "DEFAULT", **options})
        _remove_auxiliary_heads(model)
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
    name: str,
    *,
    classes: int,
    channels: int = 3,
    pretrained: bool = False,
    weights: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """A network of timm, which is installed by ``pip install 'limbeck[timm]'``.

    Args:
        name: an architecture, or one with the tag of its weights: ``resnet50``, ``resnet50.a1_in1k``, ...
        classes: number of classes.
        channels: of the image; timm adapts the first convolution, pretrained or not.
        pretrained: start from the weights that timm publishes, which needs a network once. Their head is kept if it has
            ``classes`` outputs, and is replaced by a random one if not.
        weights: a file or run folder to load, as in :func:`~limbeck.models.load_weights`; instead of ``pretrained``.
        options: passed on to timm: ``drop_rate``, ``img_size``, ...

    Raises:
        LimbeckError: where timm is absent, a name or option is unknown, or weights cannot be fetched or do not fit.
    """
    try:
        import timm as zoo
    except ImportError as error:
        raise LimbeckError(f"{name} comes from timm, which is not installed: pip install 'limbeck[timm]'") from error

    require_at_least(1, classes=classes, channels=channels)
    _validate_options(name, options, pretrained=pretrained, weights=weights)
    if not zoo.is_model(name):
        raise LimbeckError(f"timm has no network named {name!r}; the nearest: {suggest_names(name, zoo.list_models())}")
    settings: dict[str, Any] = {"num_classes": classes, "in_chans": channels, **options}
    if pretrained:
        settings["pretrained"] = True
    model = _build_or_raise("timm", zoo.create_model, name, settings)
    return model if weights is None else load_weights(model, weights)


def _replace_stem(model: nn.Module, name: str, *, pretrained: bool) -> None:
    """He et al.'s stem for CIFAR in place of the one for ImageNet."""
    first = getattr(model, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not isinstance(getattr(model, "maxpool", None), nn.MaxPool2d) or pretrained:
        raise LimbeckError(f"{name}: `stem: cifar` is for a ResNet without pretrained weights; leave it out")
    stem = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1, model.maxpool = stem, nn.Identity()


def _validate_options(name: str, options: Mapping[str, Any], *, pretrained: bool, weights: str | Path | None) -> None:
    for option in options.keys() & _RENAMED_OPTIONS.keys():
        raise LimbeckError(f"{name}: say {_RENAMED_OPTIONS[option]!r} instead of {option!r}")
    if "aux_logits" in options:
        raise LimbeckError(
            f"{name}: there is no choice of aux_logits, for no loss would train auxiliary heads: leave it out"
        )
    if options.get("features_only"):
        raise LimbeckError(
            f"{name}: features_only leaves no logits to distil; name hidden layers under feature_layers instead"
        )
    if pretrained and weights is not None:
        raise LimbeckError(
            f"{name}: give 'pretrained' or 'weights' ({weights}), not both: the second would undo the first"
        )


def _build_or_raise(library: str, build: Callable[..., nn.Module], name: str, settings: Mapping[str, Any]) -> nn.Module:
    """What ``build`` gives; a network may refuse its options, and a download may fail, with any error there is."""
    try:
        return build(name, **settings)
    except Exception as error:
        if settings.keys() & {"weights", "pretrained"} and not isinstance(error, TypeError):
            raise LimbeckError(
                f"the weights that {library} publishes for {name} could not be fetched or do not fit "
                f"({_first_line(error)}): "
                "connect to a network, give a file of your own as weights, or say pretrained: false"
            ) from error
        raise LimbeckError(f"{library} could not build {name} with {dict(settings)}: {_first_line(error)}") from error


def _remove_auxiliary_heads(model: nn.Module) -> None:
    """Take the auxiliary heads from a network of the Inception kind, as torchvision does from GoogLeNet."""
    for name, disabled in (("aux_logits", False), ("aux1", None), ("aux2", None), ("AuxLogits", None)):
        if hasattr(model, name):
            setattr(model, name, disabled)


def _replace_head(model: nn.Module, classes: int) -> None:
    """Give the last layer, linear or 1×1 convolution, ``classes`` fresh outputs, unless it has that many."""
    head = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    if len(head.weight) == classes:
        return
    head.weight = nn.Parameter(head.weight.new_empty(classes, *head.weight.shape[1:]))
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias.new_empty(classes))
    if isinstance(head, nn.Linear):
        head.out_features = classes
    else:
        head.out_channels = classes
    head.reset_parameters()


def _replace_input_layer(model: nn.Module, name: str, channels: int, *, pretrained: bool) -> None:
    """Let the first convolution take ``channels`` channels."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups != 1 or getattr(model, "transform_input", False):
        raise LimbeckError(
            f"{name} is made for three colors and its first layer cannot be changed to {channels} channels: "
            "give it images of 3 channels, or choose another network"
        )
    weight = first.weight.detach()
    if pretrained:
        new_weight = weight.sum(1, keepdim=True).div(channels).repeat(1, channels, 1, 1)
    else:
        new_weight = torch.randn(len(weight), channels, *weight.shape[2:]) * weight.std()
    first.weight = nn.Parameter(new_weight)
    first.in_channels = channels


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
