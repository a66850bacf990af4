"""How a mistake in a recipe is said: the dotted place, what stood there, what was allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

__all__ = ["at", "shown", "unknown_setting"]

_LONGEST = 60


def at(place: str, *steps: object) -> str:
    """``place`` and what is below it, dotted.

    >>> at("stages", 0, "epochs"), at("", "student")
    ('stages.0.epochs', 'student')
    """
    return ".".join(str(step) for step in (place, *steps) if step != "")


def shown(value: Any) -> str:
    """``value`` as its writer would know it again: YAML's words for true, false and null, and never a page of it.

    >>> shown("abc"), shown(True), shown([None, 1.5]), shown({"use": "mlp"})
    ("'abc'", 'true', '[null, 1.5]', '{use: mlp}')
    """
    text = _whole(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def unknown_setting(what: str, key: object, allowed: Iterable[str]) -> str:
    """What to say of a key that nothing reads.

    >>> unknown_setting("small_cnn", "widht", ["width", "depth"])
    "small_cnn has no setting 'widht'; did you mean 'width'? (it takes: width, depth)"
    """
    names = list(allowed)
    close = get_close_matches(str(key), names, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{what} has no setting {shown(key)}{guess} (it takes: {', '.join(names) or 'none'})"


def _whole(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_bare(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_whole, value)) + "]"
    return repr(value)


def _bare(value: Any) -> str:
    return value if isinstance(value, str) and value.isidentifier() else _whole(value)
