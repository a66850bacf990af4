"""The contract of losses as one call: ``check_loss(KDLoss())``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Loss, Preparable
from limbeck.testing.contexts import make_context

__all__ = ["CHECKS", "check_loss"]


def check_loss(
    loss: Loss, *, context_factory: Callable[..., LossContext] = make_context, skip: Collection[str] = ()
) -> None:  # fmt: skip
    """Check the contract of losses; an ``AssertionError`` names the check that fails.

    Args:
        loss: the loss; one with ``prepare`` is prepared first.
        context_factory: makes contexts like :func:`make_context`, with the features that the loss needs
            (``partial(make_context, student_feature_shapes={"mid": (8, 4, 4)})``); takes ``dtype``, ``scale`` and
            ``seed``.
        skip: names in :data:`CHECKS` that do not apply.

    >>> from limbeck.losses import KDLoss
    >>> check_loss(KDLoss(temperature=4.0))
    """
    if unknown := set(skip) - set(CHECKS):
        raise ValueError(f"no promise is named {sorted(unknown)}; there are: {sorted(CHECKS)}")
    if isinstance(loss, Preparable):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss.prepare(context_factory(seed=0))
    for name, check in CHECKS.items():
        if name not in skip:
            try:
                check(loss, context_factory)
            except AssertionError as error:
                raise AssertionError(f"{loss!r} breaks the promise {name!r}: {error}") from None
            except Exception as error:
                message = f"{type(error).__name__}: {error}"
                raise AssertionError(f"{loss!r} breaks the promise {name!r}: it raises {message}") from error


def _check_scalar(loss: Loss, context_factory: Callable[..., LossContext]) -> None:
    value = loss(context_factory(seed=1))
    assert isinstance(value, Tensor), f"it is a {type(value).__name__}, not a tensor"
    assert value.ndim == 0, f"its shape is {list(value.shape)}"


def _check_half_precision(loss: Loss, context_factory: Callable[..., LossContext]) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        context = context_factory(seed=1, dtype=dtype)
        value = loss(context)
        assert value.dtype == torch.float32, f"from {dtype} it gives {value.dtype}"
        # A loss computed in half precision and upcast at the end has the right type and the wrong value.
        _assert_close(
            value, loss(_map_context(context, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor))
        )


def _check_finite(loss: Loss, context_factory: Callable[..., LossContext]) -> None:
    # Attention maps and Gram matrices square their inputs, so 1e4 is the limit for float32.
    for scale in (0.0, 1.0, 1e4):
        context = context_factory(seed=2, scale=scale)
        value = loss(context)
        assert torch.isfinite(value), f"at scale {scale:g} it is {value.item()}"
        gradients = _gradients(value, _outputs_tensors(context.student))
        assert all(g is None or torch.isfinite(g).all() for g in gradients), f"at scale {scale:g} a gradient is not"


def _check_student_gradient(loss: Loss, context_factory: Callable[..., LossContext]) -> None:
    context = context_factory(seed=3)
    gradients = _gradients(loss(context), _outputs_tensors(context.student))
    assert any(g is not None and bool((g != 0).any()) for g in gradients), "no student tensor gets one"
    if isinstance(loss, nn.Module) and list(loss.parameters()):
        value = loss(context_factory(seed=3))
        parameter_gradients = _gradients(value, list(loss.parameters()))
        assert all(g is not None for g in parameter_gradients), "a parameter of the term gets none"


def _check_no_teacher_gradient(loss: Loss, context_factory: Callable[..., LossContext]) -> None:
    context = context_factory(seed=4)
    value = loss(context)
    teachers = [tensor for teacher in context.teachers.values() for tensor in _outputs_tensors(teacher)]
    if teachers:
        gradients = _gradients(value, teachers)
        assert all(g is None or not bool((g != 0).any()) for g in gradients), "a teacher's tensor gets one"


def _check_zero_at_agreement(loss: Loss, context_factory: Callable[..., LossContext]) -> None:
    context = context_factory(seed=5)
    teacher_outputs = context.pair()[1]
    value = loss(
        replace(context, student=teacher_outputs.detach(), teachers=dict.fromkeys(context.teachers, teacher_outputs))
    )
    assert abs(value.item()) < 1e-6, f"it is {value.item():g}"


def _check_repetition_invariance(loss: Loss, context_factory: Callable[..., LossContext]) -> None:
    context = context_factory(seed=6)
    _assert_close(loss(context), loss(_map_context(context, lambda tensor: torch.cat([tensor, tensor]))))


def _check_impossible_class_invariance(loss: Loss, context_factory: Callable[..., LossContext]) -> None:
    context = context_factory(seed=7)
    _assert_close(loss(context), loss(_map_context(context, lambda tensor: tensor, logits_fn=_with_impossible_class)))


CHECKS: Final[dict[str, Callable[[Loss, Callable[..., LossContext]], None]]] = {
    "scalar": _check_scalar,
    "float32 from half": _check_half_precision,
    "finite": _check_finite,
    "gradient to the student": _check_student_gradient,
    "no gradient to the teacher": _check_no_teacher_gradient,
    "zero at agreement": _check_zero_at_agreement,
    "unchanged by repetition": _check_repetition_invariance,
    "unchanged by an impossible class": _check_impossible_class_invariance,
}


def _outputs_tensors(outputs: Outputs) -> list[Tensor]:
    candidates = (outputs.logits, outputs.spatial_logits, outputs.embedding, *outputs.features.values())
    return [tensor for tensor in candidates if tensor is not None]


def _gradients(value: Tensor, tensors: list[Tensor]) -> Sequence[Tensor | None]:
    if not value.requires_grad:
        return [None for _ in tensors]
    return torch.autograd.grad(value, tensors, allow_unused=True)


def _with_impossible_class(logits: Tensor) -> Tensor:
    return torch.cat([logits, logits.new_full((len(logits), 1), -torch.inf)], dim=1)


def _map_context(
    context: LossContext, fn: Callable[[Tensor], Tensor], logits_fn: Callable[[Tensor], Tensor] | None = None
) -> LossContext:  # fmt: skip
    def map_outputs(outputs: Outputs) -> Outputs:
        return replace(
            outputs,
            logits=None if outputs.logits is None else (logits_fn or fn)(outputs.logits),
            spatial_logits=None if outputs.spatial_logits is None else fn(outputs.spatial_logits),
            embedding=None if outputs.embedding is None else fn(outputs.embedding),
            features={name: fn(tensor) for name, tensor in outputs.features.items()},
        )

    return replace(
        context,
        student=map_outputs(context.student),
        teachers={name: map_outputs(teacher) for name, teacher in context.teachers.items()},
        teacher=None if context.teacher is None else map_outputs(context.teacher),
        target=None if context.target is None else fn(context.target),
        sample_ids=None if context.sample_ids is None else fn(context.sample_ids),
    )


def _assert_close(actual: Tensor, expected: Tensor) -> None:
    assert torch.isclose(actual, expected, rtol=1e-5, atol=1e-7), f"{actual.item():g} becomes {expected.item():g}"
