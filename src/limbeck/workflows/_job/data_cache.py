"""Data that several jobs of one process share."""

from __future__ import annotations

from typing import Any, Final, final

from limbeck.recipe import ResolvedRecipe

__all__ = ["DataCache"]


@final
class DataCache:
    """What jobs of one process have loaded, so that those with the same data and seed read it once; the newest few."""

    _MAX_ENTRIES: Final = 2

    def __init__(self) -> None:
        self._entries: dict[str, Any] = {}

    def load(self, plan: ResolvedRecipe) -> Any:
        """The data of ``plan``."""
        recipe = plan.recipe
        seed = recipe.seed if recipe.split_seed is None else recipe.split_seed
        key = f"{plan.data} {seed}"
        self._entries[key] = data = (
            self._entries.pop(key) if key in self._entries else plan.data.build().load(seed=seed)
        )
        while len(self._entries) > self._MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        return data
