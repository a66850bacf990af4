"""Distillation of CTC networks by frame.

KL divergence in which frames of the blank weigh less or are skipped, since a CTC network predicts the blank in most
frames and their mean hides the few in which a token is emitted (Hilmes, Rossenbach & Schlüter, 2025,
https://arxiv.org/abs/2506.01503, compare such weightings). With p and q the teacher's and the student's softmax at
temperature τ and w_i = ``blank_weight`` where frame i is blank by the teacher, else 1, the loss is
τ² · Σ_i w_i · KL(p_i ‖ q_i) / Σ_i w_i. The student has to emit a token in the teacher's frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.losses._bases import LogitLoss
from limbeck.losses._logits import TemperatureValue, kl_by_row, log_softmax_pair
from limbeck.losses._ops import upcast


def ctc_frame_kd_loss(
    student: Tensor, teacher: Tensor, *, blank: int = 0, blank_weight: float = 0.1,
    blank_threshold: float | None = None, temperature: TemperatureValue = 2.0,
) -> Tensor:  # fmt: skip
    """Weighted mean over frames of KL(teacher ‖ student) at ``temperature``, times ``temperature ** 2``.

    Shapes: both ``[rows, classes]`` logits, a row per frame; ``temperature`` a number or ``[rows]``. In nats. With
    ``blank_weight`` 1 it is :func:`kd_loss`; with 0 blank frames are skipped. A frame is blank where the blank is the
    teacher's class, or with ``blank_threshold`` where its probability (at temperature 1) is at least that. Zero without
    rows, or where all weights are zero.

    Raises:
        LimbeckError: ``blank`` is none of the classes.

    >>> import torch
    >>> student, teacher = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    >>> ctc_frame_kd_loss(student, teacher, blank_weight=0.0, temperature=1.0)  # only the second frame is not blank
    tensor(2.1254)
    """
    if blank >= teacher.shape[1]:
        raise LimbeckError(f"blank must be one of the {teacher.shape[1]} classes, got {blank}")
    if blank_threshold is None:
        is_blank = teacher.argmax(dim=1) == blank
    else:
        is_blank = upcast(teacher).softmax(dim=1)[:, blank] >= blank_threshold
    weights = torch.where(is_blank, blank_weight, 1.0).to(student.device)
    log_q, log_p, temperature = log_softmax_pair(student, teacher, temperature)
    squared_temperature = temperature.reshape(-1) ** 2 if isinstance(temperature, Tensor) else temperature**2
    total = (weights * kl_by_row(log_q, log_p) * squared_temperature).sum()
    return total / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)


@final
@dataclass(frozen=True)
class CTCFrameKDLoss(LogitLoss):
    """:func:`ctc_frame_kd_loss` of the student's and a teacher's frames.

    Args:
        blank: index of the blank.
        blank_weight: weight of a frame that is blank by the teacher, 0 to skip it; that of others is 1.
        blank_threshold: a frame is blank where the teacher's probability of the blank is at least this; ``None``: where
            the blank is the teacher's class.
    """

    paper: ClassVar = "https://arxiv.org/abs/2506.01503"
    uses_task_temperature: ClassVar = True
    fn: ClassVar = staticmethod(ctc_frame_kd_loss)

    blank: int = 0
    blank_weight: float = 0.1
    blank_threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blank < 0 or not 0 <= self.blank_weight <= 1:
            raise LimbeckError(
                f"blank must be at least 0 and blank_weight from 0 to 1, got {self.blank} and {self.blank_weight}"
            )
        if self.blank_threshold is not None and not 0 < self.blank_threshold <= 1:
            raise LimbeckError(f"blank_threshold must be above 0 and at most 1, got {self.blank_threshold}")
