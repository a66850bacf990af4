"""Object detection."""

from limbeck.tasks.detection.task import Detection

__all__ = ["Detection"]
