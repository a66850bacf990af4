"""Tasks define what a batch means: how to call the network, its rows, targets and metrics."""

from limbeck.tasks.classification import Classification

__all__ = ["Classification"]
