"""Semantic segmentation: one class for each pixel."""

from limbeck.tasks.segmentation.task import Segmentation

__all__ = ["Segmentation"]
