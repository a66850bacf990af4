"""What all teachers from elsewhere share: they are called like a network, and what they say is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal, Protocol, Self, final, get_args

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, reason
from limbeck.data import Normalization

__all__ = ["FLOOR", "Foreign", "Returns", "Sees", "log_probabilities", "unanswered"]

Returns = Literal["logits", "probabilities"]
Sees = Literal["normalised", "pixels"]

FLOOR = 1e-7
_SUM = 1e-2


def log_probabilities(probabilities: Tensor, *, floor: float = FLOOR) -> Tensor:
    """The logarithm of ``probabilities`` ``[rows, classes]``, those below ``floor`` raised to it.

    A probability that was rounded to zero would otherwise be minus infinity. At temperature τ the floor is felt as
    ``floor ** (1 / τ)`` of the largest probability.

    >>> log_probabilities(torch.tensor([[1.0, 0.0]]))
    tensor([[  0.0000, -16.1181]])
    """
    return probabilities.clamp(min=floor).log()


def unanswered(rows: Tensor) -> Tensor:
    """Which ``rows`` ``[n, classes]`` hold nothing but NaN: no answer, of a teacher that may leave samples out.

    >>> unanswered(torch.tensor([[torch.nan, torch.nan], [1.0, 0.0]]))
    tensor([ True, False])
    """
    return rows.isnan().all(dim=1)


class Behind(Protocol):
    """What stands between a batch and a teacher."""

    def pictures(self, input: Tensor, *, pixels: bool = False) -> Tensor:
        """The input as the teacher takes it."""
        ...

    def logits(self, said: Any) -> Any:
        """Its answer as the task takes it."""
        ...


@final
class Foreign(nn.Module):
    """A teacher that is no network of torch. Tasks call it as they call a network; it has no parameters and no places.

    Arguments:
        ask: takes the input ``[n, ...]`` as a float32 tensor on the CPU, and gives ``[n, classes]``, as a tensor or
            anything that numpy reads.
        called: its name in errors.
        identity: text that is another one wherever the answers may be, such as the hash of a file. It is part of
            ``state_dict()``, so whoever tells networks apart by their weights tells these apart too.
        returns: ``logits``, or ``probabilities``, whose logarithm is taken, see :func:`log_probabilities`.
        sees: ``normalised`` inputs, as networks are trained on, or ``pixels`` in 0..1.
        normalization: of the data, which is undone for one that sees pixels. A recipe fills it in.
        classes: how many there are; ``None``: as many as it gives.
        partial: whether it may leave samples unanswered, by a row of NaN; see :func:`unanswered`.

    Raises ``LimbeckError`` for an answer of another shape, one that is not finite, and probabilities that are none.
    """

    def __init__(
        self, ask: Callable[[Tensor], Any], *, called: str, identity: str, returns: Returns = "logits",
        sees: Sees = "normalised", normalization: Normalization | None = None, classes: int | None = None,
        partial: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        for what, value, allowed in (("returns", returns, Returns), ("sees", sees, Sees)):
            if value not in get_args(allowed):
                raise LimbeckError(f"{what} is {' or '.join(get_args(allowed))}, not {value!r}")
        self.ask, self.called, self.returns, self.sees = ask, called, returns, sees
        self.normalization, self.classes, self.partial = normalization, classes, partial
        self._lens: Behind | None = None
        hashed = hashlib.sha256(f"{identity}\n{returns}\n{sees}".encode()).digest()
        self.register_buffer("identity", torch.tensor(list(hashed), dtype=torch.uint8))

    @torch.no_grad()
    def forward(self, input: Tensor) -> Tensor:
        """Its logits ``[n, classes]`` (or the logarithm of its probabilities) in float32, where ``input`` is."""
        given = input.detach().to("cpu", torch.float32)
        if self.sees == "pixels":
            given = self._pixels(given)
        if self._lens is not None:
            given = self._lens.pictures(given, pixels=self.sees == "pixels")
        try:
            said = self.ask(given)
        except LimbeckError:
            raise
        except Exception as error:  # a callable of the user's own
            raise LimbeckError(f"{self.called} failed on inputs {list(given.shape)} ({reason(error)})") from error
        rows = self._checked(said, len(given))
        if self.returns == "probabilities":
            rows = log_probabilities(self._probabilities(rows))
        if self._lens is not None:
            rows = self._lens.logits(rows)
        return rows.to(input.device)

    def behind(self, lens: Behind) -> Self:
        """The same, seeing pictures and giving answers through ``lens``; see :class:`limbeck.teachers.adapter.Lens`."""
        self._lens = lens
        hashed = hashlib.sha256(f"{self.get_buffer('identity').tolist()}\n{lens!r}".encode()).digest()
        self.register_buffer("identity", torch.tensor(list(hashed), dtype=torch.uint8))
        return self

    def extra_repr(self) -> str:
        through = "" if self._lens is None else f", {self._lens!r}"
        return f"{self.called}, returns={self.returns!r}, sees={self.sees!r}{through}"

    def _pixels(self, input: Tensor) -> Tensor:
        if self.normalization is None:
            raise LimbeckError(
                f"{self.called} sees pixels: give it the normalization of the data, which is to be undone"
            )
        return self.normalization.undo(input)

    def _checked(self, said: Any, rows: int) -> Tensor:
        try:
            # A copy: the caller may go on writing into its own memory.
            found = torch.as_tensor(said).detach().to("cpu", torch.float32, copy=True)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LimbeckError(f"{self.called} gave a {type(said).__name__}, and not numbers [n, classes]") from error
        if found.ndim != 2 or len(found) != rows or (self.classes is not None and found.shape[1] != self.classes):
            wanted = f"[{rows}, {'classes' if self.classes is None else self.classes}]"
            raise LimbeckError(f"{self.called} gave the shape {list(found.shape)}, and a teacher gives {wanted}")
        answered = found[~unanswered(found)] if self.partial else found
        if not bool(answered.isfinite().all()):
            raise LimbeckError(
                f"{self.called} gave NaN or infinity: look at what it does with these inputs, or set answers: finite "
                "if a row of NaN says that it has no answer"
            )
        return found

    def _probabilities(self, found: Tensor) -> Tensor:
        sums = found.sum(dim=1)  # NaN where there is no answer, which is not wrong
        wrong = ((sums - 1).abs() > _SUM) | (found < -_SUM).any(dim=1)
        if bool(wrong.any()):
            raise LimbeckError(
                f"{self.called} gave rows that are no probabilities (the first of them sums to "
                f"{float(sums[wrong][0]):.3g}, its least value is {float(found[wrong][0].min()):.3g}): set returns: "
                "logits if that is what they are"
            )
        return found
