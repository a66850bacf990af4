"""Tasks define what a batch means: how to call the network, its rows, targets and metrics."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.tasks.alignment import SpeechTextAlignment, SpeechTextTranslation
    from limbeck.tasks.classification import Classification
    from limbeck.tasks.detection import Detection
    from limbeck.tasks.segmentation import Segmentation
    from limbeck.tasks.speech import SpeechCTC
    from limbeck.tasks.text import SentenceEmbedding, TextClassification
    from limbeck.tasks.translation import Translation

_NAMES = {
    "Classification": "limbeck.tasks.classification",
    "Detection": "limbeck.tasks.detection",
    "Segmentation": "limbeck.tasks.segmentation",
    "SentenceEmbedding": "limbeck.tasks.text",
    "SpeechCTC": "limbeck.tasks.speech",
    "SpeechTextAlignment": "limbeck.tasks.alignment",
    "SpeechTextTranslation": "limbeck.tasks.alignment",
    "TextClassification": "limbeck.tasks.text",
    "Translation": "limbeck.tasks.translation",
}

__all__ = [
    "Classification", "Detection", "Segmentation", "SentenceEmbedding", "SpeechCTC", "SpeechTextAlignment",
    "SpeechTextTranslation", "TextClassification", "Translation",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'limbeck.tasks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
