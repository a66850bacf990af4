"""The losses of distillation, one method per file: a pure function and, under it, a final class.

A function takes tensors (student, teacher, then target; options keyword-only) and returns a scalar; its class takes the
same tensors out of an exchange. One convention: sum over classes, mean over rows, times tau squared; float32 inside;
gradients never reach a teacher.
"""

from limbeck.terms.attention_transfer import AttentionTransfer, attention
from limbeck.terms.boundary import Boundary, boundary
from limbeck.terms.channel import Channel, channel
from limbeck.terms.cross_entropy import CrossEntropy, cross_entropy
from limbeck.terms.factor import Factor, factor
from limbeck.terms.gram import Gram, gram
from limbeck.terms.hint import Hint, hint
from limbeck.terms.masked import Masked, masked
from limbeck.terms.neuron import Neuron, neuron
from limbeck.terms.overhaul import Overhaul, batch_norm_margin, overhaul
from limbeck.terms.pearson_map import PearsonMap, pearson_map
from limbeck.terms.review import Review, review
from limbeck.terms.similarity import Similarity, similarity
from limbeck.terms.soft_target import SoftTarget, soft_target
from limbeck.terms.variational import Variational, variational

__all__ = [
    "AttentionTransfer", "Boundary", "Channel", "CrossEntropy", "Factor", "Gram", "Hint", "Masked", "Neuron",
    "Overhaul", "PearsonMap", "Review", "Similarity", "SoftTarget", "Variational", "attention", "batch_norm_margin",
    "boundary", "channel", "cross_entropy", "factor", "gram", "hint", "masked", "neuron", "overhaul", "pearson_map",
    "review", "similarity", "soft_target", "variational",
]  # fmt: skip
