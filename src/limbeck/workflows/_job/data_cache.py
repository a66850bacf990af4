"""Pictures that several jobs of one process share."""

from __future__ import annotations

from typing import Any, Final, final

from limbeck.recipe import Plan

__all__ = ["Loaded"]


@final
class Loaded:
    """What jobs of one process have loaded, so that those with the same data and seed read it once; the newest few."""

    _MOST: Final = 2

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def of(self, plan: Plan) -> Any:
        """The data of ``plan``."""
        recipe = plan.recipe
        seed = recipe.seed if recipe.data_seed is None else recipe.data_seed
        key = f"{plan.data} {seed}"
        self._kept[key] = found = self._kept.pop(key) if key in self._kept else plan.data.build().load(seed=seed)
        while len(self._kept) > self._MOST:
            del self._kept[next(iter(self._kept))]
        return found
