"""The check of the integer options of all builders."""

from __future__ import annotations

from limbeck.core.errors import LimbeckError

__all__ = ["require_positive"]


def require_positive(**values: int) -> None:
    """Raises an error that names the first of ``values`` that is not an integer of 1 or more.

    >>> require_positive(classes=10, channels=0)
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: channels must be an integer of at least 1, got 0
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise LimbeckError(f"{name} must be an integer of at least 1, got {value!r}")
