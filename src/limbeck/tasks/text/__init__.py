"""Text classification: one class for each text."""

from limbeck.tasks.text.task import TextClassification

__all__ = ["TextClassification"]
