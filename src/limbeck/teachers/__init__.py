"""Those who know: frozen networks, answers from elsewhere and from disk, the student's own past; how several speak
together, and which are to.
"""

from limbeck.teachers.cache import Cached, Format
from limbeck.teachers.engines import ENGINES, Engine, Report
from limbeck.teachers.ensemble import combine
from limbeck.teachers.foreign import Foreign, answers, endpoint, onnx
from limbeck.teachers.frozen import Frozen
from limbeck.teachers.itself import Averaged, LastBatch, LastPrediction
from limbeck.teachers.rules import Facts, Likeness, Rules, warnings
from limbeck.teachers.select import Candidate, Selection, select

__all__ = [
    "ENGINES", "Averaged", "Cached", "Candidate", "Engine", "Facts", "Foreign", "Format", "Frozen", "LastBatch",
    "LastPrediction", "Likeness", "Report", "Rules", "Selection", "answers", "combine", "endpoint", "onnx", "select",
    "warnings",
]  # fmt: skip
