"""Teachers that are made of the student itself: the average of its weights, and what it said before."""

from limbeck.teachers.self_teachers.ema import Averaged
from limbeck.teachers.self_teachers.previous_batch import LastBatch
from limbeck.teachers.self_teachers.previous_epoch import LastPrediction

__all__ = ["Averaged", "LastBatch", "LastPrediction"]
