"""Largest values of settings: far above any use, and far below what hangs a machine or fills its memory."""

from __future__ import annotations

from typing import Final

__all__ = [
    "MAX_BATCH_SIZE", "MAX_EPOCHS", "MAX_GENERATIONS", "MAX_INPUT_SIZE", "MAX_PROCESSES", "MAX_SEEDS", "MAX_STEPS",
    "MAX_TEMPERATURE", "MAX_THREADS", "MAX_VARIANTS", "MAX_VIEWS",
]  # fmt: skip

MAX_BATCH_SIZE: Final = 1_000_000
MAX_EPOCHS: Final = 1_000_000
MAX_GENERATIONS: Final = 100
MAX_INPUT_SIZE: Final = 8192
"""Pixels of one side of an image."""
MAX_PROCESSES: Final = 256
"""Processes that load batches, or run the trials of a study, on one machine."""
MAX_SEEDS: Final = 1000
MAX_STEPS: Final = 1_000_000_000
MAX_TEMPERATURE: Final = 10_000
MAX_THREADS: Final = 256
MAX_VARIANTS: Final = 200
MAX_VIEWS: Final = 1_000_000
"""Views of a sample."""
