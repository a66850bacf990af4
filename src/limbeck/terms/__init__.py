"""The losses of distillation, one method per file: a pure function and, under it, a final class.

A function takes tensors (student, teacher, then target; options keyword-only) and returns a scalar; its class takes the
same tensors out of an exchange. One convention: sum over classes, mean over rows, times tau squared; float32 inside;
gradients never reach a teacher.
"""

from limbeck.terms.attention_transfer import AttentionTransfer, attention
from limbeck.terms.cross_entropy import CrossEntropy, cross_entropy
from limbeck.terms.gram import Gram, gram
from limbeck.terms.hint import Hint, hint
from limbeck.terms.similarity import Similarity, similarity
from limbeck.terms.soft_target import SoftTarget, soft_target

__all__ = [
    "AttentionTransfer", "CrossEntropy", "Gram", "Hint", "Similarity", "SoftTarget", "attention", "cross_entropy",
    "gram", "hint", "similarity", "soft_target",
]  # fmt: skip
