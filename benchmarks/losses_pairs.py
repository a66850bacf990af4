"""The methods of limbeck.losses that torchdistill 1.1.5 has too, on the same tensors; losses_sides.py measures them.

Shapes are those of ResNets on CIFAR: a batch of 64, logits of 100 classes (and 128 of 1,000), maps of the second and
third stage, an embedding of 256.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import losses_papers as papers
import torch
from torch import Tensor, nn
from torchdistill.losses import mid_level
from torchdistill.models.wrapper import Normalizer4CRD

from limbeck import losses
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress


@dataclass(frozen=True)
class Pair:
    """One method in both libraries.

    Attributes:
        ours: limbeck's loss.
        theirs: torchdistill's loss of the same tensors.
        paper: the expected value of ``ours``, in NumPy.
        learned: tensors that get a gradient.
        their_paper: the expected value of ``theirs``, in NumPy, where its form differs; ``None`` means equal to ours.
        why: how its form differs.
    """

    ours: Callable[[], Tensor]
    theirs: Callable[[], Tensor]
    paper: Callable[[], float]
    learned: tuple[Tensor, ...]
    their_paper: Callable[[], float] | None = None
    why: str = ""


def pairs() -> dict[str, tuple[Callable[..., Pair], tuple[int, ...]]]:
    """The builder of each pair and its shape, by the name of its row."""
    return {
        "kd": (kd, (64, 100)),
        "kd_1000": (kd, (128, 1000)),
        "logit_standardization": (logit_standardization, (64, 100)),
        "logit_standardization_1000": (logit_standardization, (128, 1000)),
        "dist": (dist, (64, 100)),
        "dist_1000": (dist, (128, 1000)),
        "fitnet": (fitnet, (64, 64, 8, 8)),
        "attention_transfer": (attention_transfer, (64, 32, 16, 16)),
        "attention_transfer_last": (attention_transfer, (64, 64, 8, 8)),
        "ft": (ft, (64, 32, 8, 8)),
        "ab": (ab, (64, 64, 8, 8)),
        "vid": (vid, (64, 64, 8, 8)),
        "reviewkd": (reviewkd, (64, 64, 8, 8)),
        "fsp": (fsp, (64, 16, 32, 32)),
        "sp": (sp, (64, 64, 8, 8)),
        "rkd_distance": (rkd_distance, (64, 256)),
        "rkd_angle": (rkd_angle, (64, 256)),
        "cc": (cc, (64, 256)),
        "pkt": (pkt, (64, 256)),
        "crd": (crd, (64, 256)),
    }


def kd(*shape: int) -> Pair:
    student, teacher = logits(*shape)
    loss = mid_level.KDLoss(**PATHS, temperature=4.0, alpha=0)
    return Pair(
        lambda: losses.kd_loss(student, teacher, temperature=4.0), call_on(loss, student, teacher),
        lambda: papers.kd(*arrays(student, teacher), temperature=4.0), (student,),
        lambda: papers.kd(*arrays(student, teacher), temperature=4.0) / 16,
        "without its hard loss (alpha 0) KDLoss omits τ²; with one it includes it",
    )  # fmt: skip


def logit_standardization(*shape: int) -> Pair:
    student, teacher = logits(*shape)
    loss = mid_level.LogitStdKDLoss(**PATHS, temperature=2.0, alpha=0)
    return Pair(
        lambda: losses.kd_loss(losses.temperature.standardize_logits(student),
        losses.temperature.standardize_logits(teacher), temperature=2.0),
        call_on(loss, student, teacher),
        lambda: papers.logit_standardization(*arrays(student, teacher), temperature=2.0),
        (student,),
        lambda: papers.logit_standardization(*arrays(student, teacher), temperature=2.0) / 4,
        "without its hard loss (alpha 0) LogitStdKDLoss omits τ²; with one it includes it",
    )  # fmt: skip


def dist(*shape: int) -> Pair:
    student, teacher = logits(*shape)
    loss = mid_level.DISTLoss(**PATHS, beta=2.0, gamma=2.0, tau=4.0)
    return Pair(
        lambda: losses.dist_loss(student, teacher, beta=2.0, gamma=2.0, temperature=4.0),
        call_on(loss, student, teacher),
        lambda: papers.dist(*arrays(student, teacher), beta=2.0, gamma=2.0, temperature=4.0), (student,),
    )  # fmt: skip


def fitnet(*shape: int) -> Pair:
    student, teacher = maps(*shape)
    node = {"is_from_teacher": False, "module_path": "at", "io": "output"}
    loss = mid_level.SimpleLossWrapper(nn.MSELoss(), input=node, target=node | {"is_from_teacher": True})
    student_io, teacher_io = make_io(student), make_io(teacher)
    return Pair(
        lambda: losses.fitnet_loss(student, teacher), lambda: loss(student_io, teacher_io, None),
        lambda: papers.mean_squared(*arrays(student, teacher)), (student,),
    )  # fmt: skip


def attention_transfer(*shape: int) -> Pair:
    student, teacher = maps(*shape)
    loss = mid_level.ATLoss({"one": BOTH_PATHS})
    return Pair(
        lambda: losses.attention_transfer_loss(student, teacher), call_on(loss, student, teacher),
        lambda: papers.attention_transfer(*arrays(student, teacher)), (student,),
    )  # fmt: skip


def ft(*shape: int) -> Pair:
    student, teacher = maps(*shape)
    loss = mid_level.FTLoss(paraphraser_path="at", translator_path="at")
    return Pair(
        lambda: losses.ft_loss(student, teacher), call_on(loss, student, teacher),
        lambda: papers.ft(*arrays(student, teacher)), (student,),
        lambda: papers.their_ft(*arrays(student, teacher)),
        "FTLoss compares complete factors of length 1, as the paper; ft_loss their maps of mean f², as the code for "
        "which the usual weight was chosen",
    )  # fmt: skip


def ab(*shape: int) -> Pair:
    student, teacher = normal(*shape), normal(*shape).detach()
    loss = mid_level.AltActTransferLoss({"one": BOTH_PATHS}, margin=1.0, reduction="mean")
    size = student[0].numel()
    return Pair(
        lambda: losses.ab_loss(student, teacher), call_on(loss, student, teacher),
        lambda: papers.ab(*arrays(student, teacher)), (student,),
        lambda: papers.ab(*arrays(student, teacher)) * size,
        "AltActTransferLoss is a sum over neurons; ab_loss is their mean",
    )  # fmt: skip


def vid(*shape: int) -> Pair:
    student, teacher = maps(*shape)
    variance = torch.linspace(0.5, 5.0, shape[1]).requires_grad_()
    loss = mid_level.VIDLoss({"one": BOTH_PATHS})
    teacher_io = make_io(teacher)
    return Pair(
        lambda: losses.vid_loss(student, teacher, variance=variance),
        lambda: loss({"at": {"output": (student, variance.view(1, -1, 1, 1))}}, teacher_io),
        lambda: papers.vid(*arrays(student, teacher, variance)), (student, variance),
    )  # fmt: skip


def reviewkd(*shape: int) -> Pair:
    student, teacher = maps(*shape)
    loss, teacher_io = mid_level.HierarchicalContextLoss(**PATHS), make_io(teacher)
    return Pair(
        lambda: losses.reviewkd_loss([student], [teacher]),
        lambda: loss({"at": {"output": (student, None)}}, teacher_io),
        lambda: papers.reviewkd(*arrays(student, teacher)), (student,),
    )  # fmt: skip


def fsp(batch: int, channels: int, height: int, width: int) -> Pair:
    """The later layer has twice the channels, and maps of half the height and width."""
    student_first, teacher_first = maps(batch, channels, height, width)
    student_last, teacher_last = maps(batch, 2 * channels, height // 2, width // 2)
    named = {
        f"{side}_{position}": {"path": position, "io": "output"}
        for side in ("student", "teacher") for position in ("first", "second")
    }  # fmt: skip
    loss = mid_level.FSPLoss({"one": named})
    student_io, teacher_io = (
        {"first": {"output": first}, "second": {"output": last}}
        for first, last in ((student_first, student_last), (teacher_first, teacher_last))
    )
    inputs = arrays(student_first, student_last), arrays(teacher_first, teacher_last)
    return Pair(
        lambda: losses.fsp_loss((student_first, student_last), (teacher_first, teacher_last)),
        lambda: loss(student_io, teacher_io),
        lambda: papers.fsp(*inputs), (student_first, student_last), lambda: papers.their_fsp(*inputs),
        "FSPLoss sums the lengths of the matrix's columns, where the paper sums its squares and fsp_loss takes their "
        "mean; it max-pools, as the paper, and fsp_loss averages",
    )  # fmt: skip


def sp(*shape: int) -> Pair:
    student, teacher = maps(*shape)
    loss = mid_level.SPKDLoss("at", "at", "batchmean")
    return Pair(
        lambda: losses.sp_loss(student, teacher), call_on(loss, student, teacher),
        lambda: papers.sp(*arrays(student, teacher)), (student,),
        lambda: papers.their_sp(*arrays(student, teacher)),
        "SPKDLoss calls normalize(rows, 1), which is the norm of p = 1; the paper's rows have the Euclidean length 1",
    )  # fmt: skip


def rkd_distance(*shape: int) -> Pair:
    student, teacher = maps(*shape)
    loss = mid_level.RKDLoss("at", "at", dist_factor=1.0, angle_factor=0.0, reduction="mean")
    return Pair(
        lambda: losses.rkd_distance_loss(student, teacher), call_on(loss, student, teacher),
        lambda: papers.rkd_distance(*arrays(student, teacher)), (student,),
    )  # fmt: skip


def rkd_angle(*shape: int) -> Pair:
    student, teacher = maps(*shape)
    loss = mid_level.RKDLoss("at", "at", dist_factor=0.0, angle_factor=1.0, reduction="mean")
    return Pair(
        lambda: losses.rkd_angle_loss(student, teacher), call_on(loss, student, teacher),
        lambda: papers.rkd_angle(*arrays(student, teacher)), (student,),
    )  # fmt: skip


def cc(*shape: int) -> Pair:
    student, teacher = (nn.functional.normalize(features.detach(), dim=1) for features in maps(*shape))
    student.requires_grad_()
    loss = mid_level.CCKDLoss("at", "at", {"type": "gaussian", "gamma": 0.4, "max_p": 2}, "batchmean")
    return Pair(
        lambda: losses.cc_loss(student, teacher, gamma=0.4), call_on(loss, student, teacher),
        lambda: papers.cc(*arrays(student, teacher), gamma=0.4), (student,),
        lambda: papers.their_cc(*arrays(student, teacher), gamma=0.4, order=2),
        "CCKDLoss divides the root of the sum of squares by batch², where the paper has the sum itself; it expands "
        "the kernel to second order, where cc_loss is exact; and it does not normalize features, where "
        "cc_loss normalizes them to length 1",
    )  # fmt: skip


def pkt(*shape: int) -> Pair:
    student, teacher = maps(*shape)
    loss = mid_level.PKTLoss(**PATHS)
    return Pair(
        lambda: losses.pkt_loss(student, teacher), call_on(loss, student, teacher),
        lambda: papers.pkt(*arrays(student, teacher)), (student,),
    )  # fmt: skip


def crd(rows: int, width: int) -> Pair:
    """Both with learned embeddings and bank updates, from the same state and with the same negatives."""
    bank_size = 4096
    student, teacher = maps(rows, width)
    index = torch.arange(rows)
    ours = losses.CRDLoss("mid", bank_size=bank_size)
    context = LossContext(
        student=Outputs(features={"mid": student}), teachers={"one": Outputs(features={"mid": teacher})},
        teacher=Outputs(features={"mid": teacher}), sample_ids=index, progress=Progress(step=1, steps=4),
    )  # fmt: skip
    ours.prepare(context)
    loss = mid_level.CRDLoss("student", "empty", "teacher", 128, bank_size, bank_size - 1, bank_size)
    with torch.no_grad():
        for bank, their_bank in ((ours.student_bank, loss.memory_v1), (ours.teacher_bank, loss.memory_v2)):
            their_bank.copy_(bank.copy_(nn.functional.normalize(their_bank, dim=1)))
    ours.sample_ids.copy_(torch.arange(bank_size))
    embeddings = {name: Normalizer4CRD(ours.embed[name]) for name in ("student", "teacher")}
    # Sampling of negatives raises AttributeError in 1.1.5 (`self.prob`), so all of the bank is passed.
    negatives = torch.arange(bank_size).expand(rows, -1)
    negatives = torch.cat([index[:, None], negatives[negatives != index[:, None]].view(rows, -1)], dim=1)
    empty = {"input": {"pos_idx": index, "contrast_idx": negatives}}

    def theirs() -> Tensor:
        student_io = {"student": {"output": embeddings["student"](student)}, "empty": empty}
        return loss(student_io, {"teacher": {"output": embeddings["teacher"](teacher)}}).sum()

    with torch.no_grad():
        inputs = arrays(embeddings["student"](student), embeddings["teacher"](teacher), loss.memory_v1, loss.memory_v2)
    return Pair(
        lambda: ours(context), theirs, lambda: papers.crd(*inputs, momentum=0.5),
        (student, *ours.parameters()), lambda: papers.their_crd(*inputs),
        "CRDLoss pairs an embedding with the bank's older one of the same sample, as the paper's code, and keeps the "
        "normalizer of the first batch; crd_loss pairs both of this batch and computes the normalizer for each batch",
    )  # fmt: skip


PATHS = {
    "student_module_path": "at", "student_module_io": "output", "teacher_module_path": "at",
    "teacher_module_io": "output",
}  # fmt: skip
BOTH_PATHS = {side: {"path": "at", "io": "output"} for side in ("student", "teacher")}


def call_on(loss: nn.Module, student: Tensor, teacher: Tensor) -> Callable[[], Tensor]:
    student_io, teacher_io = make_io(student), make_io(teacher)
    return lambda: loss(student_io, teacher_io)


def make_io(tensor: Tensor) -> dict:
    """The input that torchdistill's hooks pass to a loss."""
    return {"at": {"output": tensor}}


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def logits(*shape: int) -> tuple[Tensor, Tensor]:
    return (3 * torch.randn(*shape)).requires_grad_(), 3 * torch.randn(*shape)


def maps(*shape: int) -> tuple[Tensor, Tensor]:
    """Features after a ReLU."""
    return torch.randn(*shape).relu().requires_grad_(), torch.randn(*shape).relu()


def arrays(*tensors: Tensor) -> tuple:
    """Copies in float64, since banks are updated in place."""
    return tuple(tensor.detach().double().numpy().copy() for tensor in tensors)
