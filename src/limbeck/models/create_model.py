"""Networks by name, as in recipes and on the command line."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.utils.model_names import MODEL_PREFIXES, expand_model_name

__all__ = ["create_model"]


def create_model(name: str, *, classes: int, channels: int = 3, **options: Any) -> nn.Module:
    """A network by the name that recipes and the command line use.

    Args:
        name: ``timm:NAME``, ``torchvision:NAME``, ``hf:FOLDER`` (a folder of ``save_pretrained``), or a network of
            :mod:`limbeck.models`, such as ``small_cnn``.
        classes: number of classes.
        channels: channels of the images, for networks that have this argument.
        options: arguments of the builder: ``pretrained``, ``weights``, ``width``, ...

    Raises:
        LimbeckError: an unknown name, or one of the errors of the builder.

    >>> net = create_model("torchvision:squeezenet1_1", classes=5, channels=1)
    >>> type(net).__name__
    'SqueezeNet'
    """
    from limbeck import models

    node = expand_model_name({"use": name})
    builder, argument = node.pop("use"), node
    names = [key for key in models.__all__ if key not in ("create_model", "load_weights", "save_weights")]
    if builder not in names:
        prefixes = ", ".join(f"{prefix}:…" for prefix in MODEL_PREFIXES if prefix != "onnx")
        raise LimbeckError(
            f"name must be {prefixes} or a network of limbeck.models ({suggest_names(name, names)}), got {name!r}"
            + ("; an ONNX file is a teacher: use limbeck.teachers.onnx" if builder == "onnx" else "")
        )
    function = getattr(models, builder)
    if "channels" in inspect.signature(function).parameters:
        options = {"channels": channels, **options}
    model: nn.Module = function(**argument, classes=classes, **options)
    return model
