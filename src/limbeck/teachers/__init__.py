"""Those who know: frozen networks, answers from elsewhere and from disk; and how several speak with one voice."""

from limbeck.teachers.cache import Cached, Format
from limbeck.teachers.engines import ENGINES, Engine, Report
from limbeck.teachers.ensemble import combine
from limbeck.teachers.foreign import Foreign, answers, endpoint, onnx
from limbeck.teachers.frozen import Frozen

__all__ = [
    "ENGINES", "Cached", "Engine", "Foreign", "Format", "Frozen", "Report", "answers", "combine", "endpoint", "onnx",
]  # fmt: skip
