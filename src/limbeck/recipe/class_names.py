"""The names of a teacher's classes: a list in the recipe, or a file with one name a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from limbeck.core.errors import LimbeckError

__all__ = ["load_class_names"]


def load_class_names(source: str | Sequence[str], *, config_path: str) -> tuple[str, ...]:
    """The names in the order of the teacher's answers; ``source`` is a list of them, or the path of a file.

    Raises ``LimbeckError`` where the file cannot be read or holds no name.

    >>> load_class_names(["cat", "dog"], config_path="teachers.big.class_names")
    ('cat', 'dog')
    """
    if not isinstance(source, str):
        return tuple(source)
    try:
        lines = Path(source).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LimbeckError(
            f"{config_path}: {source} could not be read ({type(error).__name__}): give a text file with one name a line, or a "
            "list of names"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise LimbeckError(
            f"{config_path}: {source} holds no name: write one a line, in the order of the teacher's answers"
        )
    return names
