"""Distillation losses, one method per file: a pure function and a class.

A function takes tensors (student, teacher, then target; options keyword-only) and returns a scalar; its class reads
these tensors from a :class:`~limbeck.core.loss_context.LossContext`. All are the sum over classes and the mean over
rows, times τ², computed in float32, without gradients to a teacher.
"""

from limbeck.losses._alignment import ctc_compress
from limbeck.losses._linear import LinearLogits, TopKLogits, linear_outputs, top_k_logits
from limbeck.losses.ab import ABLoss, ab_loss
from limbeck.losses.attention_transfer import AttentionTransferLoss, attention_transfer_loss
from limbeck.losses.binary_kd import BinaryKDLoss, binary_kd_loss
from limbeck.losses.boundary_kd import BoundaryKDLoss, boundary_kd_loss
from limbeck.losses.byot import BYOTLoss, byot_loss
from limbeck.losses.cc import CCLoss, cc_loss
from limbeck.losses.cirkd import CIRKDLoss, cirkd_loss, cirkd_memory_loss
from limbeck.losses.crd import CRDLoss, crd_loss
from limbeck.losses.cross_entropy import CrossEntropyLoss, cross_entropy_loss
from limbeck.losses.crosskd import CrossKDLoss, crosskd_box_loss, crosskd_loss
from limbeck.losses.cskd import CSKDLoss, cskd_loss
from limbeck.losses.ctc import CTCLoss, ctc_loss
from limbeck.losses.ctc_best_path import CTCBestPathLoss, ctc_best_path_loss
from limbeck.losses.ctc_frame_kd import CTCFrameKDLoss, ctc_frame_kd_loss
from limbeck.losses.ctc_nbest import CTCNBestLoss, ctc_nbest_loss
from limbeck.losses.cwd import CWDLoss, cwd_loss
from limbeck.losses.detection import DetectionLoss, detection_loss
from limbeck.losses.dist import DISTLoss, dist_loss
from limbeck.losses.dkd import DKDLoss, dkd_loss
from limbeck.losses.dml import DMLLoss, dml_loss
from limbeck.losses.embedding import (
    EmbeddingCosineLoss,
    EmbeddingMSELoss,
    embedding_cosine_loss,
    embedding_mse_loss,
)
from limbeck.losses.fgd import FGDLoss, fgd_focal_loss, fgd_global_loss, foreground_weights
from limbeck.losses.fitnet import FitNetLoss, fitnet_loss
from limbeck.losses.fpn import FPNAttentionLoss, FPNFeatureLoss, fpn_attention_loss, fpn_feature_loss
from limbeck.losses.fsp import FSPLoss, fsp_loss
from limbeck.losses.ft import FTLoss, ft_loss
from limbeck.losses.gram import GramLoss, gram_loss
from limbeck.losses.ifvd import IFVDLoss, ifvd_loss
from limbeck.losses.info_nce import InfoNCEKDLoss, InfoNCELoss, info_nce_loss
from limbeck.losses.jsd import JSDLoss, jsd_loss
from limbeck.losses.kd import KDLoss, kd_loss
from limbeck.losses.ld import LDLoss, box_deltas_loss, ld_loss, pairwise_diou
from limbeck.losses.linear_cross_entropy import LinearCrossEntropyLoss, linear_cross_entropy_loss
from limbeck.losses.linear_distillation import LinearDistillationLoss, linear_distillation_loss
from limbeck.losses.linear_jsd import LinearJSDLoss, linear_jsd_loss
from limbeck.losses.linear_kd import LinearKDLoss, linear_kd_loss
from limbeck.losses.linear_reverse_kl import LinearReverseKLLoss, linear_reverse_kl_loss
from limbeck.losses.logit_mse import LogitMSELoss, logit_mse_loss
from limbeck.losses.margin_mse import MarginMSELoss, margin_mse_loss
from limbeck.losses.mgd import MGDLoss, mgd_loss
from limbeck.losses.minilm import MiniLMLoss, minilm_loss
from limbeck.losses.minilmv2 import MiniLMv2Loss, minilmv2_loss
from limbeck.losses.mlkd import MLKDLoss, mlkd_loss
from limbeck.losses.nkd import NKDLoss, nkd_loss
from limbeck.losses.nst import NSTLoss, nst_loss
from limbeck.losses.ofd import OFDLoss, batch_norm_margin, ofd_loss
from limbeck.losses.pkd import PKDLoss, pkd_loss
from limbeck.losses.pkt import PKTLoss, pkt_loss
from limbeck.losses.pskd import PSKDLoss, pskd_loss
from limbeck.losses.quality_focal import QualityFocalLoss, quality_focal_loss
from limbeck.losses.reverse_kl import ReverseKLLoss, reverse_kl_loss
from limbeck.losses.reviewkd import ReviewKDLoss, reviewkd_loss
from limbeck.losses.rkd import RKDAngleLoss, RKDDistanceLoss, rkd_angle_loss, rkd_distance_loss
from limbeck.losses.seq_kd import SeqKDLoss, seq_kd_loss
from limbeck.losses.simkd import SimKDLoss, simkd_loss
from limbeck.losses.skd import SKDLoss, skd_loss
from limbeck.losses.skd_holistic import SKDHolisticLoss, skd_holistic_loss
from limbeck.losses.sp import SPLoss, sp_loss
from limbeck.losses.state_matching import StateMatchingLoss, state_matching_loss
from limbeck.losses.supcon import SupConLoss, supcon_loss
from limbeck.losses.ttm import TTMLoss, ttm_loss
from limbeck.losses.vid import VIDLoss, vid_loss
from limbeck.losses.word_kd import WordKDLoss, word_kd_loss

