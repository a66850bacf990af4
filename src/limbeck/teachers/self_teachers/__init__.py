"""Teachers made of the student: the average of its weights, and its previous outputs."""

from limbeck.teachers.self_teachers.ema import EMATeacher
from limbeck.teachers.self_teachers.previous_outputs import PreviousBatchTeacher, PreviousEpochTeacher

__all__ = ["EMATeacher", "PreviousBatchTeacher", "PreviousEpochTeacher"]
