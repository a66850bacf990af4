"""The names that ``use:`` takes, by kind, and the modules that they come from; modules are imported on first use.

A name is a public class or function of limbeck, or one of torch's optimizers and schedulers. Anything else is
``package.module:Name``, see :mod:`limbeck.recipe.plugins`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, final

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.recipe.plugins import resolve_plugin
from limbeck.recipe.type_hints import get_hints

__all__ = ["NODE_KINDS", "NodeKind", "kinds_by_type", "list_names", "resolve_target"]

_MODULE: Final = "torch.nn:Module"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKind:
    """One kind of node.

    Attributes:
        display_name: name of the kind in an error.
        module: the module whose ``__all__`` holds the names.
        is_member: selects the objects of this kind.
        builds: the types of what a node of this kind builds, as ``module:Name``; a plugin must build one of them.
        exclude: names of ``module`` that are of another kind, such as base classes.
        parameter_type: the type in ``module`` of parameters that take a node of this kind.
        positional_args: leading parameters that are passed to ``build()`` and are not settings.
        injected_args: parameters that limbeck fills in, with the name of their value.
        function_args: first arguments of functions of plugins that are nodes of this kind themselves.
        takes_facts: whether parameters with the name of a fact of the data (``classes``, ``mels``) are filled in.
    """

    display_name: str
    module: str
    is_member: Callable[[Any], bool]
    builds: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    parameter_type: str | None = None
    positional_args: tuple[str, ...] = ()
    injected_args: Mapping[str, str] = field(default_factory=dict)
    function_args: tuple[tuple[str, ...], ...] = ()
    takes_facts: bool = False


def _is_model_builder(obj: Any) -> bool:
    """A public function of the package that returns a new network: its annotation is an ``nn.Module``."""
    from torch import nn

    if not inspect.isfunction(obj) or "classes" not in inspect.signature(obj).parameters:
        return inspect.isfunction(obj) and _returns_subclass(obj, nn.Module)
    return True


def _is_never_builtin(obj: Any) -> bool:
    """Of a kind whose classes are all of users."""
    return False


def _returns_subclass(function: Callable[..., Any], kind: type) -> bool:
    returned = get_hints(function).get("return")
    return inspect.isclass(returned) and issubclass(returned, kind)


def _kind(
    display_name: str, module: str, is_member: Callable[[Any], bool], builds: str | tuple[str, ...],
    *injected_args: str, **options: Any,
) -> NodeKind:  # fmt: skip
    injected = MappingProxyType({name: name for name in injected_args})
    return NodeKind(
        display_name=display_name, module=module, is_member=is_member,
        builds=(builds,) if isinstance(builds, str) else builds, **{"injected_args": injected, **options},
    )  # fmt: skip


NODE_KINDS: Final[Mapping[str, NodeKind]] = MappingProxyType(
    {
        "task": _kind(
            "task", "limbeck.tasks", inspect.isclass, "limbeck.core.task:Task", "classes", takes_facts=True
        ),
        "data": _kind(
            "data source", "limbeck.data.sources", inspect.isclass, "limbeck.data.module:DataSource", "seed"
        ),
        "augmentation": _kind(
            "augmentation", "limbeck.data.augmentation", callable, "limbeck.data.augmentation:Augmentation",
            parameter_type="Augmentation",
        ),
        "transform": _kind(
            "transform", "limbeck.data.transforms", inspect.isfunction,
            tuple(f"limbeck.data.transforms.transform:{n}" for n in ("Transform", "MixTransform", "SequenceTransform")),
            parameter_type="Transform",
        ),
        "model": _kind(
            "model", "limbeck.models", _is_model_builder, _MODULE, "classes", "channels", "seed", takes_facts=True,
            exclude=("create_model", "load_weights"),
        ),
        "teacher": _kind(
            "teacher", "limbeck.teachers.external", inspect.isfunction, (_MODULE, "collections.abc:Callable"),
            "classes", takes_facts=True,
        ),
        "self_teacher": _kind(
            "teacher made of the student", "limbeck.teachers.self_teachers", inspect.isclass,
            "limbeck.core.protocols:Teacher", "classes",
        ),
        "ensemble": _kind(
            "ensemble of teachers", "limbeck.teachers.ensemble", inspect.isclass,
            "limbeck.teachers.ensemble:EnsembleMethod", "seed", exclude=("EnsembleMethod",),
        ),
        "loss": _kind(
            "loss", "limbeck.losses", inspect.isclass, ("limbeck.core.protocols:Loss", _MODULE),
            "classes", "seed", "temperature", takes_facts=True, function_args=(("student", "teacher"), ("context",)),
            exclude=("LinearLogits", "TopKLogits"),
        ),
        "schedule": _kind(
            "schedule", "limbeck.core.schedules", inspect.isclass, "limbeck.core.schedules:Schedule",
            exclude=("Schedule",), parameter_type="Schedule",
        ),
        "temperature": _kind(
            "temperature", "limbeck.losses.temperature", inspect.isclass, "limbeck.losses.temperature:Temperature",
            exclude=("Range", "ScaledLogits", "Temperature", "TemperatureRecord"), parameter_type="Temperature",
        ),
        "loss_weighting": _kind(
            "loss weighting", "limbeck.losses.weighting", inspect.isclass, "limbeck.losses.weighting:LossWeighting",
            exclude=("LossWeighting",),
        ),
        "logger": _kind(
            "logger", "limbeck.training.callbacks", _is_never_builtin,
            ("lightning_fabric.loggers:Logger", "limbeck.training.callbacks:MetricsLogger"),
        ),
        "callback": _kind(
            "callback", "limbeck.training.callbacks", _is_never_builtin, "limbeck.training.callbacks:Callback"
        ),
        "optimizer": _kind(
            "optimizer", "torch.optim", inspect.isclass, "torch.optim:Optimizer", exclude=("Optimizer",),
            positional_args=("params",),
        ),
        "scheduler": _kind(
            "scheduler", "torch.optim.lr_scheduler", inspect.isclass, "torch.optim.lr_scheduler:LRScheduler",
            exclude=("LRScheduler",), positional_args=("optimizer",),
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
    return list(_sorted_names(kind))


@cache  # a study resolves a recipe for each of its variants
def _sorted_names(kind: str) -> tuple[str, ...]:
    info = NODE_KINDS[kind]
    module = import_module(info.module)
    members = (
        name
        for name in getattr(module, "__all__", ())
        if not name.startswith("_") and name not in info.exclude and info.is_member(getattr(module, name))
    )
    return tuple(sorted(members))


def resolve_target(
    use: str,
    kinds: Iterable[str],
    *,
    plugins: Iterable[str] = (),
    config_path: str = "recipe",
    expected_types: Sequence[Any] = (),
) -> tuple[str, Callable[..., Any]]:
    """The object that ``use`` names, and its kind: the first of ``kinds`` that has the name.

    Args:
        use: a name of limbeck, or ``package.module:Name``.
        kinds: kinds to look in, in order.
        plugins: packages that ``use`` may import.
        config_path: dotted path of the node, for errors.
        expected_types: what a plugin must build; empty: what a node of one of ``kinds`` builds.

    Raises:
        LimbeckError: for an unknown name, a package that is not listed under ``plugins``, and a class or function of
            one that builds something else.

    >>> resolve_target("linear", ["schedule"])[1](1.0, 0.0)
    linear(start=1.0, end=0.0)
    """
    order = list(kinds)
    if ":" in use:
        types = expected_types or [_import_type(path) for kind in order for path in NODE_KINDS[kind].builds]
        function_args = () if expected_types else NODE_KINDS[order[0]].function_args
        return order[0], resolve_plugin(
            use, types, plugins=tuple(plugins), config_path=config_path, function_args=function_args
        )
    allowed: list[str] = []
    for kind in order:
        if use in (names := list_names(kind)):
            return kind, getattr(import_module(NODE_KINDS[kind].module), use)
        allowed += names
    display_name = " or ".join(NODE_KINDS[kind].display_name for kind in order) if len(order) < 3 else "part"
    libraries = "timm:NAME, torchvision:NAME or hf:FOLDER, and " if "model" in order else ""
    raise LimbeckError(
        f"{config_path}: no {display_name} is named {use!r}; available: {suggest_names(use, allowed)} "
        f"(write {libraries}a class of your own as {_plugin_name(use)})"
    )


def _plugin_name(use: str) -> str:
    """How ``use``, which may be the dotted name of a class, is written in a recipe.

    >>> _plugin_name("my_networks.Student")
    'my_networks:Student'
    """
    module, dot, name = use.rpartition(".")
    return f"{module}:{name}" if dot and name.isidentifier() and module else "package.module:Name"


def _import_type(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
