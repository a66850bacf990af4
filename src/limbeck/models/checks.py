"""The one check that every builder makes of its numbers."""

from __future__ import annotations

from limbeck.core.errors import LimbeckError

__all__ = ["require_at_least"]


def require_at_least(minimum: int, **values: int) -> None:
    """Refuse a number that is not an integer of ``minimum`` or more, by its name.

    >>> require_at_least(1, classes=10, channels=0)
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: channels is an integer of 1 or more, not 0
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise LimbeckError(f"{name} is an integer of {minimum} or more, not {value!r}")
