"""The losses of distillation, one method per file: a pure function and, under it, a final class.

A function takes tensors (student, teacher, then target; options keyword-only) and returns a scalar; its class takes the
same tensors out of an exchange. One convention: sum over classes, mean over rows, times tau squared; float32 inside;
gradients never reach a teacher.
"""

from limbeck.terms.attention_transfer import AttentionTransfer, attention
from limbeck.terms.boundary import Boundary, boundary
from limbeck.terms.channel import Channel, channel
from limbeck.terms.class_wise import ClassWise, class_wise
from limbeck.terms.contrast import Contrast, contrast
from limbeck.terms.correlation import Correlation, correlation
from limbeck.terms.cross_entropy import CrossEntropy, cross_entropy
from limbeck.terms.decoupled import Decoupled, decoupled
from limbeck.terms.deep_to_shallow import DeepToShallow, deep_to_shallow
from limbeck.terms.dist import Dist, dist
from limbeck.terms.factor import Factor, factor
from limbeck.terms.flow import Flow, flow
from limbeck.terms.gram import Gram, gram
from limbeck.terms.hint import Hint, hint
from limbeck.terms.jensen_shannon import JensenShannon, jensen_shannon
from limbeck.terms.logit_mse import LogitMSE, logit_mse
from limbeck.terms.masked import Masked, masked
from limbeck.terms.multi_level import MultiLevel, multi_level
from limbeck.terms.mutual import Mutual, mutual
from limbeck.terms.neuron import Neuron, neuron
from limbeck.terms.normalized import Normalized, normalized
from limbeck.terms.overhaul import Overhaul, batch_norm_margin, overhaul
from limbeck.terms.pearson_map import PearsonMap, pearson_map
from limbeck.terms.prior_prediction import PriorPrediction, prior_prediction
from limbeck.terms.probability import Probability, probability
from limbeck.terms.reverse_kl import ReverseKL, reverse_kl
from limbeck.terms.review import Review, review
from limbeck.terms.rkd_angle import RKDAngle, rkd_angle
from limbeck.terms.rkd_distance import RKDDistance, rkd_distance
from limbeck.terms.similarity import Similarity, similarity
from limbeck.terms.simkd import SimKD, simkd
from limbeck.terms.soft_target import SoftTarget, soft_target
from limbeck.terms.transformed import Transformed, transformed
from limbeck.terms.variational import Variational, variational

__all__ = [
    "AttentionTransfer", "Boundary", "Channel", "ClassWise", "Contrast", "Correlation", "CrossEntropy", "Decoupled",
    "DeepToShallow", "Dist", "Factor", "Flow", "Gram", "Hint", "JensenShannon", "LogitMSE", "Masked", "MultiLevel",
    "Mutual", "Neuron", "Normalized", "Overhaul", "PearsonMap", "PriorPrediction", "Probability", "RKDAngle",
    "RKDDistance", "ReverseKL", "Review", "SimKD", "Similarity", "SoftTarget", "Transformed", "Variational",
    "attention", "batch_norm_margin", "boundary", "channel", "class_wise", "contrast", "correlation", "cross_entropy",
    "decoupled", "deep_to_shallow", "dist", "factor", "flow", "gram", "hint", "jensen_shannon", "logit_mse", "masked",
    "multi_level", "mutual", "neuron", "normalized", "overhaul", "pearson_map", "prior_prediction", "probability",
    "reverse_kl", "review", "rkd_angle", "rkd_distance", "similarity", "simkd", "soft_target", "transformed",
    "variational",
]  # fmt: skip
