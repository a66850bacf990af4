"""Speech and text in one shared space, for retrieval; and translation by networks of either side."""

from limbeck.tasks.alignment.task import SpeechTextAlignment
from limbeck.tasks.alignment.translation import SpeechTextTranslation

__all__ = ["SpeechTextAlignment", "SpeechTextTranslation"]
