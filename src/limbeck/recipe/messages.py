"""How a mistake in a recipe is said: the dotted place, what stood there, what was allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

__all__ = ["format_value", "join_path", "unknown_setting_message"]

_MAX_LENGTH = 60


def join_path(config_path: str, *keys: object) -> str:
    """``config_path`` and what is below it, dotted.

    >>> join_path("stages", 0, "epochs"), join_path("", "student")
    ('stages.0.epochs', 'student')
    """
    return ".".join(str(key) for key in (config_path, *keys) if key != "")


def format_value(value: Any) -> str:
    """``value`` as its writer would know it again: YAML's words for true, false and null, and never a page of it.

    >>> format_value("abc"), format_value(True), format_value([None, 1.5]), format_value({"use": "mlp"})
    ("'abc'", 'true', '[null, 1.5]', '{use: mlp}')
    """
    text = _format_full(value)
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 1] + "…"


def unknown_setting_message(owner: str, key: object, allowed: Iterable[str]) -> str:
    """What to say of a key that nothing reads.

    >>> unknown_setting_message("small_cnn", "widht", ["width", "depth"])
    "small_cnn has no setting 'widht'; did you mean 'width'? (it takes: width, depth)"
    """
    names = list(allowed)
    close = get_close_matches(str(key), names, n=1)
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    return f"{owner} has no setting {format_value(key)}{suggestion} (it takes: {', '.join(names) or 'none'})"


def _format_full(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_format_scalar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_format_full, value)) + "]"
    return repr(value)


def _format_scalar(value: Any) -> str:
    return value if isinstance(value, str) and value.isidentifier() else _format_full(value)