__all__ = [
    "ABLoss",
    "AttentionTransferLoss",
    "BYOTLoss",
    "BinaryKDLoss",
    "BoundaryKDLoss",
    "CCLoss",
    "CIRKDLoss",
    "CRDLoss",
    "CSKDLoss",
    "CTCBestPathLoss",
    "CTCFrameKDLoss",
    "CTCLoss",
    "CTCNBestLoss",
    "CWDLoss",
    "CrossEntropyLoss",
    "CrossKDLoss",
    "DISTLoss",
    "DKDLoss",
    "DMLLoss",
    "DetectionLoss",
    "EmbeddingCosineLoss",
    "EmbeddingMSELoss",
    "FGDLoss",
    "FPNAttentionLoss",
    "FPNFeatureLoss",
    "FSPLoss",
    "FTLoss",
    "FitNetLoss",
    "GramLoss",
    "IFVDLoss",
    "InfoNCEKDLoss",
    "InfoNCELoss",
    "JSDLoss",
    "KDLoss",
    "LDLoss",
    "LinearCrossEntropyLoss",
    "LinearDistillationLoss",
    "LinearJSDLoss",
    "LinearKDLoss",
    "LinearLogits",
    "LinearReverseKLLoss",
    "LogitMSELoss",
    "MGDLoss",
    "MLKDLoss",
    "MarginMSELoss",
    "MiniLMLoss",
    "MiniLMv2Loss",
    "NKDLoss",
    "NSTLoss",
    "OFDLoss",
    "PKDLoss",
    "PKTLoss",
    "PSKDLoss",
    "QualityFocalLoss",
    "RKDAngleLoss",
    "RKDDistanceLoss",
    "ReverseKLLoss",
    "ReviewKDLoss",
    "SKDHolisticLoss",
    "SKDLoss",
    "SPLoss",
    "SeqKDLoss",
    "SimKDLoss",
    "StateMatchingLoss",
    "SupConLoss",
    "TTMLoss",
    "TopKLogits",
    "VIDLoss",
    "WordKDLoss",
    "ab_loss",
    "attention_transfer_loss",
    "batch_norm_margin",
    "binary_kd_loss",
    "boundary_kd_loss",
    "box_deltas_loss",
    "byot_loss",
    "cc_loss",
    "cirkd_loss",
    "cirkd_memory_loss",
    "crd_loss",
    "cross_entropy_loss",
    "crosskd_box_loss",
    "crosskd_loss",
    "cskd_loss",
    "ctc_best_path_loss",
    "ctc_compress",
    "ctc_frame_kd_loss",
    "ctc_loss",
    "ctc_nbest_loss",
    "cwd_loss",
    "detection_loss",
    "dist_loss",
    "dkd_loss",
    "dml_loss",
    "embedding_cosine_loss",
    "embedding_mse_loss",
    "fgd_focal_loss",
    "fgd_global_loss",
    "fitnet_loss",
    "foreground_weights",
    "fpn_attention_loss",
    "fpn_feature_loss",
    "fsp_loss",
    "ft_loss",
    "gram_loss",
    "ifvd_loss",
    "info_nce_loss",
    "jsd_loss",
    "kd_loss",
    "ld_loss",
    "linear_cross_entropy_loss",
    "linear_distillation_loss",
    "linear_jsd_loss",
    "linear_kd_loss",
    "linear_outputs",
    "linear_reverse_kl_loss",
    "logit_mse_loss",
    "margin_mse_loss",
    "mgd_loss",
    "minilm_loss",
    "minilmv2_loss",
    "mlkd_loss",
    "nkd_loss",
    "nst_loss",
    "ofd_loss",
    "pairwise_diou",
    "pkd_loss",
    "pkt_loss",
    "pskd_loss",
    "quality_focal_loss",
    "reverse_kl_loss",
    "reviewkd_loss",
    "rkd_angle_loss",
    "rkd_distance_loss",
    "seq_kd_loss",
    "simkd_loss",
    "skd_holistic_loss",
    "skd_loss",
    "sp_loss",
    "state_matching_loss",
    "supcon_loss",
    "top_k_logits",
    "ttm_loss",
    "vid_loss",
    "word_kd_loss",
]
