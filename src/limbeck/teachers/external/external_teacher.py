"""What all teachers from elsewhere share: they are called like a network, and what they say is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Literal, Protocol, Self, final, get_args

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.data import Normalization

__all__ = ["PROBABILITY_FLOOR", "ExternalTeacher", "InputType", "OutputType", "log_probabilities", "missing_rows"]

OutputType = Literal["logits", "probabilities"]
InputType = Literal["normalized", "pixels"]

PROBABILITY_FLOOR = 1e-7
_SUM_TOLERANCE = 1e-2


def log_probabilities(probabilities: Tensor, *, floor: float = PROBABILITY_FLOOR) -> Tensor:
    """The logarithm of ``probabilities`` ``[rows, classes]``, those below ``floor`` raised to it.

    A probability that was rounded to zero would otherwise be minus infinity. At temperature τ the floor is felt as
    ``floor ** (1 / τ)`` of the largest probability.

    >>> log_probabilities(torch.tensor([[1.0, 0.0]]))
    tensor([[  0.0000, -16.1181]])
    """
    return probabilities.clamp(min=floor).log()


def missing_rows(rows: Tensor) -> Tensor:
    """Which ``rows`` ``[n, classes]`` hold nothing but NaN: no answer, of a teacher that may leave samples out.

    >>> missing_rows(torch.tensor([[torch.nan, torch.nan], [1.0, 0.0]]))
    tensor([ True, False])
    """
    return rows.isnan().all(dim=1)


class InputMappingLike(Protocol):
    """What stands between a batch and a teacher."""

    def map_inputs(self, input: Tensor, *, pixels: bool = False) -> Tensor:
        """The input as the teacher takes it."""
        ...

    def map_logits(self, output: Any) -> Any:
        """Its answer as the task takes it."""
        ...


@final
class ExternalTeacher(nn.Module):
    """A teacher that is no network of torch. Tasks call it as they call a network; it has no parameters and no places.

    Arguments:
        fn: takes the input ``[n, ...]`` as a float32 tensor on the CPU, and gives ``[n, classes]``, as a tensor or
            anything that numpy reads.
        name: its name in errors.
        fingerprint: text that is another one wherever the answers may be, such as the hash of a file. It is part of
            ``state_dict()``, so whoever tells networks apart by their weights tells these apart too.
        output_type: ``logits``, or ``probabilities``, whose logarithm is taken, see :func:`log_probabilities`.
        input_type: ``normalized`` inputs, as networks are trained on, or ``pixels`` in 0..1.
        normalization: of the data, which is undone for one that sees pixels. A recipe fills it in.
        classes: how many there are; ``None``: as many as it gives.
        allow_missing: whether it may leave samples unanswered, by a row of NaN; see :func:`missing_rows`.

    Raises ``LimbeckError`` for an answer of another shape, one that is not finite, and probabilities that are none.
    """

    def __init__(
        self, fn: Callable[[Tensor], Any], *, name: str, fingerprint: str, output_type: OutputType = "logits",
        input_type: InputType = "normalized", normalization: Normalization | None = None, classes: int | None = None,
        allow_missing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        for option, value, allowed in (("output_type", output_type, OutputType), ("input_type", input_type, InputType)):
            if value not in get_args(allowed):
                raise LimbeckError(f"{option} is {' or '.join(get_args(allowed))}, not {value!r}")
        self.fn, self.name, self.output_type, self.input_type = fn, name, output_type, input_type
        self.normalization, self.classes, self.allow_missing = normalization, classes, allow_missing
        self._mapping: InputMappingLike | None = None
        hashed = hashlib.sha256(f"{fingerprint}\n{output_type}\n{input_type}".encode()).digest()
        self.register_buffer("fingerprint", torch.tensor(list(hashed), dtype=torch.uint8))

    @torch.no_grad()
    def forward(self, input: Tensor) -> Tensor:
        """Its logits ``[n, classes]`` (or the logarithm of its probabilities) in float32, where ``input`` is."""
        inputs = input.detach().to("cpu", torch.float32)
        if self.input_type == "pixels":
            inputs = self._denormalize(inputs)
        if self._mapping is not None:
            inputs = self._mapping.map_inputs(inputs, pixels=self.input_type == "pixels")
        try:
            output = self.fn(inputs)
        except LimbeckError:
            raise
        except Exception as error:  # a callable of the user's own
            raise LimbeckError(
                f"{self.name} failed on inputs {list(inputs.shape)} ({format_root_cause(error)})"
            ) from error
        logits = self._check_output(output, len(inputs))
        if self.output_type == "probabilities":
            logits = log_probabilities(self._check_probabilities(logits))
        if self._mapping is not None:
            logits = self._mapping.map_logits(logits)
        return logits.to(input.device)

    def with_input_mapping(self, mapping: InputMappingLike) -> Self:
        """The same, seeing pictures and giving answers through ``mapping``; see :class:`limbeck.teachers.adapter.InputMapping`."""
        self._mapping = mapping
        hashed = hashlib.sha256(f"{self.get_buffer('fingerprint').tolist()}\n{mapping!r}".encode()).digest()
        self.register_buffer("fingerprint", torch.tensor(list(hashed), dtype=torch.uint8))
        return self

    def extra_repr(self) -> str:
        mapping = "" if self._mapping is None else f", {self._mapping!r}"
        return f"{self.name}, output_type={self.output_type!r}, input_type={self.input_type!r}{mapping}"

    def _denormalize(self, input: Tensor) -> Tensor:
        if self.normalization is None:
            raise LimbeckError(f"{self.name} sees pixels: give it the normalization of the data, which is to be undone")
        return self.normalization.invert(input)

    def _check_output(self, output: Any, num_rows: int) -> Tensor:
        try:
            # A copy: the caller may go on writing into its own memory.
            tensor = torch.as_tensor(output).detach().to("cpu", torch.float32, copy=True)
        except (TypeError, ValueError, RuntimeError) as error:
            raise LimbeckError(f"{self.name} gave a {type(output).__name__}, and not numbers [n, classes]") from error
        if (
            tensor.ndim != 2
            or len(tensor) != num_rows
            or (self.classes is not None and tensor.shape[1] != self.classes)
        ):
            expected_shape = f"[{num_rows}, {'classes' if self.classes is None else self.classes}]"
            raise LimbeckError(f"{self.name} gave the shape {list(tensor.shape)}, and a teacher gives {expected_shape}")
        valid_rows = tensor[~missing_rows(tensor)] if self.allow_missing else tensor
        if not bool(valid_rows.isfinite().all()):
            raise LimbeckError(
                f"{self.name} gave NaN or infinity: look at what it does with these inputs, or set coverage: finite "
                "if a row of NaN says that it has no answer"
            )
        return tensor

    def _check_probabilities(self, probabilities: Tensor) -> Tensor:
        sums = probabilities.sum(dim=1)  # NaN where there is no answer, which is not wrong
        invalid = ((sums - 1).abs() > _SUM_TOLERANCE) | (probabilities < -_SUM_TOLERANCE).any(dim=1)
        if bool(invalid.any()):
            raise LimbeckError(
                f"{self.name} gave rows that are no probabilities (the first of them sums to "
                f"{float(sums[invalid][0]):.3g}, its least value is {float(probabilities[invalid][0].min()):.3g}): set output_type: "
                "logits if that is what they are"
            )
        return probabilities
