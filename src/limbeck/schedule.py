"""Numbers that move with training, under the name users write: ``from limbeck import schedule``."""

from limbeck.core.schedules import (
    Cosine,
    Linear,
    Overall,
    Schedule,
    Steps,
    Switch,
    Warmup,
    at,
    cosine,
    linear,
    overall,
    steps,
    switch,
    warmup,
)

__all__ = [
    "Cosine", "Linear", "Overall", "Schedule", "Steps", "Switch", "Warmup", "at", "cosine", "linear", "overall",
    "steps", "switch", "warmup",
]  # fmt: skip
