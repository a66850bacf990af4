"""``limbeck losses``: the losses of ``limbeck.losses`` as a table, and as ``docs/methods.md``."""

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
from limbeck.report.formatting import format_bytes
from limbeck.report.terminal import make_table, render_text

__all__ = [
    "LossInfo",
    "describe_loss",
    "list_losses",
    "losses_page",
    "losses_table",
    "measure_loss_size",
    "render_losses",
]

_KNOWLEDGE_TITLES: Final = {
    "response": "Responses", "feature": "Features", "relation": "Relations", "self": "Without a teacher",
    "label": "Labels", "other": "Others",
}  # fmt: skip
_EXAMPLE_SIZES: Final = "16 → 32 channels of 8×8, and of a second layer 32 → 64 of 4×4; 10 classes"
"""The features of student and teacher for which parameters and buffers are counted."""
_HEADER: Final = f"""# Methods

Every loss of `limbeck.losses` is a pure function of tensors, and a class that reads these tensors from a loss context
and is named in a recipe by `use`. All follow one convention: sum over classes, mean over rows, times τ²; float32
inside; no gradient to a teacher. `help(limbeck.losses.kd_loss)` shows shapes, arguments and an example;
[Add a loss](add-a-method.md) shows how to add another.

This page is generated: `limbeck losses --markdown > docs/methods.md`. Layers in brackets are optional. Parameters and
buffers are those of the loss itself, for {_EXAMPLE_SIZES}."""
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
        knowledge: ``response``, ``feature``, ``relation``, ``self``, ``label`` or ``other``.
        title: the first line of the docstring of its module.
        formula: the first line of the docstring of its function ``fn``.
        paper: link; empty where there is none.
        needs: ``teacher``, ``target`` and the arguments that name layers, optional ones in brackets.
        num_parameters: for example features; ``None`` where the loss cannot be built for these.
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


def render_losses(*, markdown: bool = False) -> str:
    """:func:`losses_table`, or with ``markdown`` :func:`losses_page`."""
    return losses_page(list_losses()) if markdown else losses_table(list_losses())


def list_losses() -> list[LossInfo]:
    """Every loss that recipes can name, by kind of knowledge and then by name.

    >>> [loss.name for loss in list_losses() if loss.knowledge == "label"]
    ['CrossEntropyLoss', 'CTCLoss', 'DetectionLoss', 'InfoNCELoss', 'LinearCrossEntropyLoss', 'SupConLoss']
    """
    losses = import_module(NODE_KINDS["loss"].module)
    infos = [describe_loss(getattr(losses, name)) for name in list_names("loss")]
    kinds = list(_KNOWLEDGE_TITLES)
    return sorted(infos, key=lambda info: (kinds.index(info.knowledge), info.name.lower()))


def losses_page(losses: Sequence[LossInfo]) -> str:
    """The page: one table for each kind of knowledge."""
    head = ("loss", "compares", "formula", "paper", "needs", "parameters", "buffers")
    sections = [_HEADER]
    for kind, title in _KNOWLEDGE_TITLES.items():
        rows = [
            (f"`{loss.name}`", loss.title, loss.formula.replace("``", "`"),
            f"[paper]({loss.paper})" if loss.paper else "–", *_sizes(loss))
            for loss in losses
            if loss.knowledge == kind
        ]  # fmt: skip
        if rows:
            lines = [head, ("---",) * len(head), *rows]
            table = "\n".join("| " + " | ".join(value.replace("|", "\\|") for value in row) + " |" for row in lines)
            sections += [f"## {title}", table]
    return "\n\n".join(sections) + "\n"


def losses_table(losses: Sequence[LossInfo]) -> str:
    """One line for each loss, and a line on the sizes below."""
    rows = [(loss.name, loss.knowledge, *_sizes(loss), loss.paper or "–") for loss in losses]
    table = make_table(("loss", "knowledge", "needs", "parameters", "buffers", "paper"), (), rows)
    return render_text(table, f"parameters, buffers: for {_EXAMPLE_SIZES}; formulas: docs/methods.md", width=260)


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
    """Parameters and bytes of buffers of a loss for example features; ``None`` where it cannot be built.

    Args:
        loss_class: the class.
        layers: its arguments that name layers, and whether they are required; optional ones are used only where the
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
                layer_names = iter(("first", "second", "first", "second"))
                loss = loss_class(
                    **{name: ("first", "second") if name.endswith("layers") else next(layer_names) for name in names}
                )
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
    boxes = {"boxes": torch.zeros(_BATCH_SIZE, 1, 4), "num_boxes": ids * 0, "image_size": torch.ones(_BATCH_SIZE, 2)}
    return LossContext(
        student=student,
        teachers={"teacher": teacher},
        teacher=teacher,
        target=ids,
        sample_ids=ids,
        sample_targets=boxes,
    )


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").partition("\n")[0]


def _sizes(loss: LossInfo) -> tuple[str, str, str]:
    parameters = "yes" if loss.num_parameters is None else f"{loss.num_parameters:,}" if loss.num_parameters else "–"
    buffers = "?" if loss.buffer_bytes is None else format_bytes(loss.buffer_bytes) if loss.buffer_bytes else "–"
    return ", ".join(loss.needs) or "–", parameters, buffers
