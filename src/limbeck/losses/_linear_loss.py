"""Cross-entropy and divergences of logits that are never held for all rows.

A chunk of rows at a time, the logits are computed, and the gradient in the logits overwrites them; its products with
the weight of the head and the hidden states are added up in the forward pass, so that the backward pass only scales the
sums. The four products of a plain step (student, teacher, and two of the gradient) are computed once each. Within a
chunk, the operations on single logits run over blocks of rows that fit into the cache of a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.losses._linear import ChunkedLogits, LinearLogits, TeacherLogits, TopKLogits, require_chunks
from limbeck.losses._linear_blocks import (
    Divergence,
    cross_entropy_block,
    divergence_block,
    divergence_fn,
    shift,
    top_k_block,
)
from limbeck.losses._logits import TemperatureValue, broadcast_temperature
from limbeck.losses._ops import IGNORE_INDEX

_BLOCK_ELEMENTS: Final = 2**24
_BLOCK_ELEMENTS_CPU: Final = 2**18
"""Logits of a block, on a CPU for each thread: a megabyte in float32."""
_SLICE_CLASSES: Final = 2**14
"""Classes of which the gradient of a weight is added at once where products are in half precision."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLossOptions:
    """What :func:`linear_loss` computes.

    Attributes:
        teacher: logits of the teacher, or ``None``.
        target: ``[rows]`` class indices (−100: no label), or ``None``.
        divergence: of the teacher's and the student's softmax.
        beta: the teacher's weight in the mixture of ``jsd``.
        temperature: a number, or ``[rows]``.
        teacher_weight: factor of the divergence.
        target_weight: factor of the cross-entropy.
        label_smoothing: weight of the uniform distribution in the target.
        row_weights: ``[rows]`` numbers or booleans, factors of each row; ``None``: all are 1.
        num_rows: divisor of the divergence; ``None``: all rows, of booleans the true ones.
        num_labeled: divisor of the cross-entropy; ``None``: those with a label.
        num_classes: classes from this index on are padding; ``None``: none is, and both heads have equally many.
        chunk_rows: rows of a chunk; ``None``: by the number of classes.
    """

    teacher: TeacherLogits | None = None
    target: Tensor | None = None
    divergence: Divergence = "kl"
    beta: float = 0.5
    temperature: TemperatureValue = 1.0
    teacher_weight: float = 1.0
    target_weight: float = 1.0
    label_smoothing: float = 0.0
    row_weights: Tensor | None = None
    num_rows: float | Tensor | None = None
    num_labeled: float | Tensor | None = None
    num_classes: int | None = None
    chunk_rows: int | None = None


def linear_loss(student: LinearLogits, options: LinearLossOptions) -> Tensor:
    """Cross-entropy with the target, divergence from the teacher, or their weighted sum: a scalar, at least float32.

    Raises:
        LimbeckError: shapes, labels or settings that do not fit each other; in the backward pass, a second derivative.
    """
    with torch.no_grad():
        job = _Job(student, options)
    if not torch.is_grad_enabled():
        return job.run(_Needs(hidden=False, weight=False, bias=False)).total
    total: Tensor = _LinearLoss.apply(student.hidden, student.weight, student.bias, job)
    return total


class _Needs(NamedTuple):
    """Which gradients are computed."""

    hidden: bool
    weight: bool
    bias: bool


class _Result(NamedTuple):
    """A loss, and its gradients in the student's hidden states, weight and bias, those that are needed."""

    total: Tensor
    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


class _LinearLoss(torch.autograd.Function):
    """The loss, whose gradients are computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> Tensor:
        total, *gradients = job.run(_Needs(*ctx.needs_input_grad[:3]))
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        # A product with 1 is left out, since it copies the gradient of the weight; to read it would stop a GPU.
        if grad_output.device.type != "cpu" or grad_output.item() != 1:
            gradients = [None if gradient is None else gradient * grad_output.to(gradient) for gradient in gradients]
        if torch.is_grad_enabled():  # create_graph=True
            anchor = torch.zeros((), requires_grad=True)
            gradients = [None if gradient is None else _Constant.apply(gradient, anchor) for gradient in gradients]
        return (*gradients, None)


class _Constant(torch.autograd.Function):
    """The identity, whose derivative is an error."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, anchor: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise LimbeckError(
            "a loss on hidden states and a head has no second derivative: use a loss on logits, such as KDLoss"
        )


