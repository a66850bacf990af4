"""The error class of limbeck, the exception of a stop signal, and helpers for messages."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["LimbeckError", "StoppedBySignal", "format_root_cause", "suggest_names"]


class LimbeckError(Exception):
    """An invalid argument, recipe or combination of settings; the command line prints the message and exits with 2."""


class StoppedBySignal(BaseException):
    """SIGTERM or SIGHUP ended a command outside of a training, which saves a checkpoint first.

    It is no ``Exception``, so that code that handles any error does not go on after it.
    """

    def __init__(self, signum: int) -> None:
        self.signal = signum
        super().__init__(f"stopped by {signal.Signals(signum).name}")


def suggest_names(name: str, allowed: Iterable[str], *, max_names: int = 3) -> str:
    """The allowed names closest to ``name``, comma-separated; the first twelve where none is close.

    >>> suggest_names("layre2", ["layer1", "layer2", "fc"])
    'layer2, layer1'
    """
    names = list(allowed)
    close = get_close_matches(name, names, n=max_names, cutoff=0.5)
    return ", ".join(close or names[:12]) or "none"


def format_root_cause(error: BaseException) -> str:
    """The type and the first line of the innermost cause of ``error``."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"
