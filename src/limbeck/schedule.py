"""Numbers that move with training, under the name users write: ``from limbeck import schedule``."""

from limbeck.core.schedule import Cosine, Linear, Schedule, Steps, Warmup, at, cosine, linear, steps, warmup

__all__ = ["Cosine", "Linear", "Schedule", "Steps", "Warmup", "at", "cosine", "linear", "steps", "warmup"]
