"""What a batch means: how to call the network, what its rows are, what is true, how to measure."""

from limbeck.tasks.classification import Classification

__all__ = ["Classification"]
