"""The names that ``use:`` may take, by kind, and where each comes from. Nothing is imported before it is asked for.

A name stands for a public class or function of one of limbeck's rooms, or of torch's optimizers and schedulers. What
stands outside is ``package.module:Name``, and its package must be listed under the recipe's ``plugins:``, since to
import a package is to run it. Python's own library cannot be listed, and what a package merely imports from elsewhere
is not its own: so no recipe reaches ``os.system``.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType, ModuleType
from typing import Any, Final, final

from limbeck.core.errors import LimbeckError, suggest_names

__all__ = ["NODE_KINDS", "NodeKind", "list_names", "plugin_error", "resolve_target"]

_MODULE_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_TARGET_PATTERN: Final = re.compile(_MODULE_PATTERN.pattern + r":[A-Za-z_][A-Za-z0-9_]*")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """One kind of thing that a recipe names.

    Attributes:
        noun: what one of them is called in an error.
        module: the room whose ``__all__`` holds the names.
        is_member: which of those names are of this kind.
        positional_args: first parameters, which are handed over when it is built and are no settings.
        injected_args: parameters that limbeck fills in where the recipe left them out, and by what.
    """

    noun: str
    module: str
    is_member: Callable[[Any], bool]
    positional_args: tuple[str, ...] = ()
    injected_args: Mapping[str, str] = field(default_factory=dict)


def _map_to_self(*names: str) -> Mapping[str, str]:
    return MappingProxyType({name: name for name in names})


def _is_model_builder(obj: Any) -> bool:
    # Beside the builders stand those who read and write weights; a builder is told how many classes there are.
    return inspect.isfunction(obj) and "classes" in inspect.signature(obj).parameters


NODE_KINDS: Final[Mapping[str, NodeKind]] = MappingProxyType(
    {
        "task": NodeKind(
            noun="task", module="limbeck.tasks", is_member=inspect.isclass, injected_args=_map_to_self("classes")
        ),
        "data": NodeKind(
            noun="data source",
            module="limbeck.data",
            is_member=lambda thing: inspect.isclass(thing) and hasattr(thing, "load"),
            injected_args=_map_to_self("seed"),
        ),
        "augmentation": NodeKind(noun="augmentation", module="limbeck.data.augmentation", is_member=callable),
        "transform": NodeKind(noun="transform", module="limbeck.data.transforms", is_member=inspect.isfunction),
        "model": NodeKind(
            noun="model",
            module="limbeck.models",
            is_member=_is_model_builder,
            injected_args=_map_to_self("classes", "channels", "seed"),
        ),
        "teacher": NodeKind(
            noun="teacher",
            module="limbeck.teachers.external",
            is_member=inspect.isfunction,
            injected_args=_map_to_self("classes"),
        ),
        "self_teacher": NodeKind(
            noun="teacher made of the student",
            module="limbeck.teachers.self_teachers",
            is_member=inspect.isclass,
            injected_args=_map_to_self("classes"),
        ),
        "ensemble": NodeKind(
            noun="ensemble of teachers",
            module="limbeck.teachers.ensemble",
            is_member=lambda thing: inspect.isclass(thing) and thing.__name__ != "EnsembleMethod",
            injected_args=_map_to_self("seed"),
        ),
        "loss": NodeKind(
            noun="loss",
            module="limbeck.losses",
            is_member=inspect.isclass,
            injected_args=_map_to_self("classes", "seed", "temperature"),
        ),
        "schedule": NodeKind(
            noun="schedule",
            module="limbeck.core.schedules",
            is_member=lambda thing: inspect.isfunction(thing) and thing.__name__ != "resolve",
        ),
        "temperature": NodeKind(
            noun="temperature",
            module="limbeck.losses.temperature",
            is_member=lambda thing: (
                inspect.isclass(thing) and hasattr(thing, "bounds") and thing.__name__ != "Temperature"
            ),
        ),
        "loss_weighting": NodeKind(
            noun="loss weighting",
            module="limbeck.losses.weighting.loss_weighting",
            is_member=lambda thing: hasattr(thing, "register_losses"),
        ),
        "optimizer": NodeKind(
            noun="optimizer",
            module="torch.optim",
            is_member=lambda thing: inspect.isclass(thing) and thing.__name__ != "Optimizer",
            positional_args=("params",),
        ),
        "scheduler": NodeKind(
            noun="scheduler",
            module="torch.optim.lr_scheduler",
            is_member=lambda thing: inspect.isclass(thing) and thing.__name__ != "LRScheduler",
            positional_args=("optimizer",),
            injected_args=MappingProxyType({"T_max": "steps", "total_steps": "steps"}),
        ),
    }
)


def list_names(kind: str) -> list[str]:
    """Every name of ``kind``, sorted; this imports its room.

    >>> list_names("schedule")
    ['across_stages', 'cosine', 'linear', 'multistep', 'step_change', 'warmup']
    """
    module = import_module(NODE_KINDS[kind].module)
    public_names = [name for name in getattr(module, "__all__", ()) if not name.startswith("_")]
    return sorted(name for name in public_names if NODE_KINDS[kind].is_member(getattr(module, name)))


def resolve_target(
    use: str, kinds: Iterable[str], *, plugins: Iterable[str] = (), config_path: str = "recipe"
) -> tuple[str, Callable[..., Any]]:
    """What ``use`` names, and of which of ``kinds`` it is; the first kind that has the name wins.

    Raises ``LimbeckError``: for a name nobody has, and for a package that is not listed under ``plugins``.

    >>> resolve_target("linear", ["schedule"])[1](1.0, 0.0)
    Linear(start=1.0, end=0.0)
    """
    order = list(kinds)
    if ":" in use:
        return order[0], _resolve_plugin(use, tuple(plugins), config_path)
    allowed: list[str] = []
    for kind in order:
        available = list_names(kind)
        if use in available:
            target: Callable[..., Any] = getattr(import_module(NODE_KINDS[kind].module), use)
            return kind, target
        allowed += available
    noun = " or ".join(NODE_KINDS[kind].noun for kind in order) if len(order) < 3 else "part"
    raise LimbeckError(
        f"{config_path}: no {noun} is named {use!r}; there are: {suggest_names(use, allowed)} "
        "(a class of your own is written package.module:Name)"
    )


def plugin_error(name: str) -> str | None:
    """Why ``name`` cannot be listed under ``plugins``; ``None`` where it can.

    >>> plugin_error("mypackage.losses")
    >>> plugin_error("os")
    "'os' is part of Python itself, which no recipe may name: list a package of your own"
    """
    if not _MODULE_PATTERN.fullmatch(name) or _has_dunder(name):
        return f"{name!r} is not the name of a package, such as mypackage or mypackage.losses"
    if name.partition(".")[0] in sys.stdlib_module_names:
        return f"{name!r} is part of Python itself, which no recipe may name: list a package of your own"
    return None


def _resolve_plugin(use: str, plugins: tuple[str, ...], config_path: str) -> Callable[..., Any]:
    module, _, name = use.partition(":")
    if not _TARGET_PATTERN.fullmatch(use) or _has_dunder(module) or name.startswith("__"):
        raise LimbeckError(f"{config_path}: {use!r} is not a path of the form package.module:Name")
    allowed_packages = [plugin for plugin in plugins if plugin_error(plugin) is None]
    if not _is_inside(module, allowed_packages):
        top = module.partition(".")[0]
        raise LimbeckError(
            f"{config_path}: {use} is not limbeck's, and its package is not listed: "
            + (plugin_error(module) or f"if you trust it, add `plugins: [{', '.join([*plugins, top])}]` to the recipe")
        )
    imported_module = _import_plugin_module(module, use, config_path)
    public_names = [attribute for attribute in dir(imported_module) if not attribute.startswith("_")]
    obj = getattr(imported_module, name, None)
    if obj is None:
        raise LimbeckError(f"{config_path}: {module} has no {name!r}; there are: {suggest_names(name, public_names)}")
    if not (inspect.isclass(obj) or inspect.isroutine(obj)):
        raise LimbeckError(f"{config_path}: {use} is a {type(obj).__name__}, and `use` takes a class or a function")
    defining_module = str(getattr(obj, "__module__", None))
    if not _is_inside(defining_module, allowed_packages):
        raise LimbeckError(
            f"{config_path}: {use} is at home in {defining_module}, which is not listed: name it there, "
            f"and list its package under `plugins:`"
        )
    target: Callable[..., Any] = obj
    return target


def _import_plugin_module(module: str, use: str, config_path: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and _is_inside(module, [error.name]):
            raise LimbeckError(
                f"{config_path}: there is no module {error.name!r} for {use}: install the package, or put its folder on "
                "PYTHONPATH"
            ) from error
        raise LimbeckError(f"{config_path}: {module} needs {error.name!r}, which is not installed") from error
    except (Exception, SystemExit) as error:
        line = next(iter(str(error).splitlines()), "")
        raise LimbeckError(f"{config_path}: {module} failed when imported ({type(error).__name__}: {line})") from error


def _is_inside(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _has_dunder(dotted_name: str) -> bool:
    return any(segment.startswith("__") for segment in dotted_name.split("."))
