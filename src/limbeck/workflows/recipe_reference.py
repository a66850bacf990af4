"""``limbeck recipe reference``: ``docs/recipe-reference.md``, every key of a recipe with type, default and meaning."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from limbeck.recipe.node_schema import BaseNode, LossNode, NormalizationNode, SchedulerNode, TeacherNode
from limbeck.recipe.registry import NODE_KINDS, NodeKind, kinds_by_type, list_names
from limbeck.recipe.schema import CacheNode, ExportNode, Recipe, Stage, TrainingNode, to_plain
from limbeck.recipe.study_schema import Study
from limbeck.recipe.type_hints import get_hints
from limbeck.utils.validation import Settings, format_value

__all__ = ["describe_settings", "recipe_reference"]

_HEADER: Final = """# Recipe reference

Every key of a recipe. This page is generated: `limbeck recipe reference > docs/recipe-reference.md`.
`limbeck recipe show FILE` prints a recipe with every default filled in, and `limbeck recipe check FILE` checks one.

A **node** is an object to build: its name, or a mapping with its name under `use` and its settings beside it. A
network is named `timm:NAME`, `torchvision:NAME`, `hf:FOLDER` (a folder of `save_pretrained`), `onnx:FILE` (a teacher),
or as below; the same names work in `limbeck new`, `limbeck layers` and `limbeck.models.create_model`. A class or
function of your own is `package.module:Name`, with its package under `plugins`: [losses](bring-your-own.md#losses);
[callbacks, loggers and metrics](bring-your-own.md#callbacks-loggers-and-metrics)."""
_SECTIONS: Final[Mapping[str, tuple[type[BaseModel], str]]] = {
    "The recipe": (Recipe, "The top level."),
    "Stages": (Stage, "One of `stages`, and `teacher_training`, whose `name` can be left out."),
    "Losses of an objective": (LossNode, "Beside the settings of the loss ([below](#losses))."),
    "Teachers": (TeacherNode, "Beside the settings of the network ([below](#models), or [external](#teachers-1))."),
    "Normalization of a teacher": (NormalizationNode, "`normalize` of a teacher."),
    "Training": (TrainingNode, "`training`, and the changes of a stage under its own `training`."),
    "Scheduler": (SchedulerNode, "`training.scheduler`, beside the settings of torch's scheduler."),
    "Cache": (CacheNode, "`cache` ([caches](cache.md))."),
    "Study": (Study, "`study`, for `limbeck study` ([studies](study.md))."),
    "Export": (ExportNode, "`export`."),
}
_TORCH_KINDS: Final = ("optimizer", "scheduler")
_OWN_KINDS: Final = ("logger", "callback")
_SCALARS: Final = {int: "integer", float: "number", str: "text", bool: "true or false", NoneType: "null"}
_COMMON_MEANINGS: Final = {
    "degrees": "largest angle of the rotation, in degrees.",
    "scale": "smallest and largest scale; of a crop, the fraction of the area.",
    "ratio": "smallest and largest aspect ratio of the crop.",
    "translate": "largest shift, as a fraction of the size.",
    "padding": "pixels added on each side before the crop.",
    "padding_mode": "what is outside of the image.",
    "name": "class in `torchvision.transforms.v2`.",
    "options": "arguments of that class.",
    "kwargs": "arguments of the object.",
    "width": "channels of the first layers, or length of the hidden vectors.",
    "depth": "number of blocks or layers.",
    "kernel": "length of the convolutions in frames.",
    "stride": "frames per output frame.",
    "mels": "number of mel bands of the frames.",
    "hidden": "units of each hidden layer.",
    "size": "height and width of the images.",
    "shortcut": "how the shortcut changes its shape: by a 1×1 convolution or by padding with zeros.",
    "patch_size": "height and width of a patch.",
    "num_heads": "number of attention heads.",
    "dropout": "dropout probability.",
    "max_tokens": "longest sequence.",
    "vocab_size": "number of tokens in the vocabulary.",
    "schedule": "the schedule that it changes.",
    "start": "value at the first step.",
    "end": "value at the last step.",
    "gamma": "factor at each milestone.",
    "milestones": "fractions of training at which the value changes.",
    "milestone": "fraction of training at which the value changes.",
    "before": "value before the milestone.",
    "after": "value after the milestone.",
    "value": "value after the warm-up: a number or a schedule.",
    "fraction": "fraction of training of the warm-up.",
}
"""Of arguments whose name says it, and which their objects do not describe."""
_BOUNDS: Final = {Gt: ("> ", "gt"), Ge: ("≥ ", "ge"), Lt: ("< ", "lt"), Le: ("≤ ", "le")}
_ROLE: Final = re.compile(r":\w+:`~?([\w.]+)`")
_ENTRY: Final = re.compile(r"    (\w+(?:, \w+)*): (.*)")


def recipe_reference() -> str:
    """The page."""
    parts = [_HEADER]
    for title, (model, text) in _SECTIONS.items():
        parts += [f"## {title}", text, _table(("key", "type", "default", "meaning"), _model_rows(model))]
    parts += [
        "## Names for `use`",
        "By kind, with their settings. Those of the data (`classes`, `channels`) are filled in.",
    ]
    for kind, info in NODE_KINDS.items():
        if kind in _OWN_KINDS:
            continue
        title = info.display_name[0].upper() + info.display_name[1:]
        parts.append(f"### {_plural(title)}")
        names = list_names(kind)
        if kind in _TORCH_KINDS:
            parts.append(
                f"Those of [`{info.module}`](https://docs.pytorch.org/docs/stable/optim.html): {_join(names)}."
            )
        else:
            rows = [row for name in names for row in _object_rows(name, info)]
            parts.append(_table(("name", "setting", "type", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def describe_settings(model: type[BaseModel]) -> dict[str, str]:
    """The meaning of each key of a section, from the docstrings of its class and base classes."""
    meanings: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and "__doc__" in vars(base):
            meanings |= _entries(base.__doc__ or "")
    return {name: meanings.get(name, "") for name in model.model_fields if name != "use"}


def _model_rows(model: type[BaseModel]) -> list[tuple[str, ...]]:
    meanings = describe_settings(model)
    return [
        (f"`{name}`", _field_type(model.model_fields[name]), _field_default(model.model_fields[name]), meaning)
        for name, meaning in meanings.items()
    ]


def _object_rows(name: str, info: NodeKind) -> list[tuple[str, ...]]:
    target = getattr(import_module(info.module), name)
    summary = _markdown((inspect.getdoc(target) or "").partition("\n\n")[0])
    rows: list[tuple[str, ...]] = [(f"`{name}`", "", "", "", summary)]
    meanings, hints = _argument_meanings(target, info), get_hints(target)
    for parameter in inspect.signature(target).parameters.values():
        is_filled = parameter.name in info.injected_args or parameter.name in info.positional_args
        if (is_filled and parameter.name not in ("temperature",)) or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        is_open = parameter.kind is parameter.VAR_KEYWORD
        default = "" if is_open else _default_text(parameter.default, is_required=parameter.default is parameter.empty)
        kind_text = "further settings" if is_open else _type_text(hints.get(parameter.name, Any))
        meaning = meanings.get(parameter.name, "")
        rows.append(("", f"`{parameter.name}`", kind_text, default, meaning))
    return rows


def _argument_meanings(target: Callable[..., Any], info: NodeKind) -> dict[str, str]:
    """Of the object itself; of arguments that it does not describe, by their names or of another object of its kind."""
    module = import_module(info.module)
    others = [getattr(module, name) for name in getattr(module, "__all__", ())]
    own, borrowed = _docstring_meanings([target]), _docstring_meanings(others)
    return borrowed | _COMMON_MEANINGS | own


def _docstring_meanings(objects: Sequence[Any]) -> dict[str, str]:
    meanings: dict[str, str] = {}
    for item in objects:
        for base in reversed(item.__mro__) if inspect.isclass(item) else [item]:
            meanings |= _entries(inspect.getdoc(base) or "")
    return meanings


def _entries(docstring: str) -> dict[str, str]:
    """The arguments and attributes of a docstring in Google style, as Markdown."""
    entries: dict[str, str] = {}
    names: list[str] = []
    is_section = False
    for line in inspect.cleandoc(docstring).splitlines():
        if line and not line.startswith(" "):
            is_section, names = line in ("Args:", "Attributes:"), []
        elif is_section and (match := _ENTRY.fullmatch(line)):
            names = match[1].split(", ")
            entries |= dict.fromkeys(names, match[2])
        elif is_section and names and line.strip():
            entries |= {name: f"{entries[name]} {line.strip()}" for name in names}
    return {name: _markdown(text) for name, text in entries.items()}


def _markdown(text: str) -> str:
    text = _ROLE.sub(lambda match: f"`{match[1].rpartition('.')[2]}`", text.replace("\n", " "))
    return text.replace("``", "`").replace("`None`", "`null`")


def _field_type(field: FieldInfo) -> str:
    bounds = [
        f"{sign}{getattr(constraint, attribute):,}"
        for constraint in field.metadata
        for kind, (sign, attribute) in _BOUNDS.items()
        if isinstance(constraint, kind)
    ]
    return " ".join([_type_text(field.annotation), *([f"({', '.join(bounds)})"] if bounds else [])])


def _field_default(field: FieldInfo) -> str:
    return _default_text(field.get_default(call_default_factory=True), is_required=field.is_required())


def _default_text(default: Any, *, is_required: bool) -> str:
    if is_required:
        return "required"
    if isinstance(default, BaseNode):
        return f"`{format_value(to_plain(default))}`"
    if isinstance(default, Settings):
        return "see below"
    is_plain = default is None or isinstance(default, bool | int | float | str | list | tuple | dict)
    return f"`{format_value(default)}`" if is_plain else f"`{default!r}`"


def _type_text(hint: Any) -> str:
    """A type as words of YAML."""
    hint = getattr(hint, "__value__", hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type_text(args[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type_text(arg) for arg in args))
    if origin is Literal:
        return " or ".join(f"`{arg}`" for arg in args)
    if hint is None or hint in _SCALARS:
        return _SCALARS[NoneType if hint is None else hint]
    base = origin or hint
    if base in (list, tuple) or getattr(base, "__name__", "") in ("Sequence", "Iterable", "Collection"):
        items = dict.fromkeys(_type_text(arg) for arg in args if arg is not ...)
        return f"list of {' or '.join(items)}" if items else "list"
    if base is dict or getattr(base, "__name__", "") == "Mapping":
        return f"mapping of names to {_type_text(args[1])}" if args else "mapping"
    return _class_text(base)


def _class_text(base: Any) -> str:
    if base is Any:
        return "any"
    if inspect.isclass(base) and issubclass(base, BaseNode):
        return "node"
    if inspect.isclass(base) and issubclass(base, Settings):
        return "mapping"
    if kind := kinds_by_type().get(base):
        return f"{NODE_KINDS[kind].display_name} (node)"
    return "path" if getattr(base, "__name__", "") == "Path" else "node"


def _plural(title: str) -> str:
    head, *rest = title.split(" ", 1) if " of " in title else [title]
    plural = {"Loss": "Losses"}.get(head, head if head.endswith("ing") or head == "Augmentation" else f"{head}s")
    return " ".join([plural, *rest])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _join(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
