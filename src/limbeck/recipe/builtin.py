"""The recipes that come with limbeck, by name."""

from __future__ import annotations

from pathlib import Path

from limbeck.core.errors import LimbeckError, nearest

__all__ = ["find", "listing"]

_SHELF = Path(__file__).parent.parent / "recipes"


def find(name: str | Path) -> Path:
    """The file that ``name`` means: a path, or the name of a recipe that comes with limbeck.

    >>> find("digits").name
    'digits.yaml'
    """
    path = Path(name)
    if path.is_file() or path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path
    ours = _SHELF / f"{name}.yaml"
    if not ours.exists():
        known = [recipe for recipe, _ in listing()]
        raise LimbeckError(f"there is no file {str(name)!r}, and no recipe of that name: {nearest(str(name), known)}")
    return ours


def listing() -> list[tuple[str, str]]:
    """Name and first comment line of each recipe that comes with limbeck."""
    return [(path.stem, path.read_text().splitlines()[0].lstrip("# ")) for path in sorted(_SHELF.glob("*.yaml"))]
