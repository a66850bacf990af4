"""Speech: sequences of phonemes or characters from frames, without an alignment."""

from limbeck.tasks.speech.task import SpeechCTC

__all__ = ["SpeechCTC"]
