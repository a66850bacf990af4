"""Numbers that move with training, under the name users write: ``from limbeck import schedule``."""

from limbeck.core.schedules import (
    AcrossStages,
    Cosine,
    Linear,
    MultiStep,
    Schedule,
    StepChange,
    Warmup,
    across_stages,
    cosine,
    linear,
    multistep,
    resolve,
    step_change,
    warmup,
)

__all__ = [
    "Cosine", "Linear", "AcrossStages", "Schedule", "MultiStep", "StepChange", "Warmup", "resolve", "cosine", "linear", "across_stages",
    "multistep", "step_change", "warmup",
]  # fmt: skip
