"""The losses of distillation, one method per file: a pure function and, under it, a final class.

A function takes tensors (student, teacher, then target; options keyword-only) and returns a scalar; its class takes the
same tensors out of an exchange. One convention: sum over classes, mean over rows, times tau squared; float32 inside;
gradients never reach a teacher.
"""

from limbeck.terms.attention_transfer import AttentionTransfer, attention
from limbeck.terms.class_wise import ClassWise, class_wise
from limbeck.terms.cross_entropy import CrossEntropy, cross_entropy
from limbeck.terms.deep_to_shallow import DeepToShallow, deep_to_shallow
from limbeck.terms.gram import Gram, gram
from limbeck.terms.hint import Hint, hint
from limbeck.terms.mutual import Mutual, mutual
from limbeck.terms.prior_prediction import PriorPrediction, prior_prediction
from limbeck.terms.similarity import Similarity, similarity
from limbeck.terms.soft_target import SoftTarget, soft_target

__all__ = [
    "AttentionTransfer", "ClassWise", "CrossEntropy", "DeepToShallow", "Gram", "Hint", "Mutual", "PriorPrediction",
    "Similarity", "SoftTarget", "attention", "class_wise", "cross_entropy", "deep_to_shallow", "gram", "hint", "mutual",
    "prior_prediction", "similarity", "soft_target",
]  # fmt: skip