@final
class _Job:
    """The inputs of one loss, checked and in the dtype of the computation."""

    def __init__(self, student: LinearLogits, options: LinearLossOptions) -> None:
        _refuse_sharded(student.weight)
        require_chunks(options.num_classes, options.chunk_rows)
        num_rows, num_classes = len(student), _common_classes(student, options)
        self.full, self.options = student, options
        self.student = ChunkedLogits(student, num_classes)
        weights = self.student.new_empty(num_rows).fill_(1.0)
        is_row = torch.ones_like(weights, dtype=torch.bool)
        if options.row_weights is not None:
            if options.row_weights.shape != weights.shape:
                raise LimbeckError(f"row_weights must be [{num_rows}], got {list(options.row_weights.shape)}")
            weights = options.row_weights.detach().to(weights)
            is_row = options.row_weights if options.row_weights.dtype == torch.bool else is_row
        self.target: Tensor | None = None
        self.target_factors, self.teacher_factors = weights[:, None], weights[:, None]
        if options.target is not None:
            is_labeled = _labeled_rows(options.target, num_rows, num_classes)
            self.target = options.target.clamp(min=0).long()[:, None]
            self.target_factors = _row_factors(weights, is_row & is_labeled, options.target_weight, options.num_labeled)
        self.temperature = broadcast_temperature(options.temperature, weights)
        if isinstance(options.temperature, Tensor) and options.temperature.requires_grad:
            raise LimbeckError("the temperature of a loss on hidden states must have no gradient: detach it")
        if isinstance(self.temperature, Tensor):
            self.temperature = self.temperature.expand(num_rows, 1)
        self.teacher = _prepare_teacher(options, weights, num_classes)
        if self.teacher is not None:
            factors = _row_factors(weights, is_row, options.teacher_weight, options.num_rows)
            self.teacher_factors = factors * self.temperature**2
        self.divergence_fn = divergence_fn(options.divergence, beta=options.beta)

    def run(self, needs: _Needs) -> _Result:
        """The loss and its gradients."""
        student, full = self.student, self.full
        hidden_grad = torch.empty_like(student.hidden) if needs.hidden else None
        weight_grad = student.new_empty(*full.weight.shape).zero_() if needs.weight else None
        bias_grad = student.new_empty(len(full.weight)).zero_() if needs.bias else None
        total = student.new_empty().zero_()
        with torch.autocast(student.hidden.device.type, enabled=False):
            for rows in student.chunks(self.options.chunk_rows):
                logits = student.compute(rows)
                teacher = self.teacher.compute(rows) if isinstance(self.teacher, ChunkedLogits) else None
                for block in _blocks(logits):
                    block_rows = slice(rows.start + block.start, rows.start + block.stop)
                    teacher_block = None if teacher is None else teacher[block]
                    total += self._compute_block(logits[block], teacher_block, block_rows, has_grad=any(needs))
                if hidden_grad is not None:
                    torch.mm(logits, student.weight, out=hidden_grad[rows])
                if weight_grad is not None:
                    _add_product(weight_grad[: student.num_classes], logits, student.hidden[rows])
                if bias_grad is not None:
                    bias_grad[: student.num_classes] += logits.sum(dim=0, dtype=bias_grad.dtype)
        return _Result(
            total,
            None if hidden_grad is None else hidden_grad.to(full.hidden.dtype),
            None if weight_grad is None else weight_grad.to(full.weight.dtype),
            None if bias_grad is None or full.bias is None else bias_grad.to(full.bias.dtype),
        )

    def _compute_block(self, logits: Tensor, teacher: Tensor | None, rows: slice, *, has_grad: bool) -> Tensor:
        """The loss of a block of rows; its gradient overwrites ``logits``."""
        wide = self.target_factors.dtype
        lowest, total = torch.finfo(wide).min, logits.new_zeros((), dtype=wide)
        shifted, gradient = shift(logits, wide), None
        if self.target is not None:
            factors = self.target_factors[rows]
            by_row, gradient = cross_entropy_block(shifted, self.target[rows], factors, self.options.label_smoothing)
            total += _weighted_sum(by_row, factors)
        if self.teacher is not None:
            factors = self.teacher_factors[rows]
            tau = self.temperature[rows] if isinstance(self.temperature, Tensor) else self.temperature
            scaled = shifted.div_(tau).clamp_(min=lowest)
            if isinstance(self.teacher, _TopK):
                log_p, classes = self.teacher.log_p[rows], self.teacher.classes[rows]
                by_row, slope = top_k_block(scaled, log_p, classes, factors / tau, self.divergence_fn)
            else:
                assert teacher is not None
                scaled_teacher = shift(teacher, wide).div_(tau).clamp_(min=lowest)
                by_row, slope = divergence_block(scaled, scaled_teacher, factors / tau, self.divergence_fn)
            total += _weighted_sum(by_row, factors)
            gradient = slope if gradient is None else gradient.add_(slope)
        if has_grad and gradient is not None:
            logits.copy_(gradient)
        return total


class _TopK(NamedTuple):
    """The largest logits of a teacher as logarithms of probabilities, that of the rest last, and their classes."""

    log_p: Tensor
    classes: Tensor


