"""What two processes gather, checked against what each of them can work out by itself: python gathers.py, in each."""

import torch
import torch.distributed as dist

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.distiller import gather_context
from limbeck.losses import CRDLoss
from limbeck.training import init_processes
from limbeck.utils.all_gather import all_gather, gather_sizes, get_rank, get_world_size, single_process

SIZES = (3, 5)


def numbers(rank, *shape, dtype=torch.float32):
    draw = torch.Generator().manual_seed(rank)
    return (10 * torch.randn(SIZES[rank], *shape, generator=draw)).to(dtype)


def tensors():
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool):
        for shape in ((), (4,), (2, 3)):
            whole = torch.cat([numbers(rank, *shape, dtype=dtype) for rank in range(2)])
            assert torch.equal(all_gather(numbers(dist.get_rank(), *shape, dtype=dtype)), whole), (dtype, shape)
    scattered = numbers(dist.get_rank(), 4, 6).transpose(1, 2)
    assert torch.equal(all_gather(scattered)[: SIZES[0]], numbers(0, 4, 6).transpose(1, 2))
    assert all_gather(torch.zeros(0, 3)).shape == (0, 3)


def gradients(dtype):
    """Each process has a loss of its own on the whole: its rows get the sum of what both ask."""
    rank = dist.get_rank()
    own = numbers(rank, 2).to(dtype).requires_grad_()
    factors = [torch.arange(1.0, 17.0).reshape(8, 2) * (1 + other) for other in range(2)]
    (all_gather(own).float() * factors[rank]).sum().backward()
    first = sum(SIZES[:rank])
    assert torch.equal(own.grad.float(), sum(factors)[first : first + SIZES[rank]])


def numbering():
    rank = dist.get_rank()
    assert (get_world_size(), get_rank(), gather_sizes([rank, 7])) == (2, rank, [[0, 7], [1, 7]])
    with single_process():
        assert (get_world_size(), get_rank(), gather_sizes([rank, 7])) == (1, 0, [[rank, 7]])
        assert len(all_gather(torch.zeros(SIZES[rank]))) == SIZES[rank]
    assert get_world_size() == 2


def exchanges():
    """Rows that belong to samples, of which the first has none; a teacher that left one out in the second process."""
    rank = dist.get_rank()
    batch = SIZES[rank]
    sample = torch.arange(1, batch).repeat_interleave(2)
    student = Outputs(
        logits=numbers(rank, 2)[:1].expand(len(sample), 2) + rank, row_to_sample=sample, embedding=numbers(rank, 4),
        features={"mid": numbers(rank, 2, 2)}, extra={"own loss": torch.tensor(float(rank))},
    )  # fmt: skip
    present = None if rank == 0 else torch.tensor([True, True, False, True, True])
    teacher = Outputs(
        logits=student.logits + 1, row_to_sample=sample, valid=present, features={"mid": numbers(rank, 3)}
    )
    said = LossContext(
        student=student, teachers={"big": teacher}, teacher=teacher, target=sample + 10 * rank,
        sample_ids=torch.arange(batch) + 10 * rank,
    )  # fmt: skip
    whole = gather_context(said)
    assert whole.teacher is whole.teachers["big"]
    assert whole.student.row_to_sample.tolist() == [1, 1, 2, 2, 4, 4, 5, 5, 6, 6, 7, 7]
    assert whole.teacher.valid.tolist() == [True] * 5 + [False] + [True] * 2
    assert whole.target.tolist() == [1, 1, 2, 2, *(n for one in range(11, 15) for n in (one, one))]
    assert whole.sample_ids.tolist() == [0, 1, 2, 10, 11, 12, 13, 14]
    assert whole.require_sample_ids("big").tolist() == [0, 1, 2, 10, 11, 13, 14]
    assert torch.equal(whole.student.feature("mid"), torch.cat([numbers(other, 2, 2) for other in range(2)]))
    assert torch.equal(whole.student.embedding, torch.cat([numbers(other, 4) for other in range(2)]))
    assert whole.student.extra["own loss"] == 0.5
    ours, theirs = whole.pair("big")
    assert len(ours.require_logits()) == len(theirs.require_logits()) == 10
    assert len(ours.feature("mid")) == len(theirs.feature("mid")) == 7
    nobody = gather_context(LossContext(student=Outputs(logits=numbers(rank, 3))))
    assert (nobody.teacher, nobody.target, nobody.student.valid, len(nobody.student.require_logits())) == (
        None,
        None,
        None,
        8,
    )


def banks():
    """A contrast on shares remembers the samples of all, so that its banks stay the same everywhere."""
    rank = dist.get_rank()
    features = Outputs(features={"mid": numbers(rank, 4)})
    said = LossContext(student=features, teacher=features, sample_ids=torch.arange(SIZES[rank]) + 2 * rank)
    torch.manual_seed(0)
    term = CRDLoss("mid", bank_size=8, embedding_dim=2)
    term.prepare(said)
    for _ in range(2):
        term(said)
    assert term.sample_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, -1]
    for bank in (term.student_bank, term.teacher_bank):
        ours, theirs = all_gather(bank).split(len(bank))
        assert torch.equal(ours, theirs)


def main():
    init_processes()
    tensors()
    for dtype in (torch.float32, torch.float16):
        gradients(dtype)
    numbering()
    exchanges()
    banks()


if __name__ == "__main__":
    main()
