"""What each loss compares and needs, and the parameters and buffers it has for features of a usual size."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, final

import torch
from torch import nn

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Preparable, loss_attribute
from limbeck.recipe.registry import NODE_KINDS, list_names

__all__ = ["EXAMPLE_SIZES", "KNOWLEDGE_KINDS", "LossInfo", "describe_loss", "list_losses", "measure_loss_size"]

KNOWLEDGE_KINDS: Final = ("response", "feature", "relation", "self", "label", "other")
EXAMPLE_SIZES: Final = "16 → 32 channels of 8×8, and of a second layer 32 → 64 of 4×4; 10 classes"
"""The features of student and teacher for which parameters and buffers are counted."""
_BATCH_SIZE: Final = 8
_NUM_CLASSES: Final = 10
_FEATURE_SHAPES: Final = {
    "student": {"first": (16, 8, 8), "second": (32, 4, 4)},
    "teacher": {"first": (32, 8, 8), "second": (64, 4, 4)},
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LossInfo:
    """One loss.

    Attributes:
        name: of the class, as recipes use it.
        knowledge: one of :data:`KNOWLEDGE_KINDS`.
        title: the first line of the docstring of its module.
        formula: the first line of the docstring of its function ``fn``.
        paper: link; empty where there is none.
        needs: ``teacher``, ``target`` and the arguments that name layers, optional ones in brackets.
        num_parameters: for :data:`EXAMPLE_SIZES`; ``None`` where the loss cannot be built for these.
        buffer_bytes: likewise, without the running statistics of BatchNorm.
    """

    name: str
    knowledge: str
    title: str
    formula: str
    paper: str
    needs: tuple[str, ...]
    num_parameters: int | None
    buffer_bytes: int | None


def list_losses() -> list[LossInfo]:
    """Every loss that recipes can name, by kind of knowledge and then by name.

    >>> [loss.name for loss in list_losses() if loss.knowledge == "label"]
    ['CrossEntropyLoss']
    """
    losses = import_module(NODE_KINDS["loss"].module)
    infos = [describe_loss(getattr(losses, name)) for name in list_names("loss")]
    return sorted(infos, key=lambda info: (KNOWLEDGE_KINDS.index(info.knowledge), info.name.lower()))


def describe_loss(loss_class: type[Any]) -> LossInfo:
    """The class attributes of ``loss_class``, the first lines of docstrings, and its size."""
    layers = {
        name: parameter.default is parameter.empty
        for name, parameter in inspect.signature(loss_class).parameters.items()
        if name.endswith(("layer", "layers"))
    }
    needs = [name for name in ("teacher", "target") if loss_attribute(loss_class, f"needs_{name}")]
    num_parameters, buffer_bytes = measure_loss_size(loss_class, layers)
    return LossInfo(
        name=loss_class.__name__,
        knowledge=loss_attribute(loss_class, "knowledge"),
        title=_first_line(inspect.getmodule(loss_class)),
        formula=_first_line(loss_attribute(loss_class, "fn")),
        paper=loss_attribute(loss_class, "paper"),
        needs=(*needs, *(name if required else f"[{name}]" for name, required in layers.items())),
        num_parameters=num_parameters,
        buffer_bytes=buffer_bytes,
    )


def measure_loss_size(loss_class: type[Any], layers: dict[str, bool]) -> tuple[int | None, int | None]:
    """Parameters and bytes of buffers of a loss for :data:`EXAMPLE_SIZES`; ``None`` where it cannot be built.

    Args:
        loss_class: the class.
        layers: its arguments that name layers, and whether they are required; optional ones are given only where the
            loss cannot be built without.

    >>> from limbeck.losses import FitNetLoss, KDLoss
    >>> measure_loss_size(KDLoss, {}), measure_loss_size(FitNetLoss, {"layer": True})
    ((0, 0), (544, 0))
    """
    if not issubclass(loss_class, nn.Module):
        return 0, 0
    for names in ([name for name, required in layers.items() if required], list(layers)):
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                loss = loss_class(**_layer_arguments(names))
                if isinstance(loss, Preparable):
                    loss.prepare(_example_context())
        except Exception:  # noqa: S112  # a loss may need settings or features of another kind
            continue
        modules = [m for m in loss.modules() if not isinstance(m, nn.modules.batchnorm._NormBase)]
        return (
            sum(parameter.numel() for parameter in loss.parameters()),
            sum(buffer.nbytes for module in modules for buffer in module.buffers(recurse=False)),
        )
    return None, None


def _example_context() -> LossContext:
    student, teacher = (
        Outputs(
            logits=torch.randn(_BATCH_SIZE, _NUM_CLASSES),
            features={name: torch.randn(_BATCH_SIZE, *shape) for name, shape in shapes.items()},
        )
        for shapes in _FEATURE_SHAPES.values()
    )
    ids = torch.arange(_BATCH_SIZE)
    return LossContext(student=student, teachers={"teacher": teacher}, teacher=teacher, target=ids, sample_ids=ids)


def _layer_arguments(names: Sequence[str]) -> dict[str, Any]:
    layers = iter(("first", "second", "first", "second"))
    return {name: ("first", "second") if name.endswith("layers") else next(layers) for name in names}


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]
