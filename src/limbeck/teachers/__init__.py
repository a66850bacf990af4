"""Those who know: frozen networks, answers from elsewhere and from disk; how they speak together, and which are to."""

from limbeck.teachers.cache import Cached, Format
from limbeck.teachers.combinations import Combination, Confidence, Learned, MeanLogits, MeanProbabilities, Random
from limbeck.teachers.engines import ENGINES, Engine, Report
from limbeck.teachers.ensemble import combine
from limbeck.teachers.foreign import Foreign, answers, endpoint, onnx
from limbeck.teachers.frozen import Frozen
from limbeck.teachers.rules import Facts, Likeness, Rules, warnings
from limbeck.teachers.select import Candidate, Selection, select

__all__ = [
    "ENGINES", "Cached", "Candidate", "Combination", "Confidence", "Engine", "Facts", "Foreign", "Format", "Frozen",
    "Learned", "Likeness", "MeanLogits", "MeanProbabilities", "Random", "Report", "Rules", "Selection", "answers",
    "combine", "endpoint", "onnx", "select", "warnings",
]  # fmt: skip
