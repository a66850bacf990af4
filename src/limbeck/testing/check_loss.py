"""What every term promises, as one call: ``check_term(SoftTarget())``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from limbeck.core.loss_context import Exchange
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Preparable, Term
from limbeck.testing.contexts import make_exchange

__all__ = ["CLAIMS", "check_term"]


def check_term(
    term: Term, *, make: Callable[..., Exchange] = make_exchange, without: Collection[str] = ()
) -> None:  # fmt: skip
    """Check that ``term`` keeps what terms promise; an ``AssertionError`` names the promise that is broken.

    Arguments:
        term: the term; one that learns is prepared first.
        make: makes exchanges like :func:`make_exchange`, with the taps that the term needs
            (``partial(make_exchange, student_taps={"mid": (8, 4, 4)})``); takes ``dtype``, ``scale`` and ``seed``.
        without: promises of :data:`CLAIMS` that this term does not make.

    >>> from limbeck.losses import SoftTarget
    >>> check_term(SoftTarget(tau=4.0))
    """
    if unknown := set(without) - set(CLAIMS):
        raise ValueError(f"no promise is named {sorted(unknown)}; there are: {sorted(CLAIMS)}")
    if isinstance(term, Preparable):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            term.prepare(make(seed=0))
    for claim, check in CLAIMS.items():
        if claim not in without:
            try:
                check(term, make)
            except AssertionError as error:
                raise AssertionError(f"{term!r} breaks the promise {claim!r}: {error}") from None
            except Exception as error:
                words = f"{type(error).__name__}: {error}"
                raise AssertionError(f"{term!r} breaks the promise {claim!r}: it raises {words}") from error


def _scalar(term: Term, make: Callable[..., Exchange]) -> None:
    value = term(make(seed=1))
    assert isinstance(value, Tensor), f"it is a {type(value).__name__}, not a tensor"
    assert value.ndim == 0, f"its shape is {list(value.shape)}"


def _float32_from_half(term: Term, make: Callable[..., Exchange]) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        exchange = make(seed=1, dtype=dtype)
        value = term(exchange)
        assert value.dtype == torch.float32, f"from {dtype} it gives {value.dtype}"
        # A loss computed in half precision and widened at the end has the right type and the wrong digits.
        _same(value, term(_map(exchange, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)))


def _finite(term: Term, make: Callable[..., Exchange]) -> None:
    # Attention maps and Gram matrices square their inputs, so 1e4 is as far as float32 has to go.
    for scale in (0.0, 1.0, 1e4):
        exchange = make(seed=2, scale=scale)
        value = term(exchange)
        assert torch.isfinite(value), f"at scale {scale:g} it is {value.item()}"
        gradients = _gradients(value, _tensors(exchange.student))
        assert all(g is None or torch.isfinite(g).all() for g in gradients), f"at scale {scale:g} a gradient is not"


def _gradient_to_the_student(term: Term, make: Callable[..., Exchange]) -> None:
    exchange = make(seed=3)
    gradients = _gradients(term(exchange), _tensors(exchange.student))
    assert any(g is not None and bool((g != 0).any()) for g in gradients), "no student tensor gets one"
    if isinstance(term, nn.Module) and list(term.parameters()):
        value = term(make(seed=3))
        own = _gradients(value, list(term.parameters()))
        assert all(g is not None for g in own), "a parameter of the term gets none"


def _no_gradient_to_the_teacher(term: Term, make: Callable[..., Exchange]) -> None:
    exchange = make(seed=4)
    value = term(exchange)
    teachers = [tensor for teacher in exchange.teachers.values() for tensor in _tensors(teacher)]
    if teachers:
        gradients = _gradients(value, teachers)
        assert all(g is None or not bool((g != 0).any()) for g in gradients), "a teacher's tensor gets one"


def _zero_at_agreement(term: Term, make: Callable[..., Exchange]) -> None:
    exchange = make(seed=5)
    agreed = exchange.pair()[1]
    value = term(replace(exchange, student=agreed.detach(), teachers=dict.fromkeys(exchange.teachers, agreed)))
    assert abs(value.item()) < 1e-6, f"it is {value.item():g}"


def _unchanged_by_repetition(term: Term, make: Callable[..., Exchange]) -> None:
    exchange = make(seed=6)
    _same(term(exchange), term(_map(exchange, lambda tensor: torch.cat([tensor, tensor]))))


def _unchanged_by_an_impossible_class(term: Term, make: Callable[..., Exchange]) -> None:
    exchange = make(seed=7)
    _same(term(exchange), term(_map(exchange, lambda tensor: tensor, logits=_with_impossible_class)))


CLAIMS: Final[dict[str, Callable[[Term, Callable[..., Exchange]], None]]] = {
    "scalar": _scalar,
    "float32 from half": _float32_from_half,
    "finite": _finite,
    "gradient to the student": _gradient_to_the_student,
    "no gradient to the teacher": _no_gradient_to_the_teacher,
    "zero at agreement": _zero_at_agreement,
    "unchanged by repetition": _unchanged_by_repetition,
    "unchanged by an impossible class": _unchanged_by_an_impossible_class,
}


def _tensors(outputs: Outputs) -> list[Tensor]:
    said = (outputs.logits, outputs.maps, outputs.embedding, *outputs.taps.values())
    return [tensor for tensor in said if tensor is not None]


def _gradients(value: Tensor, tensors: list[Tensor]) -> Sequence[Tensor | None]:
    if not value.requires_grad:
        return [None for _ in tensors]
    return torch.autograd.grad(value, tensors, allow_unused=True)


def _with_impossible_class(logits: Tensor) -> Tensor:
    return torch.cat([logits, logits.new_full((len(logits), 1), -torch.inf)], dim=1)


def _map(
    exchange: Exchange, change: Callable[[Tensor], Tensor], logits: Callable[[Tensor], Tensor] | None = None
) -> Exchange:  # fmt: skip
    def outputs(said: Outputs) -> Outputs:
        return replace(
            said,
            logits=None if said.logits is None else (logits or change)(said.logits),
            maps=None if said.maps is None else change(said.maps),
            embedding=None if said.embedding is None else change(said.embedding),
            taps={name: change(tensor) for name, tensor in said.taps.items()},
        )

    return replace(
        exchange,
        student=outputs(exchange.student),
        teachers={name: outputs(teacher) for name, teacher in exchange.teachers.items()},
        teacher=None if exchange.teacher is None else outputs(exchange.teacher),
        target=None if exchange.target is None else change(exchange.target),
        index=None if exchange.index is None else change(exchange.index),
    )


def _same(one: Tensor, other: Tensor) -> None:
    assert torch.isclose(one, other, rtol=1e-5, atol=1e-7), f"{one.item():g} becomes {other.item():g}"
