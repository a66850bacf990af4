"""KL divergence of relations, in blocks of rows, without a tensor of all pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_BLOCK_ELEMENTS = {"cpu": 2**18}
"""Pairs of a block: on a CPU its few tensors stay in the cache of a core."""
_BLOCK_ELEMENTS_ELSEWHERE = 2**24


def relation_kl(
    student_rows: Tensor, student_set: Tensor, teacher_rows: Tensor, teacher_set: Tensor, temperature: float
) -> Tensor:
    """Sum over rows of KL(teacher ‖ student) between softmaxes of ``rows @ set.T`` / ``temperature``; in nats.

    Shapes: rows ``[n, width]`` and sets ``[m, width]``; the widths of student and teacher may differ. Memory grows with
    n + m, not with n · m: the gradient is computed together with the value. It has no gradient to the teacher, and none
    of second order. Zero without rows, and with an empty set.

    >>> rows, both = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]).sqrt()
    >>> relation_kl(rows, torch.eye(2), both, torch.eye(2), 1.0)
    tensor(0.1201)
    """
    total: Tensor = _RelationKL.apply(
        student_rows, student_set, teacher_rows, teacher_set, temperature, torch.is_grad_enabled()
    )
    return total


class _RelationKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows_s: Tensor, set_s: Tensor, rows_t: Tensor, set_t: Tensor, temperature: float, with_grad: bool
    ) -> Tensor:
        needs_rows, needs_set = (needed and with_grad for needed in ctx.needs_input_grad[:2])
        grad_rows = torch.zeros_like(rows_s) if needs_rows else None
        grad_set = torch.zeros_like(set_s) if needs_set else None
        total, num_set = rows_s.new_zeros(()), len(set_s)
        limit = _BLOCK_ELEMENTS.get(rows_s.device.type, _BLOCK_ELEMENTS_ELSEWHERE)
        size = max(limit // max(num_set, 1), 1)
        for start in range(0, len(rows_s) if num_set else 0, size):
            block = slice(start, start + size)
            by_row, probabilities_s, probabilities_t = _block_kl(
                (rows_s[block] / temperature) @ set_s.T, (rows_t[block] / temperature) @ set_t.T
            )
            total += by_row.sum()
            difference = probabilities_s.sub_(probabilities_t)  # the gradient of the student's cosines, times τ
            if grad_rows is not None:
                grad_rows[block] = difference @ set_s / temperature
            if grad_set is not None:
                grad_set += difference.T @ (rows_s[block] / temperature)
        ctx.save_for_backward(grad_rows, grad_set)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        grad_rows, grad_set = ctx.saved_tensors
        scaled = (None if saved is None else gradient * saved for saved in (grad_rows, grad_set))
        return *scaled, None, None, None, None


def _block_kl(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL(teacher ‖ student) of each row of logits, ``[rows]``, and both softmaxes; the logits are overwritten."""
    student.sub_(student.amax(dim=1, keepdim=True))
    teacher.sub_(teacher.amax(dim=1, keepdim=True))
    q, p = student.exp(), teacher.exp()
    sum_q, sum_p = q.sum(dim=1, keepdim=True), p.sum(dim=1, keepdim=True)
    q.div_(sum_q)
    p.div_(sum_p)
    difference = teacher.sub_(student)
    return torch.linalg.vecdot(p, difference) + (sum_q.log() - sum_p.log()).squeeze(1), q, p
