"""The one check that every builder makes of its numbers."""

from __future__ import annotations

from limbeck.core.errors import LimbeckError

__all__ = ["at_least"]


def at_least(least: int, **numbers: int) -> None:
    """Refuse a number that is not an integer of ``least`` or more, by its name.

    >>> at_least(1, classes=10, channels=0)
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: channels is an integer of 1 or more, not 0
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise LimbeckError(f"{name} is an integer of {least} or more, not {number!r}")
