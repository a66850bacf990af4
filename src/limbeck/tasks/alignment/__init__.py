"""Speech and text in one shared space, for retrieval."""

from limbeck.tasks.alignment.task import SpeechTextAlignment

__all__ = ["SpeechTextAlignment"]
