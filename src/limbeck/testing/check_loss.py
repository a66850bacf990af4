"""The contract of losses as one call: ``check_loss(KDLoss())``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Loss, Preparable
from limbeck.distiller.function_loss import LossLike, as_loss
from limbeck.testing.contexts import make_context

ContextFactory = Callable[..., LossContext]


def check_loss(
    loss: LossLike, *, context_factory: ContextFactory = make_context,
    skip: Collection[str] = (),
) -> None:  # fmt: skip
    """Check the contract of losses; an ``AssertionError`` names the check that fails.

    Args:
        loss: the loss, or a function of the logits of student and teacher; one with ``prepare`` is prepared first.
        context_factory: makes contexts like :func:`make_context`, with the features that the loss needs
            (``partial(make_context, student_feature_shapes={"mid": (8, 4, 4)})``); takes ``dtype``, ``scale`` and
            ``seed``.
        skip: names in :data:`LOSS_CHECKS` that do not apply.

    >>> from limbeck.losses import KDLoss
    >>> check_loss(KDLoss(temperature=4.0))
    """
    if unknown := set(skip) - set(LOSS_CHECKS):
        raise ValueError(f"no check is named {sorted(unknown)}; available: {sorted(LOSS_CHECKS)}")
    checked: Any = as_loss("loss", loss)
    if isinstance(checked, Preparable):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            checked.prepare(context_factory(seed=0))
    for name, check in LOSS_CHECKS.items():
        if name in skip:
            continue
        try:
            check(checked, context_factory)
        except Exception as error:
            reason = error if isinstance(error, AssertionError) else f"it raises {type(error).__name__}: {error}"
            raise AssertionError(f"{loss!r} fails the check {name!r}: {reason}") from error


def _check_scalar(loss: Loss, context_factory: ContextFactory) -> None:
    value = loss(context_factory(seed=1))
    assert isinstance(value, Tensor), f"it is a {type(value).__name__}, not a tensor"
    assert value.ndim == 0, f"its shape is {list(value.shape)}"


def _check_half_precision(loss: Loss, context_factory: ContextFactory) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        context = context_factory(seed=1, dtype=dtype)
        value = loss(context)
        assert value.dtype == torch.float32, f"from {dtype} it returns {value.dtype}"
        # A loss computed in half precision and upcast at the end has the right type and the wrong value.
        upcast = _map_context(context, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)
        _assert_close(value, loss(upcast))


def _check_finite(loss: Loss, context_factory: ContextFactory) -> None:
    # Attention maps and Gram matrices square their inputs, so 1e4 is the limit for float32.
    for scale in (0.0, 1.0, 1e4):
        context = context_factory(seed=2, scale=scale)
        value = loss(context)
        assert torch.isfinite(value), f"at scale {scale:g} it is {value.item()}"
        gradients = _gradients(value, _tensors(context.student))
        assert all(g is None or torch.isfinite(g).all() for g in gradients), f"at scale {scale:g} a gradient is not"


def _check_student_gradient(loss: Loss, context_factory: ContextFactory) -> None:
    context = context_factory(seed=3)
    assert any(_is_nonzero(g) for g in _gradients(loss(context), _tensors(context.student))), (
        "no tensor of the student has one"
    )
    if isinstance(loss, nn.Module) and (parameters := list(loss.parameters())):
        gradients = _gradients(loss(context_factory(seed=3)), parameters)
        assert all(g is not None for g in gradients), "a parameter of the loss has none"


def _check_no_teacher_gradient(loss: Loss, context_factory: ContextFactory) -> None:
    context = context_factory(seed=4)
    value = loss(context)
    if tensors := [tensor for teacher in context.teachers.values() for tensor in _tensors(teacher)]:
        assert not any(_is_nonzero(g) for g in _gradients(value, tensors)), "a tensor of a teacher has one"


def _check_zero_at_agreement(loss: Loss, context_factory: ContextFactory) -> None:
    context = context_factory(seed=5)
    teacher = context.pair()[1]
    value = loss(replace(context, student=teacher.detach(), teachers=dict.fromkeys(context.teachers, teacher)))
    assert abs(value.item()) < 1e-6, f"it is {value.item():g}"


def _check_repetition_invariance(loss: Loss, context_factory: ContextFactory) -> None:
    def repeat(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor]) if tensor.ndim else tensor

    context = context_factory(seed=6)
    _assert_close(loss(context), loss(_map_context(context, repeat)))


def _check_impossible_class_invariance(loss: Loss, context_factory: ContextFactory) -> None:
    def add_class(outputs: Outputs) -> Outputs:
        if outputs.logits is None:
            return outputs
        impossible = outputs.logits.new_full((len(outputs.logits), 1), -torch.inf)
        return replace(outputs, logits=torch.cat([outputs.logits, impossible], dim=1))

    context = context_factory(seed=7)
    _assert_close(loss(context), loss(_map_outputs(context, add_class)))


LOSS_CHECKS: Final[dict[str, Callable[[Loss, ContextFactory], None]]] = {
    "scalar": _check_scalar,
    "float32 from half": _check_half_precision,
    "finite": _check_finite,
    "gradient to the student": _check_student_gradient,
    "no gradient to the teacher": _check_no_teacher_gradient,
    "zero at agreement": _check_zero_at_agreement,
    "unchanged by repetition": _check_repetition_invariance,
    "unchanged by an impossible class": _check_impossible_class_invariance,
}


def _tensors(outputs: Outputs) -> list[Tensor]:
    """The tensors that may get a gradient."""
    return [*outputs.tensors(), *(tensor for tensor in outputs.by_row.values() if tensor.requires_grad)]


def _gradients(value: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not value.requires_grad:
        return [None for _ in tensors]
    return torch.autograd.grad(value, tensors, allow_unused=True)


def _is_nonzero(gradient: Tensor | None) -> bool:
    return gradient is not None and bool((gradient != 0).any())


def _map_outputs(context: LossContext, fn: Callable[[Outputs], Outputs]) -> LossContext:
    return replace(
        context,
        student=fn(context.student),
        teachers={name: fn(teacher) for name, teacher in context.teachers.items()},
        teacher=None if context.teacher is None else fn(context.teacher),
    )


def _map_context(context: LossContext, fn: Callable[[Tensor], Tensor]) -> LossContext:
    return replace(
        _map_outputs(context, lambda outputs: outputs.map(fn)),
        target=None if context.target is None else fn(context.target),
        sample_targets={name: fn(tensor) for name, tensor in context.sample_targets.items()},
        sample_ids=None if context.sample_ids is None else fn(context.sample_ids),
    )


def _assert_close(actual: Tensor, expected: Tensor) -> None:
    assert torch.isclose(actual, expected, rtol=1e-5, atol=1e-7), f"{actual.item():g} becomes {expected.item():g}"
