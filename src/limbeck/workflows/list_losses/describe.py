"""What each loss is, out of its own docstrings, and what it costs, by making one.

A loss says what it is in the docstring of its module: the first paragraph begins with the form of knowledge
("Knowledge of features: …"), and the first link is the paper. Nothing is listed by hand, so a loss that is exported by
:mod:`limbeck.losses` is in the list.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

from limbeck.recipe.registry import NODE_KINDS, list_names
from limbeck.workflows.list_losses.cost import LossCost, measure_loss_cost
from limbeck.workflows.list_losses.docstrings import parse_arguments, split_paragraphs

__all__ = ["KNOWLEDGE_KINDS", "LossInfo", "list_losses"]

KNOWLEDGE_KINDS: Final = ("responses", "features", "relations", "self", "target", "other")
"""What knowledge may be of: outputs, hidden features, relations, the student's own; the labels; or none of these."""

_KNOWLEDGE_PATTERN: Final = re.compile(r"knowledge of (responses|features|relations)\b", re.IGNORECASE)
_LINK_PATTERN: Final = re.compile(r"https?://[^\s)>\]]*[^\s)>\].,;:]")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LossInfo:
    """One loss.

    Attributes:
        name: of the class, by which recipes use it.
        knowledge: one of :data:`KNOWLEDGE_KINDS`.
        summary: what it compares, in a few words.
        papers: links, the method's own first.
        layer_args: its arguments that name layers; those in brackets may be left out.
        cost: what it learns and keeps.
        loss_class: the class.
        functions: the public functions of its module, which are its arithmetic.
        docstring: the docstring of its module.
    """

    name: str
    knowledge: str
    summary: str
    papers: tuple[str, ...]
    layer_args: tuple[str, ...]
    cost: LossCost
    loss_class: type[Any]
    functions: tuple[Callable[..., Any], ...]
    docstring: str


def list_losses() -> list[LossInfo]:
    """Every loss that recipes know by name, by form and then by name.

    >>> [loss.name for loss in list_losses() if loss.knowledge == "target"]
    ['CrossEntropyLoss']
    """
    return sorted(
        map(_describe_loss, list_names("loss")),
        key=lambda info: (KNOWLEDGE_KINDS.index(info.knowledge), info.name.lower()),
    )


def _describe_loss(name: str) -> LossInfo:
    losses_module = sys.modules[NODE_KINDS["loss"].module]
    loss_class: type[Any] = getattr(losses_module, name)
    loss_module = sys.modules[loss_class.__module__]
    text = inspect.getdoc(loss_module) or inspect.getdoc(loss_class) or ""
    exports = [getattr(losses_module, export) for export in getattr(losses_module, "__all__", ())]
    functions = tuple(
        export for export in exports if inspect.isfunction(export) and export.__module__ == loss_class.__module__
    )
    first_paragraph = split_paragraphs(text)[0] if text else ""
    layer_args = _find_layer_args(loss_class)
    return LossInfo(
        name=name, knowledge=_parse_knowledge(first_paragraph), summary=_parse_summary(first_paragraph),
        papers=tuple(dict.fromkeys(_LINK_PATTERN.findall(text))), layer_args=layer_args,
        cost=measure_loss_cost(loss_class, layer_args), loss_class=loss_class, functions=functions, docstring=text,
    )  # fmt: skip


def _parse_knowledge(paragraph: str) -> str:
    if match := _KNOWLEDGE_PATTERN.match(paragraph):
        return match[1].lower()
    lowered = paragraph.lower()
    return "self" if lowered.startswith("knowledge") else "target" if lowered.startswith("the truth") else "other"


def _parse_summary(paragraph: str) -> str:
    """The first sentence without the form of knowledge, and without a link."""
    sentence = re.sub(rf",? ?{_LINK_PATTERN.pattern}", "", re.split(r"(?<=[.])\s+(?=[A-Z])", paragraph)[0]).rstrip(".")
    if _KNOWLEDGE_PATTERN.match(sentence):
        return _KNOWLEDGE_PATTERN.sub("", sentence, count=1).lstrip(": ")
    prefix, separator, suffix = sentence.partition(": ")
    return suffix if separator and prefix.lower().startswith(("knowledge", "the truth")) else sentence


def _find_layer_args(loss_class: type[Any]) -> tuple[str, ...]:
    """The arguments that name layers: text that has to be given, or of which its docstring says that it is a layer."""
    descriptions, layer_args = parse_arguments(inspect.getdoc(loss_class) or ""), []
    for name, parameter in inspect.signature(loss_class).parameters.items():
        is_required = parameter.default is inspect.Parameter.empty
        if "str" in str(parameter.annotation) and (
            is_required or re.search(r"\b(taps?|layers?)\b", descriptions.get(name, ""))
        ):
            layer_args.append(name if is_required else f"[{name}]")
    return tuple(layer_args)
