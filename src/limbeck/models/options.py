"""Options that several builders have."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.core.errors import LimbeckError, suggest_names

__all__ = ["find_pairs", "require_positive"]


def require_positive(**values: int) -> None:
    """Raises an error that names the first of ``values`` that is not an integer of 1 or more.

    >>> require_positive(classes=10, channels=0)
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: channels must be an integer of at least 1, got 0
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise LimbeckError(f"{name} must be an integer of at least 1, got {value!r}")


def find_pairs(pairs: Sequence[str], class_names: Sequence[str]) -> tuple[int, ...] | None:
    """The indices of the language pairs ``pairs`` in ``class_names``; ``None`` for none, which means all.

    >>> find_pairs(["de-en"], ["cs-en", "de-en"]), find_pairs([], ["cs-en"])
    ((1,), None)
    """
    for name in pairs:
        if name not in class_names:
            raise LimbeckError(
                f"pairs must be language pairs of the data, got {name!r}: {suggest_names(name, class_names)}"
            )
    return tuple(list(class_names).index(name) for name in pairs) or None
