"""Those who know: frozen networks, answers from elsewhere and from disk, the student's own past; how several speak
together, and which are to.
"""

from limbeck.teachers.adapter import Adapter, Lens, adapted, by_name
from limbeck.teachers.backends import ENGINES, Engine, Report
from limbeck.teachers.cache import Cached, Format
from limbeck.teachers.combinations import Combination, Confidence, Learned, MeanLogits, MeanProbabilities, Random
from limbeck.teachers.ensemble import combine
from limbeck.teachers.external import Foreign, answers, endpoint, onnx
from limbeck.teachers.frozen import Frozen
from limbeck.teachers.masked import Partial, answered_samples
from limbeck.teachers.selection.rules import Facts, Likeness, Rules, warnings
from limbeck.teachers.selection.select import Candidate, Selection, select
from limbeck.teachers.self_teachers import Averaged, LastBatch, LastPrediction

__all__ = [
    "ENGINES", "Adapter", "Averaged", "Cached", "Candidate", "Combination", "Confidence", "Engine", "Facts", "Foreign",
    "Format", "Frozen", "LastBatch", "LastPrediction", "Learned", "Lens", "Likeness", "MeanLogits",
    "MeanProbabilities", "Partial", "Random", "Report", "Rules", "Selection", "adapted", "answered_samples", "answers",
    "by_name", "combine", "endpoint", "onnx", "select",
    "warnings",
]  # fmt: skip
