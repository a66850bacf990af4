"""The recipes that come with limbeck, by name."""

from __future__ import annotations

from pathlib import Path

from limbeck.core.errors import LimbeckError, suggest_names

__all__ = ["find_recipe", "list_recipes"]

_RECIPE_DIR = Path(__file__).parent.parent / "recipes"


def find_recipe(name: str | Path) -> Path:
    """The file that ``name`` means: a path, or the name of a recipe that comes with limbeck.

    >>> find_recipe("digits").name
    'digits.yaml'
    """
    path = Path(name)
    if path.is_file() or path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path
    builtin = _RECIPE_DIR / f"{name}.yaml"
    if not builtin.exists():
        names = [recipe for recipe, _ in list_recipes()]
        raise LimbeckError(
            f"there is no file {str(name)!r}, and no recipe of that name: {suggest_names(str(name), names)}"
        )
    return builtin


def list_recipes() -> list[tuple[str, str]]:
    """Name and first comment line of each recipe that comes with limbeck."""
    return [(path.stem, path.read_text().splitlines()[0].lstrip("# ")) for path in sorted(_RECIPE_DIR.glob("*.yaml"))]
