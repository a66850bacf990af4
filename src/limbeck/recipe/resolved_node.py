"""A node of a recipe that was found good: it knows what to call, and with which settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, final

from limbeck.core.errors import LimbeckError

__all__ = ["GIVEN", "LATER", "Checked", "Later"]

GIVEN: Final = frozenset({"channels", "classes", "seed", "steps"})
"""What limbeck may know beside the recipe: from the data, the recipe's head, and the length of training."""


class Later(Enum):
    """Stands for a value that will be known only when the node is built."""

    LATER = "later"


LATER: Final = Later.LATER


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What :func:`limbeck.recipe.resolve_node.check` gives.

    Attributes:
        place: where it stands in the recipe, dotted.
        use: its name, as the recipe has it.
        kind: which of the kinds it is.
        target: the class or function that builds it.
        settings: what it is called with: values of the recipe and of ``given``; a nested node is ``Checked`` too.
        later: parameters that wait for a value that limbeck fills in, and by what name.
        resolved: the node as plain data with every setting that has a plain form, defaults too.
    """

    place: str
    use: str
    kind: str
    target: Callable[..., Any]
    settings: Mapping[str, Any]
    later: Mapping[str, str]
    resolved: Mapping[str, Any]

    def build(self, *args: Any, **more: Any) -> Any:
        """The live object: ``target(*args, **settings, **more)``, nested nodes first.

        What limbeck fills in (``classes``, ``channels``, ``seed``, ``steps``) may be given to any node: it
        reaches those that wait for it, and never replaces what the recipe says. Raises ``LimbeckError`` with the place
        for whatever the constructor does not like.
        """
        known = {name: value for name, value in more.items() if name in GIVEN}
        settings = {name: _live(value, known) for name, value in self.settings.items()}
        for name, source in self.later.items():
            if source not in known and name not in more:
                raise LimbeckError(f"{self.place}: {name!r} of {self.use} is not known yet: set it in the recipe")
            settings[name] = known.get(source, more.get(name))
        settings |= {name: value for name, value in more.items() if name not in GIVEN}
        try:
            return self.target(*args, **settings)
        except (LimbeckError, ValueError, TypeError, RuntimeError) as error:
            text = str(error) if isinstance(error, LimbeckError) else next(iter(str(error).splitlines()), "")
            raise LimbeckError(f"{self.place}: {self.use}: {text or type(error).__name__}") from error


def _live(value: Any, known: Mapping[str, Any]) -> Any:
    if isinstance(value, Checked):
        return value.build(**known)
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(_live(item, known) for item in value)
    if isinstance(value, dict):
        return {key: _live(item, known) for key, item in value.items()}
    return value
