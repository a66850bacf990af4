"""Teachers that are made of the student itself: the average of its weights, and what it said before."""

from limbeck.teachers.itself.averaged import Averaged
from limbeck.teachers.itself.last_batch import LastBatch
from limbeck.teachers.itself.last_prediction import LastPrediction

__all__ = ["Averaged", "LastBatch", "LastPrediction"]
