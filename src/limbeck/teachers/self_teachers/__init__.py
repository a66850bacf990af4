"""Teachers that are made of the student itself: the average of its weights, and what it said before."""

from limbeck.teachers.self_teachers.ema import EMATeacher
from limbeck.teachers.self_teachers.previous_batch import PreviousBatchTeacher
from limbeck.teachers.self_teachers.previous_epoch import PreviousEpochTeacher

__all__ = ["EMATeacher", "PreviousBatchTeacher", "PreviousEpochTeacher"]
