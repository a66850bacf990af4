"""The names that ``use:`` takes, by kind, and the modules that they come from; modules are imported on first use.

A name is a public class or function of limbeck, or one of torch's optimizers and schedulers. Anything else is
``package.module:Name``, whose package must be listed under the recipe's ``plugins:``, since importing a package runs
its code. The standard library cannot be listed, and what a package only imports from elsewhere is not looked up in it,
so no recipe reaches ``os.system``.
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
from limbeck.recipe.type_hints import get_hints

__all__ = ["NODE_KINDS", "NodeKind", "kinds_by_type", "list_names", "plugin_error", "resolve_target"]

_MODULE_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_TARGET_PATTERN: Final = re.compile(_MODULE_PATTERN.pattern + r":[A-Za-z_][A-Za-z0-9_]*")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """One kind of node.

    Attributes:
        display_name: name of the kind in an error.
        module: the module whose ``__all__`` holds the names.
        is_member: selects the objects of this kind.
        exclude: names of ``module`` that are of another kind, such as base classes.
        parameter_type: the type in ``module`` of parameters that take a node of this kind.
        positional_args: leading parameters that are passed to ``build()`` and are not settings.
        injected_args: parameters that limbeck fills in, with the name of their value.
        takes_facts: whether parameters with the name of a fact of the data (``classes``, ``mels``) are filled in.
    """

    display_name: str
    module: str
    is_member: Callable[[Any], bool]
    exclude: tuple[str, ...] = ()
    parameter_type: str | None = None
    positional_args: tuple[str, ...] = ()
    injected_args: Mapping[str, str] = field(default_factory=dict)
    takes_facts: bool = False


def _is_model_builder(obj: Any) -> bool:
    """A public function of the package that returns a new network: its annotation is an ``nn.Module``."""
    from torch import nn

    if not inspect.isfunction(obj) or "classes" not in inspect.signature(obj).parameters:
        return inspect.isfunction(obj) and _returns_subclass(obj, nn.Module)
    return True


def _returns_subclass(function: Callable[..., Any], kind: type) -> bool:
    returned = get_hints(function).get("return")
    return inspect.isclass(returned) and issubclass(returned, kind)


def _kind(
    display_name: str, module: str, is_member: Callable[[Any], bool], *injected_args: str, **options: Any
) -> NodeKind:
    injected = MappingProxyType({name: name for name in injected_args})
    return NodeKind(
        display_name=display_name, module=module, is_member=is_member, **{"injected_args": injected, **options}
    )


NODE_KINDS: Final[Mapping[str, NodeKind]] = MappingProxyType(
    {
        "task": _kind("task", "limbeck.tasks", inspect.isclass, "classes", takes_facts=True),
        "data": _kind("data source", "limbeck.data.sources", inspect.isclass, "seed"),
        "augmentation": _kind(
            "augmentation", "limbeck.data.augmentation", callable, parameter_type="Augmentation"
        ),
        "transform": _kind("transform", "limbeck.data.transforms", inspect.isfunction, parameter_type="Transform"),
        "model": _kind(
            "model", "limbeck.models", _is_model_builder, "classes", "channels", "seed", takes_facts=True,
            exclude=("load_weights",),
        ),
        "teacher": _kind(
            "teacher", "limbeck.teachers.external", inspect.isfunction, "classes", takes_facts=True
        ),
        "self_teacher": _kind(
            "teacher made of the student", "limbeck.teachers.self_teachers", inspect.isclass, "classes"
        ),
        "ensemble": _kind(
            "ensemble of teachers", "limbeck.teachers.ensemble", inspect.isclass, "seed",
            exclude=("EnsembleMethod",),
        ),
        "loss": _kind(
            "loss", "limbeck.losses", inspect.isclass, "classes", "seed", "temperature", takes_facts=True
        ),
        "schedule": _kind(
            "schedule", "limbeck.core.schedules", inspect.isclass, exclude=("Schedule",), parameter_type="Schedule"
        ),
        "temperature": _kind(
            "temperature", "limbeck.losses.temperature", inspect.isclass,
            exclude=("Range", "ScaledLogits", "Temperature", "TemperatureRecord"), parameter_type="Temperature",
        ),
        "loss_weighting": _kind(
            "loss weighting", "limbeck.losses.weighting", inspect.isclass, exclude=("LossWeighting",)
        ),
        "optimizer": _kind(
            "optimizer", "torch.optim", inspect.isclass, exclude=("Optimizer",), positional_args=("params",)
        ),
        "scheduler": _kind(
            "scheduler", "torch.optim.lr_scheduler", inspect.isclass, exclude=("LRScheduler",),
            positional_args=("optimizer",),
            injected_args=MappingProxyType({"T_max": "steps", "total_steps": "steps"}),
        ),
    }
)  # fmt: skip


def kinds_by_type() -> dict[Any, str]:
    """The kind of node that a parameter of each of these types takes."""
    return {
        getattr(import_module(kind.module), kind.parameter_type): name
        for name, kind in NODE_KINDS.items()
        if kind.parameter_type is not None
    }


def list_names(kind: str) -> list[str]:
    """Every name of ``kind``, sorted; imports its module.

    >>> list_names("schedule")
    ['across_stages', 'cosine', 'linear', 'multistep', 'step_change', 'warmup']
    """
    info = NODE_KINDS[kind]
    module = import_module(info.module)
    return sorted(
        name
        for name in getattr(module, "__all__", ())
        if not name.startswith("_") and name not in info.exclude and info.is_member(getattr(module, name))
    )


def resolve_target(
    use: str, kinds: Iterable[str], *, plugins: Iterable[str] = (), config_path: str = "recipe"
) -> tuple[str, Callable[..., Any]]:
    """The object that ``use`` names, and its kind: the first of ``kinds`` that has the name.

    Raises:
        LimbeckError: for an unknown name, and for a package that is not listed under ``plugins``.

    >>> resolve_target("linear", ["schedule"])[1](1.0, 0.0)
    linear(start=1.0, end=0.0)
    """
    order = list(kinds)
    if ":" in use:
        return order[0], _resolve_plugin(use, tuple(plugins), config_path)
    allowed: list[str] = []
    for kind in order:
        if use in (names := list_names(kind)):
            return kind, getattr(import_module(NODE_KINDS[kind].module), use)
        allowed += names
    display_name = " or ".join(NODE_KINDS[kind].display_name for kind in order) if len(order) < 3 else "part"
    raise LimbeckError(
        f"{config_path}: no {display_name} is named {use!r}; available: {suggest_names(use, allowed)} "
        "(write a class of your own as package.module:Name)"
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
            f"{config_path}: {use} is not part of limbeck, and its package is not listed: "
            + (plugin_error(module) or f"if you trust it, add `plugins: [{', '.join([*plugins, top])}]` to the recipe")
        )
    imported_module = _import_plugin_module(module, use, config_path)
    public_names = [attribute for attribute in dir(imported_module) if not attribute.startswith("_")]
    obj = getattr(imported_module, name, None)
    if obj is None:
        raise LimbeckError(f"{config_path}: {module} has no {name!r}; available: {suggest_names(name, public_names)}")
    if not (inspect.isclass(obj) or inspect.isroutine(obj)):
        raise LimbeckError(f"{config_path}: {use} is a {type(obj).__name__}, and `use` takes a class or a function")
    defining_module = str(getattr(obj, "__module__", None))
    if not _is_inside(defining_module, allowed_packages):
        raise LimbeckError(
            f"{config_path}: {use} is defined in {defining_module}, which is not listed: name it there, and list its "
            "package under `plugins:`"
        )
    target: Callable[..., Any] = obj
    return target


def _import_plugin_module(module: str, use: str, config_path: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and _is_inside(module, [error.name]):
            raise LimbeckError(
                f"{config_path}: there is no module {error.name!r} for {use}: install the package, or put its folder "
                "on PYTHONPATH"
            ) from error
        raise LimbeckError(f"{config_path}: {module} needs {error.name!r}, which is not installed") from error
    except (Exception, SystemExit) as error:
        line = next(iter(str(error).splitlines()), "")
        raise LimbeckError(f"{config_path}: {module} failed when imported ({type(error).__name__}: {line})") from error


def _is_inside(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _has_dunder(dotted_name: str) -> bool:
    return any(segment.startswith("__") for segment in dotted_name.split("."))
