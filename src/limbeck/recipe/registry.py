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

from limbeck.core.errors import LimbeckError, nearest

__all__ = ["KINDS", "Kind", "find", "names", "refuse_plugin"]

_MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_PATH: Final = re.compile(_MODULE.pattern + r":[A-Za-z_][A-Za-z0-9_]*")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of thing that a recipe names.

    Attributes:
        noun: what one of them is called in an error.
        module: the room whose ``__all__`` holds the names.
        wanted: which of those names are of this kind.
        passed: first parameters, which are handed over when it is built and are no settings.
        filled: parameters that limbeck fills in where the recipe left them out, and by what.
    """

    noun: str
    module: str
    wanted: Callable[[Any], bool]
    passed: tuple[str, ...] = ()
    filled: Mapping[str, str] = field(default_factory=dict)


def _same(*names: str) -> Mapping[str, str]:
    return MappingProxyType({name: name for name in names})


def _builder(thing: Any) -> bool:
    # Beside the builders stand those who read and write weights; a builder is told how many classes there are.
    return inspect.isfunction(thing) and "classes" in inspect.signature(thing).parameters


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "task": Kind(noun="task", module="limbeck.tasks", wanted=inspect.isclass, filled=_same("classes")),
        "data": Kind(
            noun="data source",
            module="limbeck.data",
            wanted=lambda thing: inspect.isclass(thing) and hasattr(thing, "load"),
            filled=_same("seed"),
        ),
        "views": Kind(noun="kind of views", module="limbeck.data.augmentation", wanted=callable),
        "transform": Kind(noun="transform", module="limbeck.data.transforms", wanted=inspect.isfunction),
        "model": Kind(
            noun="model", module="limbeck.models", wanted=_builder, filled=_same("classes", "channels", "seed")
        ),
        "teacher": Kind(
            noun="teacher", module="limbeck.teachers.external", wanted=inspect.isfunction, filled=_same("classes")
        ),
        "self_teacher": Kind(
            noun="teacher made of the student",
            module="limbeck.teachers.self_teachers",
            wanted=inspect.isclass,
            filled=_same("classes"),
        ),
        "combination": Kind(
            noun="combination of teachers",
            module="limbeck.teachers.combinations",
            wanted=lambda thing: inspect.isclass(thing) and thing.__name__ != "Combination",
            filled=_same("seed"),
        ),
        "term": Kind(
            noun="term", module="limbeck.losses", wanted=inspect.isclass, filled=_same("classes", "seed", "tau")
        ),
        "schedule": Kind(
            noun="schedule",
            module="limbeck.schedule",
            wanted=lambda thing: inspect.isfunction(thing) and thing.__name__ != "at",
        ),
        "temperature": Kind(
            noun="temperature",
            module="limbeck.temperature",
            wanted=lambda thing: (
                inspect.isclass(thing) and hasattr(thing, "bounds") and thing.__name__ != "Temperature"
            ),
        ),
        "balance": Kind(
            noun="balance of weights",
            module="limbeck.losses.weighting.loss_weighting",
            wanted=lambda thing: hasattr(thing, "bind"),
        ),
        "optimizer": Kind(
            noun="optimizer",
            module="torch.optim",
            wanted=lambda thing: inspect.isclass(thing) and thing.__name__ != "Optimizer",
            passed=("params",),
        ),
        "scheduler": Kind(
            noun="scheduler",
            module="torch.optim.lr_scheduler",
            wanted=lambda thing: inspect.isclass(thing) and thing.__name__ != "LRScheduler",
            passed=("optimizer",),
            filled=MappingProxyType({"T_max": "steps", "total_steps": "steps"}),
        ),
    }
)


def names(kind: str) -> list[str]:
    """Every name of ``kind``, sorted; this imports its room.

    >>> names("schedule")
    ['cosine', 'linear', 'overall', 'steps', 'switch', 'warmup']
    """
    room = import_module(KINDS[kind].module)
    public = [name for name in getattr(room, "__all__", ()) if not name.startswith("_")]
    return sorted(name for name in public if KINDS[kind].wanted(getattr(room, name)))


def find(
    use: str, kinds: Iterable[str], *, plugins: Iterable[str] = (), place: str = "recipe"
) -> tuple[str, Callable[..., Any]]:
    """What ``use`` names, and of which of ``kinds`` it is; the first kind that has the name wins.

    Raises ``LimbeckError``: for a name nobody has, and for a package that is not listed under ``plugins``.

    >>> find("linear", ["schedule"])[1](1.0, 0.0)
    Linear(start=1.0, end=0.0)
    """
    order = list(kinds)
    if ":" in use:
        return order[0], _plugged(use, tuple(plugins), place)
    allowed: list[str] = []
    for kind in order:
        here = names(kind)
        if use in here:
            found: Callable[..., Any] = getattr(import_module(KINDS[kind].module), use)
            return kind, found
        allowed += here
    what = " or ".join(KINDS[kind].noun for kind in order) if len(order) < 3 else "part"
    raise LimbeckError(
        f"{place}: no {what} is named {use!r}; there are: {nearest(use, allowed)} "
        "(a class of your own is written package.module:Name)"
    )


def refuse_plugin(name: str) -> str | None:
    """Why ``name`` cannot be listed under ``plugins``; ``None`` where it can.

    >>> refuse_plugin("mypackage.losses")
    >>> refuse_plugin("os")
    "'os' is part of Python itself, which no recipe may name: list a package of your own"
    """
    if not _MODULE.fullmatch(name) or _hidden(name):
        return f"{name!r} is not the name of a package, such as mypackage or mypackage.losses"
    if name.partition(".")[0] in sys.stdlib_module_names:
        return f"{name!r} is part of Python itself, which no recipe may name: list a package of your own"
    return None


def _plugged(use: str, plugins: tuple[str, ...], place: str) -> Callable[..., Any]:
    module, _, name = use.partition(":")
    if not _PATH.fullmatch(use) or _hidden(module) or name.startswith("__"):
        raise LimbeckError(f"{place}: {use!r} is not a path of the form package.module:Name")
    listed = [plugin for plugin in plugins if refuse_plugin(plugin) is None]
    if not _within(module, listed):
        top = module.partition(".")[0]
        raise LimbeckError(
            f"{place}: {use} is not limbeck's, and its package is not listed: "
            + (refuse_plugin(module) or f"if you trust it, add `plugins: [{', '.join([*plugins, top])}]` to the recipe")
        )
    room = _imported(module, use, place)
    public = [each for each in dir(room) if not each.startswith("_")]
    thing = getattr(room, name, None)
    if thing is None:
        raise LimbeckError(f"{place}: {module} has no {name!r}; there are: {nearest(name, public)}")
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        raise LimbeckError(f"{place}: {use} is a {type(thing).__name__}, and `use` takes a class or a function")
    home = str(getattr(thing, "__module__", None))
    if not _within(home, listed):
        raise LimbeckError(
            f"{place}: {use} is at home in {home}, which is not listed: name it there, "
            f"and list its package under `plugins:`"
        )
    found: Callable[..., Any] = thing
    return found


def _imported(module: str, use: str, place: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and _within(module, [error.name]):
            raise LimbeckError(
                f"{place}: there is no module {error.name!r} for {use}: install the package, or put its folder on "
                "PYTHONPATH"
            ) from error
        raise LimbeckError(f"{place}: {module} needs {error.name!r}, which is not installed") from error
    except (Exception, SystemExit) as error:
        line = next(iter(str(error).splitlines()), "")
        raise LimbeckError(f"{place}: {module} failed when imported ({type(error).__name__}: {line})") from error


def _within(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _hidden(path: str) -> bool:
    return any(part.startswith("__") for part in path.split("."))
