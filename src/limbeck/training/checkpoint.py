"""Checkpoints, random states and signals, so that a resumed training ends with the same weights to the bit."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import write_atomically

__all__ = [
    "TrainingDiverged", "TrainingInterrupted", "catch_signals", "get_rng_states", "load_checkpoint", "save_checkpoint",
    "seed_everything", "set_rng_states",
]  # fmt: skip

_FORMAT = 2


class TrainingDiverged(LimbeckError):
    """The loss or the weights are no longer finite, since ``step``."""

    def __init__(self, message: str, *, step: int = 0) -> None:
        self.step = step
        super().__init__(message)


class TrainingInterrupted(LimbeckError):
    """SIGINT or SIGTERM ended the training after a checkpoint. ``reported``: another process has printed it already."""

    def __init__(self, signum: int, path: Path | None, *, reported: bool = False) -> None:
        self.signal, self.reported = signum, reported
        outcome = (
            f"the work is saved in {path}; go on with --resume" if path else "nothing was saved: no folder was given"
        )
        super().__init__(f"stopped by {signal.Signals(signum).name}: {outcome}")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` (tensors and plain values) atomically."""
    write_atomically(path, lambda partial: torch.save({"format": _FORMAT, **state}, partial))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise LimbeckError(
            f"the checkpoint {path} is damaged or cut short ({str(error).splitlines()[0][:100]}): remove it "
            "to begin this stage again, or put a copy back"
        ) from error
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise LimbeckError(f"{path} is not a limbeck checkpoint of format {_FORMAT}: begin again with a new folder")
    return state


def seed_everything(seed: int) -> None:
    """Seed torch, numpy and Python, for dropout and transforms of users."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def get_rng_states() -> dict[str, Any]:
    """The states of all generators as tensors and plain values."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def set_rng_states(states: Mapping[str, Any]) -> None:
    """Restore the states of :func:`get_rng_states`."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the loop can end a step and save; a second signal ends the process."""
    received: list[int] = []
    is_main_thread = threading.current_thread() is threading.main_thread()
    signums = (signal.SIGINT, signal.SIGTERM) if is_main_thread else ()
    previous_handlers = {int(signum): signal.getsignal(signum) for signum in signums}

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
