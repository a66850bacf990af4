"""Text: one class for each text, or an embedding."""

from limbeck.tasks.text.embedding import SentenceEmbedding
from limbeck.tasks.text.task import TextClassification

__all__ = ["SentenceEmbedding", "TextClassification"]
