"""The losses of distillation, one method per file: a pure function and, under it, a final class.

A function takes tensors (student, teacher, then target; options keyword-only) and returns a scalar; its class takes the
same tensors out of an exchange. One convention: sum over classes, mean over rows, times tau squared; float32 inside;
gradients never reach a teacher.
"""

from limbeck.losses.ab import Boundary, boundary
from limbeck.losses.attention_transfer import AttentionTransfer, attention
from limbeck.losses.byot import DeepToShallow, deep_to_shallow
from limbeck.losses.cc import Correlation, correlation
from limbeck.losses.crd import Contrast, contrast
from limbeck.losses.cross_entropy import CrossEntropy, cross_entropy
from limbeck.losses.cskd import ClassWise, class_wise
from limbeck.losses.cwd import Channel, channel
from limbeck.losses.dist import Dist, dist
from limbeck.losses.dkd import Decoupled, decoupled
from limbeck.losses.dml import Mutual, mutual
from limbeck.losses.fitnet import Hint, hint
from limbeck.losses.fsp import Flow, flow
from limbeck.losses.ft import Factor, factor
from limbeck.losses.gram import Gram, gram
from limbeck.losses.jsd import JensenShannon, jensen_shannon
from limbeck.losses.kd import SoftTarget, soft_target
from limbeck.losses.logit_mse import LogitMSE, logit_mse
from limbeck.losses.mgd import Masked, masked
from limbeck.losses.mlkd import MultiLevel, multi_level
from limbeck.losses.nkd import Normalized, normalized
from limbeck.losses.nst import Neuron, neuron
from limbeck.losses.ofd import Overhaul, batch_norm_margin, overhaul
from limbeck.losses.pkd import PearsonMap, pearson_map
from limbeck.losses.pkt import Probability, probability
from limbeck.losses.pskd import PriorPrediction, prior_prediction
from limbeck.losses.reverse_kl import ReverseKL, reverse_kl
from limbeck.losses.reviewkd import Review, review
from limbeck.losses.rkd_angle import RKDAngle, rkd_angle
from limbeck.losses.rkd_distance import RKDDistance, rkd_distance
from limbeck.losses.simkd import SimKD, simkd
from limbeck.losses.sp import Similarity, similarity
from limbeck.losses.ttm import Transformed, transformed
from limbeck.losses.vid import Variational, variational

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
