"""Collectives between two processes against local computations: python gathers.py in each process."""

import torch
import torch.distributed as dist

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.distiller import gather_context
from limbeck.losses import CRDLoss
from limbeck.training import init_processes
from limbeck.utils.all_gather import all_gather, gather_sizes, get_rank, get_world_size, single_process

SIZES = (3, 5)


def make_rows(rank, *shape, dtype=torch.float32):
    draw = torch.Generator().manual_seed(rank)
    return (10 * torch.randn(SIZES[rank], *shape, generator=draw)).to(dtype)


def tensors():
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool):
        for shape in ((), (4,), (2, 3)):
            gathered = torch.cat([make_rows(rank, *shape, dtype=dtype) for rank in range(2)])
            assert torch.equal(all_gather(make_rows(dist.get_rank(), *shape, dtype=dtype)), gathered), (dtype, shape)
    scattered = make_rows(dist.get_rank(), 4, 6).transpose(1, 2)
    assert torch.equal(all_gather(scattered)[: SIZES[0]], make_rows(0, 4, 6).transpose(1, 2))
    assert all_gather(torch.zeros(0, 3)).shape == (0, 3)


def gradients(dtype):
    """Each process has its own loss of the gathered rows: the gradient is the sum over processes."""
    rank = dist.get_rank()
    local = make_rows(rank, 2).to(dtype).requires_grad_()
    factors = [torch.arange(1.0, 17.0).reshape(8, 2) * (1 + other) for other in range(2)]
    (all_gather(local).float() * factors[rank]).sum().backward()
    first = sum(SIZES[:rank])
    assert torch.equal(local.grad.float(), sum(factors)[first : first + SIZES[rank]])


def numbering():
    rank = dist.get_rank()
    assert (get_world_size(), get_rank(), gather_sizes([rank, 7])) == (2, rank, [[0, 7], [1, 7]])
    with single_process():
        assert (get_world_size(), get_rank(), gather_sizes([rank, 7])) == (1, 0, [[rank, 7]])
        assert len(all_gather(torch.zeros(SIZES[rank]))) == SIZES[rank]
    assert get_world_size() == 2


def exchanges():
    """Rows of samples, of which the first has none; the teacher of the second process has no output for one sample."""
    rank = dist.get_rank()
    batch = SIZES[rank]
    sample = torch.arange(1, batch).repeat_interleave(2)
    student = Outputs(
        logits=make_rows(rank, 2)[:1].expand(len(sample), 2) + rank, row_to_sample=sample, embedding=make_rows(rank, 4),
        features={"mid": make_rows(rank, 2, 2)}, extra={"own loss": torch.tensor(float(rank))},
    )  # fmt: skip
    present = None if rank == 0 else torch.tensor([True, True, False, True, True])
    teacher = Outputs(
        logits=student.logits + 1, row_to_sample=sample, valid=present, features={"mid": make_rows(rank, 3)}
    )
    context = LossContext(
        student=student, teachers={"big": teacher}, teacher=teacher, target=sample + 10 * rank,
        sample_ids=torch.arange(batch) + 10 * rank,
    )  # fmt: skip
    gathered = gather_context(context)
    assert gathered.teacher is gathered.teachers["big"]
    assert gathered.student.row_to_sample.tolist() == [1, 1, 2, 2, 4, 4, 5, 5, 6, 6, 7, 7]
    assert gathered.teacher.valid.tolist() == [True] * 5 + [False] + [True] * 2
    assert gathered.target.tolist() == [1, 1, 2, 2, *(n for i in range(11, 15) for n in (i, i))]
    assert gathered.sample_ids.tolist() == [0, 1, 2, 10, 11, 12, 13, 14]
    assert gathered.require_sample_ids("big").tolist() == [0, 1, 2, 10, 11, 13, 14]
    assert torch.equal(gathered.student.feature("mid"), torch.cat([make_rows(other, 2, 2) for other in range(2)]))
    assert torch.equal(gathered.student.embedding, torch.cat([make_rows(other, 4) for other in range(2)]))
    assert gathered.student.extra["own loss"] == 0.5
    student_rows, teacher_rows = gathered.pair("big")
    assert len(student_rows.require_logits()) == len(teacher_rows.require_logits()) == 10
    assert len(student_rows.feature("mid")) == len(teacher_rows.feature("mid")) == 7
    unlabeled = gather_context(LossContext(student=Outputs(logits=make_rows(rank, 3))))
    assert (unlabeled.teacher, unlabeled.target, unlabeled.student.valid, len(unlabeled.student.require_logits())) == (
        None,
        None,
        None,
        8,
    )


def rows_without_logits():
    """Hidden states by row, of detached teachers too, without logits to count rows by."""
    rank = dist.get_rank()
    hidden = Outputs(by_row={"hidden": make_rows(rank, 4)}, extra={"head_weight": torch.ones(6, 4)})
    gathered = gather_context(LossContext(student=hidden, target=torch.arange(SIZES[rank])))
    assert torch.equal(gathered.student.by_row["hidden"], torch.cat([make_rows(other, 4) for other in range(2)]))
    assert gathered.student.extra["head_weight"].shape == (6, 4)
    assert gathered.target.tolist() == [0, 1, 2, 0, 1, 2, 3, 4]


def banks():
    """CRD stores the samples of all processes, so that its banks are equal everywhere."""
    rank = dist.get_rank()
    features = Outputs(features={"mid": make_rows(rank, 4)})
    context = LossContext(student=features, teacher=features, sample_ids=torch.arange(SIZES[rank]) + 2 * rank)
    torch.manual_seed(0)
    loss = CRDLoss("mid", bank_size=8, embedding_dim=2)
    loss.prepare(context)
    for _ in range(2):
        loss(context)
    assert loss.sample_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, -1]
    for bank in (loss.student_bank, loss.teacher_bank):
        student_rows, teacher_rows = all_gather(bank).split(len(bank))
        assert torch.equal(student_rows, teacher_rows)


def main():
    init_processes()
    tensors()
    for dtype in (torch.float32, torch.float16):
        gradients(dtype)
    numbering()
    exchanges()
    rows_without_logits()
    banks()


if __name__ == "__main__":
    main()
