"""Classes and functions of packages outside limbeck, ``package.module:Name``.

The package must be listed under ``plugins:``, since importing it runs its code; the standard library cannot be listed.
What a package only imports from elsewhere is not looked up in it, so no recipe reaches ``os.system``. Neither does a
recipe reach a function of a listed package that builds nothing, such as ``sympy:sympify`` or ``torch:load``: a class
must have the asked type, and a function must be annotated to return it.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Any, Final, Protocol, Union, get_args, get_origin

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.recipe.type_hints import get_hints

__all__ = ["plugin_error", "resolve_plugin"]

_MODULE_PATTERN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_CALLABLE: Final[Any] = Callable
_TARGET_PATTERN: Final = re.compile(_MODULE_PATTERN.pattern + r":[A-Za-z_][A-Za-z0-9_]*")


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


def resolve_plugin(
    use: str,
    expected_types: Sequence[Any],
    *,
    plugins: Sequence[str],
    config_path: str,
    function_args: Sequence[tuple[str, ...]] = (),
) -> Callable[..., Any]:
    """The class or function that ``use`` names.

    Args:
        use: ``package.module:Name``.
        expected_types: classes and protocols, of which it must build one.
        plugins: packages that may be imported.
        config_path: dotted path of the node, for errors.
        function_args: first arguments of functions that are such objects themselves, and return a tensor.

    Raises:
        LimbeckError: the package is not listed or fails when imported, or the object builds none of ``expected_types``.
    """
    module, _, name = use.partition(":")
    if module.endswith(".py"):
        dotted_name = ".".join(part for part in Path(module).with_suffix("").parts if part.isidentifier())
        raise LimbeckError(
            f"{config_path}: {use} must name a module, got the file {module}: write {dotted_name}:{name}, with its "
            "folder on PYTHONPATH"
        )
    if not _TARGET_PATTERN.fullmatch(use) or _has_dunder(module) or name.startswith("__"):
        raise LimbeckError(f"{config_path}: {use!r} is not a path of the form package.module:Name")
    allowed_packages = [plugin for plugin in plugins if plugin_error(plugin) is None]
    if not _is_inside(module, allowed_packages):
        top = module.partition(".")[0]
        raise LimbeckError(
            f"{config_path}: {use} is not part of limbeck, and its package is not listed: "
            + (plugin_error(module) or f"if you trust it, add `plugins: [{', '.join([*plugins, top])}]` to the recipe")
        )
    imported_module = _import_module(module, use, config_path)
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
    if not _is_function_of(obj, function_args):
        _require_type(obj, expected_types, use, config_path)
    target: Callable[..., Any] = obj
    return target


def _is_function_of(obj: Any, function_args: Sequence[tuple[str, ...]]) -> bool:
    """Whether ``obj`` is a function with one of these first arguments that is annotated to return a tensor."""
    if not function_args or not inspect.isfunction(obj):
        return False
    from torch import Tensor

    names = tuple(inspect.signature(obj).parameters)
    return get_hints(obj).get("return") is Tensor and any(names[: len(args)] == args for args in function_args)


def _require_type(obj: Any, expected_types: Sequence[Any], use: str, config_path: str) -> None:
    names = " or ".join(dict.fromkeys(_format_type(expected) for expected in expected_types))
    if inspect.isclass(obj):
        if not any(_is_subtype(obj, expected) for expected in expected_types):
            raise LimbeckError(
                f"{config_path}: {use} must be a class of type {names}, got one that does not inherit from it and has "
                "no annotated method of it"
            )
        return
    returned = get_hints(obj).get("return")
    if returned is None:
        raise LimbeckError(
            f"{config_path}: {use} must be annotated with the type that it returns ({names}), got none; write "
            f"`-> {_format_type(expected_types[0])}`"
        )
    if not all(any(_is_subtype(member, expected) for expected in expected_types) for member in _members(returned)):
        raise LimbeckError(
            f"{config_path}: {use} must be annotated to return {names}, got {_format_type(returned)}; name a function "
            "that builds one"
        )


def _members(hint: Any) -> list[Any]:
    """The types of a union, else the type."""
    if get_origin(hint) is Annotated:
        return _members(get_args(hint)[0])
    return [m for arg in get_args(hint) for m in _members(arg)] if get_origin(hint) in (Union, UnionType) else [hint]


def _is_subtype(hint: Any, expected: Any) -> bool:
    """Whether ``hint`` is a subclass of ``expected``, or has the methods of a protocol, annotated with its types."""
    actual = get_origin(hint) or hint
    if actual is expected:
        return True
    if not (inspect.isclass(actual) and inspect.isclass(expected)):
        return False
    if expected in actual.__mro__:
        return True
    if expected is _CALLABLE:  # a class of callables that says what they return
        function = getattr(actual, "__call__", None)  # noqa: B004  # of the class, not of its metaclass
        return inspect.isfunction(function) and "return" in get_hints(function)
    return bool(getattr(expected, "_is_protocol", False)) and _has_methods(actual, expected)


def _has_methods(actual: type, protocol: type) -> bool:
    """Whether ``actual`` has every method of ``protocol``, one of them annotated with one of the protocol's types."""
    names = [
        name
        for base in protocol.__mro__
        if base is not Protocol and getattr(base, "_is_protocol", False)
        for name, value in vars(base).items()
        if inspect.isfunction(value) and (not name.startswith("_") or name == "__call__")
    ]
    functions = {name: getattr(actual, name, None) for name in names}
    if not names or not all(inspect.isfunction(function) for function in functions.values()):
        return False
    return any(_share_types(function, getattr(protocol, name)) for name, function in functions.items())


def _share_types(first: Any, second: Any) -> bool:
    """Whether the annotations of two functions have a type in common; ``None`` and ``Any`` are none."""
    types = [{repr(hint) for hint in get_hints(function).values()} for function in (first, second)]
    return bool(types[0] & types[1] - {repr(type(None)), repr(Any)})


def _format_type(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint)).replace("torch.nn.modules.module.", "nn.")


def _import_module(module: str, use: str, config_path: str) -> ModuleType:
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
