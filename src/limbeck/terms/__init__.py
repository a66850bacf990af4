"""The losses of distillation, one method per file: a pure function and, under it, a final class.

A function takes tensors (student, teacher, then target; options keyword-only) and returns a scalar; its class takes the
same tensors out of an exchange. One convention: sum over classes, mean over rows, times tau squared; float32 inside;
gradients never reach a teacher.
"""

from limbeck.terms.attention_transfer import AttentionTransfer, attention
from limbeck.terms.contrast import Contrast, contrast
from limbeck.terms.correlation import Correlation, correlation
from limbeck.terms.cross_entropy import CrossEntropy, cross_entropy
from limbeck.terms.decoupled import Decoupled, decoupled
from limbeck.terms.dist import Dist, dist
from limbeck.terms.flow import Flow, flow
from limbeck.terms.gram import Gram, gram
from limbeck.terms.hint import Hint, hint
from limbeck.terms.jensen_shannon import JensenShannon, jensen_shannon
from limbeck.terms.logit_mse import LogitMSE, logit_mse
from limbeck.terms.multi_level import MultiLevel, multi_level
from limbeck.terms.normalized import Normalized, normalized
from limbeck.terms.probability import Probability, probability
from limbeck.terms.reverse_kl import ReverseKL, reverse_kl
from limbeck.terms.rkd_angle import RKDAngle, rkd_angle
from limbeck.terms.rkd_distance import RKDDistance, rkd_distance
from limbeck.terms.similarity import Similarity, similarity
from limbeck.terms.simkd import SimKD, simkd
from limbeck.terms.soft_target import SoftTarget, soft_target
from limbeck.terms.transformed import Transformed, transformed

__all__ = [
    "AttentionTransfer", "Contrast", "Correlation", "CrossEntropy", "Decoupled", "Dist", "Flow", "Gram", "Hint",
    "JensenShannon", "LogitMSE", "MultiLevel", "Normalized", "Probability", "RKDAngle", "RKDDistance", "ReverseKL",
    "SimKD", "Similarity", "SoftTarget", "Transformed", "attention", "contrast", "correlation", "cross_entropy",
    "decoupled", "dist", "flow", "gram", "hint", "jensen_shannon", "logit_mse", "multi_level", "normalized",
    "probability", "reverse_kl", "rkd_angle", "rkd_distance", "similarity", "simkd", "soft_target", "transformed",
]  # fmt: skip
