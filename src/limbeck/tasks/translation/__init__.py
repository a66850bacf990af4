"""Translation: the next token of the target sentence, given the source sentence and the tokens before."""

from limbeck.tasks.translation.task import Translation

__all__ = ["Translation"]