def _prepare_teacher(options: LinearLossOptions, weights: Tensor, num_classes: int) -> ChunkedLogits | _TopK | None:
    teacher = options.teacher
    if teacher is None:
        return None
    if len(teacher) != len(weights):
        raise LimbeckError(
            f"student and teacher must have the same rows, got {len(weights)} and {len(teacher)}: flatten both alike"
        )
    if not isinstance(teacher, TopKLogits):
        return ChunkedLogits(teacher, num_classes)
    temperature = options.temperature
    if isinstance(temperature, Tensor) or not math.isclose(temperature, teacher.temperature, rel_tol=1e-6):
        raise LimbeckError(
            f"the temperature must be that of the teacher's log_normalizer, {teacher.temperature:g}, got "
            f"{temperature}: compute TopKLogits at the temperature of the loss"
        )
    _require_classes("classes of TopKLogits", teacher.classes, num_classes)
    precision = torch.finfo(weights.dtype)
    log_p = (
        teacher.values.detach().to(weights) / teacher.temperature - teacher.log_normalizer.detach().to(weights)[:, None]
    )
    if log_p.shape[1] < num_classes:
        # By rounding, the largest may sum to 1 or more.
        top = log_p.logsumexp(dim=1, keepdim=True).clamp(max=-precision.eps)
        log_p = torch.cat([log_p, top.expm1().neg().log()], dim=1)
    return _TopK(log_p.clamp(min=precision.min), teacher.classes.long())


def _common_classes(student: LinearLogits, options: LinearLossOptions) -> int:
    """The number of classes of both; an error where they differ and ``num_classes`` is not set."""
    if options.num_classes is not None:
        return options.num_classes
    classes, teacher = student.shape[1], options.teacher
    if teacher is not None and not isinstance(teacher, TopKLogits) and teacher.shape[1] != classes:
        raise LimbeckError(
            f"the student's head has {classes} classes and the teacher's {teacher.shape[1]}: where the further ones "
            f"are padding of one vocabulary, set num_classes, at most {min(classes, teacher.shape[1])}"
        )
    return classes


def _labeled_rows(target: Tensor, num_rows: int, num_classes: int) -> Tensor:
    """``[rows]`` booleans, false where a row has no label."""
    if target.shape != (num_rows,) or target.is_floating_point():
        raise LimbeckError(
            f"the target of {num_rows} rows must be [{num_rows}] class indices, got {list(target.shape)} of "
            f"{target.dtype}"
        )
    is_labeled = target != IGNORE_INDEX
    _require_classes("labels", target[is_labeled], num_classes)
    return is_labeled


def _require_classes(name: str, classes: Tensor, num_classes: int) -> None:
    if not classes.numel():
        return
    low, high = (int(end) for end in classes.aminmax())
    if low < 0 or high >= num_classes:
        raise LimbeckError(f"{name} must be from 0 to {num_classes - 1}, got {low} to {high}")


def _row_factors(weights: Tensor, is_row: Tensor, weight: float, num_rows: float | Tensor | None) -> Tensor:
    """The factor of each row, ``[rows, 1]``: ``weights · weight / num_rows``, and 0 where ``is_row`` is false."""
    if isinstance(num_rows, int | float) and not num_rows > 0:
        raise LimbeckError(f"the number of rows that divides a loss must be above zero, got {num_rows}")
    divisor = is_row.sum().clamp(min=1) if num_rows is None else num_rows
    return (weights * is_row * weight / divisor)[:, None]


def _weighted_sum(by_row: Tensor, factors: Tensor) -> Tensor:
    """Σ factor · loss, without rows of factor 0, whose loss may be infinite."""
    return (by_row * factors[:, 0]).masked_fill(factors[:, 0] == 0, 0.0).sum()


def _blocks(logits: Tensor) -> Iterator[slice]:
    """Blocks of rows of a chunk."""
    is_cpu = logits.device.type == "cpu"
    elements = _BLOCK_ELEMENTS_CPU * torch.get_num_threads() if is_cpu else _BLOCK_ELEMENTS
    size = max(1, elements // logits.shape[1])
    for start in range(0, len(logits), size):
        yield slice(start, min(start + size, len(logits)))


def _add_product(weight_grad: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Add ``gradient.T @ hidden`` to ``weight_grad``, which is at least float32."""
    if hidden.dtype == weight_grad.dtype:
        weight_grad.addmm_(gradient.t(), hidden)
        return
    for start in range(0, len(weight_grad), _SLICE_CLASSES):
        classes = slice(start, start + _SLICE_CLASSES)
        weight_grad[classes] += gradient[:, classes].t() @ hidden


def _refuse_sharded(weight: Tensor) -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from torch.distributed.tensor import DTensor

        if isinstance(weight, DTensor):
            raise LimbeckError(
                "the weight of the head must be whole, got one that is sharded over processes: train with ddp, or use "
                "losses on logits"
            )
