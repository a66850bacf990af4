"""Copies of modules, and modules without their parametrizations.

``weight_norm`` and ``spectral_norm``, those of ``torch.nn.utils`` and of ``torch.nn.utils.parametrizations``, compute a
weight at each forward pass from other parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["copy_module", "fold_parametrizations", "has_parametrizations"]

_Module = TypeVar("_Module", bound=nn.Module)
_REMOVE: Mapping[type[Any], Any] = {WeightNorm: remove_weight_norm, SpectralNorm: remove_spectral_norm}


def copy_module(module: _Module, *, keep: tuple[object, ...] = ()) -> _Module:
    """``copy.deepcopy`` that also copies tensors which a module computed in its forward pass.

    ``torch.nn.utils.weight_norm`` keeps its weight as such a tensor, which ``deepcopy`` refuses. In the copy it is a
    tensor without gradients until the next forward pass computes it again.

    Args:
        module: the module.
        keep: objects that the copy shares with ``module``.
    """
    memo: dict[int, Any] = {id(item): item for item in keep}
    for child in module.modules():
        for value in vars(child).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def has_parametrizations(module: nn.Module) -> bool:
    """Whether :func:`fold_parametrizations` changes ``module``."""
    return any(parametrize.is_parametrized(child) or _norm_hooks(child) for child in module.modules())


@torch.no_grad()
def fold_parametrizations(module: _Module) -> _Module:
    """``module``, changed in place: each computed weight becomes a parameter with its present value.

    The outputs in eval mode stay the same.

    >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    >>> sorted(name for name, _ in fold_parametrizations(layer).named_parameters())
    ['bias', 'weight']
    """
    for child in list(module.modules()):
        if parametrize.is_parametrized(child):
            _fold(child)
        for hook in _norm_hooks(child):
            _REMOVE[type(hook)](child, hook.name)
    return module


def _fold(module: nn.Module) -> None:
    # remove_parametrizations would change the class, which the module that this one was copied from still has.
    parametrizations: Any = module.parametrizations
    values = {
        name: (getattr(module, name).clone(), list(parametrizations[name].parameters())) for name in parametrizations
    }
    original_class = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    module.__class__ = original_class
    for name, (value, parameters) in values.items():
        if parameters:
            requires_grad = any(parameter.requires_grad for parameter in parameters)
            module.register_parameter(name, nn.Parameter(value, requires_grad=requires_grad))
        else:
            module.register_buffer(name, value)


def _norm_hooks(module: nn.Module) -> list[Any]:
    """The hooks of ``torch.nn.utils.weight_norm`` and ``spectral_norm``."""
    return [hook for hook in module._forward_pre_hooks.values() if type(hook) in _REMOVE]
