"""A node of a recipe that was checked and can be built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from limbeck.core.errors import LimbeckError

__all__ = ["DEFAULT_FACTS", "DEFERRED", "PROVIDED", "ResolvedNode"]

PROVIDED: Final = frozenset({"seed", "steps"})
"""Values that limbeck fills in, beside the facts of the data: the seed of the recipe, and the length of training."""
DEFAULT_FACTS: Final = ("classes", "channels", "class_names")
"""The facts of a data source that declares no others in ``provides``; they reach parameters of the same name."""
DEFERRED: Final = object()
"""Stands for a value that is known only when the node is built."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedNode:
    """The result of :func:`limbeck.recipe.resolve_node.resolve_node`.

    Attributes:
        config_path: dotted path in the recipe.
        use: its name in the recipe.
        kind: its kind, see :data:`limbeck.recipe.registry.NODE_KINDS`.
        target: the class or function that builds it.
        settings: keyword arguments of ``target``; a nested node is a ``ResolvedNode`` too.
        deferred: parameters that limbeck fills in when it is built, with the name of their value.
        config: the node as plain data with every setting that has a plain form, defaults included.
    """

    config_path: str
    use: str
    kind: str
    target: Callable[..., Any]
    settings: Mapping[str, Any]
    deferred: Mapping[str, str]
    config: Mapping[str, Any]

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """``target(*args, **settings)``, nested nodes first.

        ``kwargs`` are the values that are known now: the facts of the data (``classes``, ``channels``, …), ``seed`` and
        ``steps``. They may be passed to any node: they reach the deferred parameters, and do not override the recipe.

        Raises:
            LimbeckError: with the path of the node, for any error of the constructor.
        """
        settings = {name: _build_nested(value, kwargs) for name, value in self.settings.items()}
        for name, source in self.deferred.items():
            if source not in kwargs:
                raise LimbeckError(f"{self.config_path}: {name!r} of {self.use} is not known yet: set it in the recipe")
            settings[name] = kwargs[source]
        try:
            return self.target(*args, **settings)
        except MemoryError:
            raise
        except Exception as error:  # a constructor may raise anything
            text = str(error) if isinstance(error, LimbeckError) else next(iter(str(error).splitlines()), "")
            if not isinstance(error, LimbeckError | ValueError | TypeError | RuntimeError) or not text:
                text = f"{type(error).__name__}: {text}".removesuffix(": ")
            raise LimbeckError(f"{self.config_path}: {self.use}: {text}") from error


def _build_nested(value: Any, provided: Mapping[str, Any]) -> Any:
    if isinstance(value, ResolvedNode):
        return value.build(**provided)
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_build_nested(item, provided) for item in value)
    if isinstance(value, dict):
        return {key: _build_nested(item, provided) for key, item in value.items()}
    return value
