"""Roles that a model has in a run or a study."""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a model of a run, or a variant of a study, is for."""

    TEACHER = "teacher"
    ASSISTANT = "assistant"
    BASELINE = "baseline"
    BASELINE_EQUAL_TIME = "baseline_equal_time"
    BASELINE_LABEL_SMOOTHING = "baseline_label_smoothing"
    NO_ASSISTANTS = "no_assistants"
    DISTILLED = "distilled"

    @property
    def is_student(self) -> bool:
        """Whether models of this role are the student of the run."""
        return self not in (Role.TEACHER, Role.ASSISTANT)

    @property
    def is_baseline(self) -> bool:
        """Whether models of this role are the student trained without a teacher."""
        return self in (Role.BASELINE, Role.BASELINE_EQUAL_TIME, Role.BASELINE_LABEL_SMOOTHING)
