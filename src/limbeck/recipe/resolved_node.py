"""A node of a recipe that was found good: it knows what to call, and with which settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, final

from limbeck.core.errors import LimbeckError

__all__ = ["DEFERRED", "PROVIDED", "Deferred", "ResolvedNode"]

PROVIDED: Final = frozenset({"channels", "classes", "seed", "steps"})
"""What limbeck may know beside the recipe: from the data, the recipe's head, and the length of training."""


class Deferred(Enum):
    """Stands for a value that will be known only when the node is built."""

    DEFERRED = "later"


DEFERRED: Final = Deferred.DEFERRED


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedNode:
    """What :func:`limbeck.recipe.resolve_node.resolve_node` gives.

    Attributes:
        config_path: where it stands in the recipe, dotted.
        use: its name, as the recipe has it.
        kind: which of the kinds it is.
        target: the class or function that builds it.
        settings: what it is called with: values of the recipe and of ``provided``; a nested node is a ``ResolvedNode`` too.
        deferred: parameters that wait for a value that limbeck fills in, and by what name.
        config: the node as plain data with every setting that has a plain form, defaults too.
    """

    config_path: str
    use: str
    kind: str
    target: Callable[..., Any]
    settings: Mapping[str, Any]
    deferred: Mapping[str, str]
    config: Mapping[str, Any]

    def build(self, *args: Any, **kwargs: Any) -> Any:
        """The live object: ``target(*args, **settings, **kwargs)``, nested nodes first.

        What limbeck fills in (``classes``, ``channels``, ``seed``, ``steps``) may be given to any node: it
        reaches those that wait for it, and never replaces what the recipe says. Raises ``LimbeckError`` with the place
        for whatever the constructor does not like.
        """
        provided = {name: value for name, value in kwargs.items() if name in PROVIDED}
        settings = {name: _build_nested(value, provided) for name, value in self.settings.items()}
        for name, source in self.deferred.items():
            if source not in provided and name not in kwargs:
                raise LimbeckError(f"{self.config_path}: {name!r} of {self.use} is not known yet: set it in the recipe")
            settings[name] = provided.get(source, kwargs.get(name))
        settings |= {name: value for name, value in kwargs.items() if name not in PROVIDED}
        try:
            return self.target(*args, **settings)
        except (LimbeckError, ValueError, TypeError, RuntimeError) as error:
            text = str(error) if isinstance(error, LimbeckError) else next(iter(str(error).splitlines()), "")
            raise LimbeckError(f"{self.config_path}: {self.use}: {text or type(error).__name__}") from error


def _build_nested(value: Any, provided: Mapping[str, Any]) -> Any:
    if isinstance(value, ResolvedNode):
        return value.build(**provided)
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_build_nested(item, provided) for item in value)
    if isinstance(value, dict):
        return {key: _build_nested(item, provided) for key, item in value.items()}
    return value
