"""The data of the jobs of one process, read once, with the warnings of loading them."""

from __future__ import annotations

import warnings
from typing import Any, Final, final

from limbeck.recipe import ResolvedRecipe

__all__ = ["DataCache"]


@final
class DataCache:
    """What jobs of one process have loaded, so that those with the same data and seed read it once; the newest few."""

    _MAX_ENTRIES: Final = 2

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Any, tuple[str, ...]]] = {}

    def load(self, plan: ResolvedRecipe) -> tuple[Any, tuple[str, ...]]:
        """The data of ``plan``, and the warnings of loading it."""
        recipe = plan.recipe
        seed = recipe.seed if recipe.split_seed is None else recipe.split_seed
        key = f"{plan.data} {seed}"
        self._entries[key] = data = (
            self._entries.pop(key) if key in self._entries else _load_data(plan.data.build(), seed)
        )
        while len(self._entries) > self._MAX_ENTRIES:
            del self._entries[next(iter(self._entries))]
        return data


def _load_data(source: Any, seed: int) -> tuple[Any, tuple[str, ...]]:
    """The data of ``source``, and the warnings of loading it, which are shown as well."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        data = source.load(seed=seed)
    for warning in caught:
        warnings.warn(warning.message, warning.category, stacklevel=4)
    return data, tuple(str(warning.message) for warning in caught if issubclass(warning.category, UserWarning))
