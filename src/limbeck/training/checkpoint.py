"""Checkpoints and signals, so that a resumed training ends with the same weights to the bit."""

from __future__ import annotations

import signal
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import require_regular_file, write_atomically

__all__ = [
    "TrainingDiverged", "TrainingInterrupted", "catch_signals", "checkpoint_error", "load_checkpoint",
    "save_checkpoint", "to_plain_values",
]  # fmt: skip

_FORMAT = 2
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class TrainingDiverged(LimbeckError):
    """The loss or the weights are no longer finite, since ``step``."""

    def __init__(self, message: str, *, step: int = 0) -> None:
        self.step = step
        super().__init__(message)


class TrainingInterrupted(LimbeckError):
    """A signal ended the training after a checkpoint. ``reported``: another process has printed it already."""

    def __init__(self, signum: int, path: Path | None, *, reported: bool = False) -> None:
        self.signal, self.reported = signum, reported
        outcome = (
            f"the work is saved in {path}; go on with --resume (in Python resume=True)"
            if path
            else "nothing was saved: no folder was given"
        )
        super().__init__(f"stopped by {signal.Signals(signum).name}: {outcome}")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` atomically, as :func:`to_plain_values`."""
    plain_state = to_plain_values({"format": _FORMAT, **state})
    write_atomically(path, lambda partial: torch.save(plain_state, partial))


def to_plain_values(value: Any) -> Any:
    """``value`` with numpy scalars and arrays, also in containers, as Python numbers and lists.

    ``torch.load(weights_only=True)`` refuses numpy. A container without numpy values is returned itself.

    >>> to_plain_values({"lr": np.float64(0.1), "milestones": [np.int64(3), 5]})
    {'lr': 0.1, 'milestones': [3, 5]}
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        plain = {to_plain_values(key): to_plain_values(item) for key, item in value.items()}
        if all(
            plain_key is key and plain[plain_key] is value[key] for plain_key, key in zip(plain, value, strict=True)
        ):
            return value
        return type(value)(plain) if isinstance(value, Counter | OrderedDict) else plain
    if isinstance(value, list | tuple):
        items = [to_plain_values(item) for item in value]
        if all(plain is item for plain, item in zip(items, value, strict=True)):
            return value
        return items if isinstance(value, list) else tuple(items)
    return value


def checkpoint_error(path: Path, state: Mapping[str, Any]) -> LimbeckError | None:
    """Read back the checkpoint of ``state``; an error that names the first value which prevents that, else ``None``."""
    try:
        torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        where = next(_find_unreadable(state, "state"), None)
        value = f"{where[0]} is a {where[1]}" if where else str(error).splitlines()[0][:100]
        return LimbeckError(
            f"the checkpoint {path} cannot be read back: {value}; the state of an optimizer, a scheduler, a loss or a "
            "teacher must be tensors, numbers, strings, lists and dicts"
        )
    return None


def _find_unreadable(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Path and type of the values that are neither tensors nor plain values."""
    if isinstance(value, Mapping):
        if type(value) not in (dict, Counter, OrderedDict):
            yield path, type(value).__name__
        for key, item in value.items():
            yield from _find_unreadable(item, f"{path}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _find_unreadable(item, f"{path}[{index}]")
    elif not isinstance(value, torch.Tensor | int | float | complex | str | bytes | np.generic | np.ndarray | None):
        yield path, type(value).__name__


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``."""
    try:
        state: dict[str, Any] = torch.load(require_regular_file(path), weights_only=True, map_location="cpu")
    except Exception as error:
        raise LimbeckError(
            f"the checkpoint {path} is damaged or cut short ({str(error).splitlines()[0][:100]}): remove it "
            "to begin this stage again, or put a copy back"
        ) from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise LimbeckError(f"{path} is not a limbeck checkpoint of format {_FORMAT}: begin again with a new folder")
    return state


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP, so that the loop can end a step and save; a second signal ends the process.

    SIGHUP stays ignored where the process ignores it, as under ``nohup``.
    """
    received: list[int] = []
    is_main_thread = threading.current_thread() is threading.main_thread()
    signums = _STOP_SIGNALS if is_main_thread else ()
    previous_handlers = {int(signum): signal.getsignal(signum) for signum in signums}
    if previous_handlers.get(signal.SIGHUP) == signal.SIG_IGN:
        del previous_handlers[signal.SIGHUP]

    def handle(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        signal.signal(signum, previous_handlers[signum])

    for signum in previous_handlers:
        signal.signal(signum, handle)
    try:
        yield received
    finally:
        for signum, handler in previous_handlers.items():
            signal.signal(signum, handler)
