"""Classification: one class for each sample."""

from limbeck.tasks.classification.task import Classification

__all__ = ["Classification"]
