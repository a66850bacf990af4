"""The losses of distillation, one method per file: a pure function and, under it, a final class.

A function takes tensors (student, teacher, then target; options keyword-only) and returns a scalar; its class takes the
same tensors out of an exchange. One convention: sum over classes, mean over rows, times tau squared; float32 inside;
gradients never reach a teacher.
"""

from limbeck.losses.ab import ABLoss, ab_loss
from limbeck.losses.attention_transfer import AttentionTransferLoss, attention_transfer_loss
from limbeck.losses.byot import BYOTLoss, byot_loss
from limbeck.losses.cc import CCLoss, cc_loss
from limbeck.losses.crd import CRDLoss, crd_loss
from limbeck.losses.cross_entropy import CrossEntropyLoss, cross_entropy
from limbeck.losses.cskd import CSKDLoss, cskd_loss
from limbeck.losses.cwd import CWDLoss, cwd_loss
from limbeck.losses.dist import DISTLoss, dist_loss
from limbeck.losses.dkd import DKDLoss, dkd_loss
from limbeck.losses.dml import DMLLoss, dml_loss
from limbeck.losses.fitnet import FitNetLoss, fitnet_loss
from limbeck.losses.fsp import FSPLoss, fsp_loss
from limbeck.losses.ft import FTLoss, ft_loss
from limbeck.losses.gram import GramLoss, gram_loss
from limbeck.losses.jsd import JSDLoss, jsd_loss
from limbeck.losses.kd import KDLoss, kd_loss
from limbeck.losses.logit_mse import LogitMSELoss, logit_mse_loss
from limbeck.losses.mgd import MGDLoss, mgd_loss
from limbeck.losses.mlkd import MLKDLoss, mlkd_loss
from limbeck.losses.nkd import NKDLoss, nkd_loss
from limbeck.losses.nst import NSTLoss, nst_loss
from limbeck.losses.ofd import OFDLoss, batch_norm_margin, ofd_loss
from limbeck.losses.pkd import PKDLoss, pkd_loss
from limbeck.losses.pkt import PKTLoss, pkt_loss
from limbeck.losses.pskd import PSKDLoss, pskd_loss
from limbeck.losses.reverse_kl import ReverseKLLoss, reverse_kl_loss
from limbeck.losses.reviewkd import ReviewKDLoss, reviewkd_loss
from limbeck.losses.rkd_angle import RKDAngleLoss, rkd_angle_loss
from limbeck.losses.rkd_distance import RKDDistanceLoss, rkd_distance_loss
from limbeck.losses.simkd import SimKDLoss, simkd_loss
from limbeck.losses.sp import SPLoss, sp_loss
from limbeck.losses.ttm import TTMLoss, ttm_loss
from limbeck.losses.vid import VIDLoss, vid_loss

__all__ = [
    "AttentionTransferLoss", "ABLoss", "CWDLoss", "CSKDLoss", "CRDLoss", "CCLoss", "CrossEntropyLoss", "DKDLoss",
    "BYOTLoss", "DISTLoss", "FTLoss", "FSPLoss", "GramLoss", "FitNetLoss", "JSDLoss", "LogitMSELoss", "MGDLoss", "MLKDLoss",
    "DMLLoss", "NSTLoss", "NKDLoss", "OFDLoss", "PKDLoss", "PSKDLoss", "PKTLoss", "RKDAngleLoss",
    "RKDDistanceLoss", "ReverseKLLoss", "ReviewKDLoss", "SimKDLoss", "SPLoss", "KDLoss", "TTMLoss", "VIDLoss",
    "attention_transfer_loss", "batch_norm_margin", "ab_loss", "cwd_loss", "cskd_loss", "crd_loss", "cc_loss", "cross_entropy",
    "dkd_loss", "byot_loss", "dist_loss", "ft_loss", "fsp_loss", "gram_loss", "fitnet_loss", "jsd_loss", "logit_mse_loss", "mgd_loss",
    "mlkd_loss", "dml_loss", "nst_loss", "nkd_loss", "ofd_loss", "pkd_loss", "pskd_loss", "pkt_loss",
    "reverse_kl_loss", "reviewkd_loss", "rkd_angle_loss", "rkd_distance_loss", "sp_loss", "simkd_loss", "kd_loss", "ttm_loss",
    "vid_loss",
]  # fmt: skip
