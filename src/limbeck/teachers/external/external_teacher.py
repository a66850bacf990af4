"""Predictions from outside torch as an ``nn.Module``, with checks of their shape and values; callables as teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, final, get_args

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.data import Normalization
from limbeck.teachers.identity import fingerprint_callable

if TYPE_CHECKING:
    from limbeck.teachers.adapter import InputMapping

__all__ = ["ExternalTeacher", "InputType", "OutputType", "from_callable", "missing_rows"]

OutputType = Literal["logits", "probabilities"]
InputType = Literal["normalized", "pixels"]

_PROBABILITY_FLOOR = 1e-7
_SUM_TOLERANCE = 1e-2


def missing_rows(logits: Tensor) -> Tensor:
    """Rows of ``logits`` ``[n, classes]`` that are all NaN: samples that a teacher skips.

    >>> missing_rows(torch.tensor([[torch.nan, torch.nan], [1.0, 0.0]]))
    tensor([ True, False])
    """
    return logits.isnan().all(dim=1)


@final
class ExternalTeacher(nn.Module):
    """Predictions of a callable as a module without parameters and layers, which tasks call like any network.

    Args:
        fn: maps a float32 CPU tensor ``[n, ...]`` to ``[n, classes]``, a tensor or anything that numpy reads.
        name: name in errors.
        fingerprint: text that changes with the predictions, such as the hash of a file. Its hash is in
            ``state_dict()``.
        output_type: ``logits``, or ``probabilities``, whose logarithm is that of at least 1e-7.
        input_type: ``normalized`` inputs, or ``pixels`` in 0..1.
        normalization: normalization of the data, needed for ``pixels``; a recipe sets it.
        classes: expected number of classes; ``None``: any.
        allow_missing: whether rows of NaN are samples that the teacher skips, see :func:`missing_rows`.

    Raises:
        LimbeckError: when called, for outputs of another shape, NaN, infinity, or rows that are no probabilities.
    """

    opaque_attributes: ClassVar = ("fn",)
    """Attributes that its identity ignores: ``fn`` is described by ``fingerprint``."""

    def __init__(
        self, fn: Callable[[Tensor], Any], *, name: str, fingerprint: str, output_type: OutputType = "logits",
        input_type: InputType = "normalized", normalization: Normalization | None = None, classes: int | None = None,
        allow_missing: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        for option, value, allowed in (("output_type", output_type, OutputType), ("input_type", input_type, InputType)):
            if value not in get_args(allowed):
                raise LimbeckError(f"{option} must be {' or '.join(get_args(allowed))}, got {value!r}")
        self.fn, self.name, self.output_type, self.input_type = fn, name, output_type, input_type
        self.normalization, self.classes, self.allow_missing = normalization, classes, allow_missing
        self._mapping: InputMapping | None = None
        self._set_fingerprint(f"{fingerprint}\n{output_type}\n{input_type}")

    @torch.no_grad()
    def forward(self, input: Tensor) -> Tensor:
        """Logits or log-probabilities ``[n, classes]`` in float32, on the device of ``input``."""
        inputs = input.detach().to("cpu", torch.float32)
        is_pixels = self.input_type == "pixels"
        if is_pixels:
            if self.normalization is None:
                raise LimbeckError(f"{self.name} takes pixels: set normalization to that of the data, to invert it")
            inputs = self.normalization.invert(inputs)
        if self._mapping is not None:
            inputs = self._mapping.map_inputs(inputs, pixels=is_pixels)
        try:
            output = self.fn(inputs)
        except LimbeckError:
            raise
        except Exception as error:  # user code
            cause = format_root_cause(error)
            raise LimbeckError(f"{self.name} failed on inputs {list(inputs.shape)} ({cause})") from error
        logits = self._check_output(output, len(inputs))
        if self.output_type == "probabilities":
            logits = self._check_probabilities(logits).clamp(min=_PROBABILITY_FLOOR).log()
        if self._mapping is not None:
            logits = self._mapping.map_logits(logits)
        return logits.to(input.device)

    def with_input_mapping(self, mapping: InputMapping) -> Self:
        """Use ``mapping`` for inputs and logits."""
        self._mapping = mapping
        self._set_fingerprint(f"{self.get_buffer('fingerprint').tolist()}\n{mapping!r}")
        return self

    def extra_repr(self) -> str:
        mapping = "" if self._mapping is None else f", {self._mapping!r}"
        return f"{self.name}, output_type={self.output_type!r}, input_type={self.input_type!r}{mapping}"

    def _set_fingerprint(self, text: str) -> None:
        digest = hashlib.sha256(text.encode()).digest()
        self.register_buffer("fingerprint", torch.tensor(list(digest), dtype=torch.uint8))

    def _check_output(self, output: Any, num_rows: int) -> Tensor:
        try:
            # A copy, since the callable may reuse its memory.
            tensor = torch.as_tensor(output).detach().to("cpu", torch.float32, copy=True)
        except (TypeError, ValueError, RuntimeError) as error:
            type_name = type(output).__name__
            raise LimbeckError(f"{self.name} must return numbers [n, classes], got a {type_name}") from error
        if tensor.shape != (num_rows, self.classes or tensor.shape[-1:].numel()):
            expected = f"[{num_rows}, {self.classes or 'classes'}]"
            raise LimbeckError(f"{self.name} must return the shape {expected}, got {list(tensor.shape)}")
        rows = tensor[~missing_rows(tensor)] if self.allow_missing else tensor
        if not bool(rows.isfinite().all()):
            raise LimbeckError(
                f"{self.name} returned NaN or infinity: correct it, or set coverage: finite to skip samples of NaN"
            )
        return tensor

    def _check_probabilities(self, probabilities: Tensor) -> Tensor:
        sums = probabilities.sum(dim=1)  # NaN for missing rows, which compare as valid
        invalid = ((sums - 1).abs() > _SUM_TOLERANCE) | (probabilities < -_SUM_TOLERANCE).any(dim=1)
        if bool(invalid.any()):
            raise LimbeckError(
                f"{self.name} must return probabilities, got a row with sum {float(sums[invalid][0]):.3g} and minimum "
                f"{float(probabilities[invalid][0].min()):.3g}: set output_type: logits if they are logits"
            )
        return probabilities


def from_callable(
    fn: Callable[..., Any], *, output_type: OutputType = "logits", array_type: Literal["torch", "numpy"] = "torch",
    input_type: InputType = "normalized", normalization: Normalization | None = None, version: str = "",
    classes: int | None = None, allow_missing: bool = False,
) -> ExternalTeacher:  # fmt: skip
    """A teacher that predicts by calling ``fn``.

    Args:
        fn: maps a batch of inputs ``[n, ...]`` to ``[n, classes]``.
        output_type: ``logits`` or ``probabilities``.
        array_type: whether ``fn`` takes a float32 ``torch`` tensor or ``numpy`` array.
        input_type: ``normalized`` inputs, or ``pixels`` in 0..1.
        normalization: normalization of the data, needed for ``pixels``; a recipe sets it.
        version: any text; change it when the predictions change for a reason that is not in the code of ``fn``.
        classes: expected number of classes.
        allow_missing: whether rows of NaN are samples without a prediction.

    >>> teacher = from_callable(lambda x: [[0.25, 0.75]] * len(x), output_type="probabilities")
    >>> teacher(torch.zeros(1, 3)).exp()
    tensor([[0.2500, 0.7500]])
    """
    if isinstance(fn, nn.Module):
        raise LimbeckError(f"fn must not be an nn.Module, got {type(fn).__name__}: use it as the teacher directly")
    if not callable(fn):
        raise LimbeckError(f"fn must be callable, got {fn!r}")
    if array_type not in ("torch", "numpy"):
        raise LimbeckError(f"array_type must be torch or numpy, got {array_type!r}")
    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    module_name = getattr(fn, "__module__", type(fn).__module__)
    return ExternalTeacher(
        fn if array_type == "torch" else partial(_call_with_numpy, fn), name=f"the callable {name}",
        fingerprint=f"{module_name}:{name} {version} {fingerprint_callable(fn)}", output_type=output_type,
        input_type=input_type, normalization=normalization, classes=classes, allow_missing=allow_missing,
    )  # fmt: skip


def _call_with_numpy(fn: Callable[..., Any], input: Tensor) -> Any:
    return fn(input.numpy())
