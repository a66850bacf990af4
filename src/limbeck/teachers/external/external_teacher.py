"""Predictions from outside torch as an ``nn.Module``, with checks of their shape and values; callables as teachers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, final, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.data.normalization import InputNormalization
from limbeck.teachers.identity import fingerprint_callable

if TYPE_CHECKING:
    from limbeck.teachers.adapter import InputMapping

__all__ = ["ExternalTeacher", "InputType", "OutputType", "from_callable", "missing_rows"]

OutputType = Literal["logits", "probabilities"]
InputType = Literal["normalized", "pixels"]

_PROBABILITY_FLOOR = 1e-7
_SUM_TOLERANCE = 1e-2


def missing_rows(logits: Tensor) -> Tensor:
    """Rows of ``logits`` ``[n, ...]`` that are all NaN: those of samples that a teacher skips.

    >>> missing_rows(torch.tensor([[torch.nan, torch.nan], [1.0, 0.0]]))
    tensor([ True, False])
    """
    return logits.isnan().flatten(1).all(dim=1)


@final
class ExternalTeacher(nn.Module):
    """Predictions of a callable as a module without parameters and layers, which tasks call like any network.

    Args:
        fn: takes what the task calls a network with, as CPU tensors (floating-point ones in float32): for images one
            tensor ``[n, ...]``. Returns ``[n, classes]``, a tensor or anything that numpy reads, or what else the task
            takes: another shape, or a dict or tuple of tensors.
        name: name in errors.
        fingerprint: text that changes with the predictions, such as the hash of a file. Its hash is in
            ``state_dict()``.
        output_type: ``logits``, or ``probabilities``, whose logarithm is that of at least 1e-7.
        input_type: ``normalized`` inputs, or ``pixels``: the first input as it is before normalization (of images in
            0..1), the others unchanged.
        normalization: normalization of the data, needed for ``pixels``; a recipe sets it.
        classes: expected number of classes of ``[n, classes]``; ``None``: any.
        allow_missing: whether rows of NaN are samples that the teacher skips, see :func:`missing_rows`.

    Raises:
        LimbeckError: when called, for outputs of another shape, NaN, infinity, or rows that are no probabilities.
    """

    opaque_attributes: ClassVar = ("fn",)
    """Attributes that its identity ignores: ``fn`` is described by ``fingerprint``."""

    def __init__(
        self, fn: Callable[..., Any], *, name: str, fingerprint: str, output_type: OutputType = "logits",
        input_type: InputType = "normalized", normalization: InputNormalization | None = None,
        classes: int | None = None,
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
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs in float32 on the device of the inputs; of an array, logits or log-probabilities."""
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim]
        if not inputs:
            raise LimbeckError(f"{self.name} must be called with a tensor, got none")
        device, num_samples = inputs[0].device, len(inputs[0])
        args, kwargs = self._map_inputs(*tree_map(_to_cpu, (args, kwargs)))
        try:
            output = self.fn(*args, **kwargs)
        except LimbeckError:
            raise
        except Exception as error:  # user code
            shapes = ", ".join(str(list(tensor.shape)) for tensor in inputs)
            raise LimbeckError(f"{self.name} failed on inputs {shapes} ({format_root_cause(error)})") from error
        output = self._check_output(output, num_samples)
        if self.output_type == "probabilities":
            output = self._check_probabilities(output).clamp(min=_PROBABILITY_FLOOR).log()
        if self._mapping is not None:
            output = self._mapping.map_logits(output)
        return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, output)

    def _map_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs of the callable: the first one is that which data normalizes, and only a single one has a size."""
        is_pixels = self.input_type == "pixels"
        if is_pixels:
            if self.normalization is None:
                raise LimbeckError(f"{self.name} takes pixels: set normalization to that of the data, to invert it")
            if args:
                args = (self.normalization.invert(args[0]), *args[1:])
            else:
                name = next(iter(kwargs))
                kwargs = {**kwargs, name: self.normalization.invert(kwargs[name])}
        if self._mapping is None:
            return args, kwargs
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
            raise LimbeckError(
                f"{self.name} takes one tensor of images (normalize, input_size or class_names are set), and the task "
                f"gives {len(args) + len(kwargs)} inputs: remove these settings"
            )
        return (self._mapping.map_inputs(args[0], pixels=is_pixels),), {}

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

    def _check_output(self, output: Any, num_samples: int) -> Any:
        """The output with tensors in float32 on the CPU; arrays and lists become one tensor."""
        if isinstance(output, Mapping):
            return {name: self._check_output(value, num_samples) for name, value in output.items()}
        if isinstance(output, tuple):
            return tuple(self._check_output(value, num_samples) for value in output)
        try:
            # A copy, since the callable may reuse its memory.
            tensor = torch.as_tensor(output).detach().to("cpu", copy=True)
        except (TypeError, ValueError, RuntimeError) as error:
            type_name = type(output).__name__
            raise LimbeckError(f"{self.name} must return numbers [n, classes], got a {type_name}") from error
        if not tensor.ndim or len(tensor) != num_samples or (
            tensor.ndim <= 2 and self.classes is not None and tensor.shape[1:] != (self.classes,)
        ):  # fmt: skip
            expected = f"[{num_samples}, {self.classes or 'classes'}]"
            raise LimbeckError(f"{self.name} must return the shape {expected}, got {list(tensor.shape)}")
        tensor = tensor.float()
        rows = tensor[~missing_rows(tensor)] if self.allow_missing else tensor
        if not bool(rows.isfinite().all()):
            raise LimbeckError(
                f"{self.name} returned NaN or infinity: correct it, or set coverage: finite to skip samples of NaN"
            )
        return tensor

    def _check_probabilities(self, probabilities: Any) -> Tensor:
        if not isinstance(probabilities, Tensor) or probabilities.ndim < 2:
            raise LimbeckError(f"{self.name} must return one array of probabilities: return logits for other outputs")
        # Classes are axis 1 of [n, classes] and of maps [n, classes, height, width], and the last one of sequences.
        class_axis = 2 if probabilities.ndim == 3 else 1
        sums = probabilities.sum(dim=class_axis)  # NaN for missing rows, which compare as valid
        low = probabilities.amin(dim=class_axis)
        invalid = ((sums - 1).abs() > _SUM_TOLERANCE) | (low < -_SUM_TOLERANCE)
        if bool(invalid.any()):
            raise LimbeckError(
                f"{self.name} must return probabilities, got a row with sum {float(sums[invalid][0]):.3g} and minimum "
                f"{float(low[invalid][0]):.3g}: set output_type: logits if they are logits"
            )
        return probabilities


def from_callable(
    fn: Callable[..., Any], *, output_type: OutputType = "logits", array_type: Literal["torch", "numpy"] = "torch",
    input_type: InputType = "normalized", normalization: InputNormalization | None = None, version: str = "",
    classes: int | None = None, allow_missing: bool = False,
) -> ExternalTeacher:  # fmt: skip
    """A teacher that predicts by calling ``fn``.

    Args:
        fn: maps a batch of inputs ``[n, ...]`` to ``[n, classes]``. It takes the inputs that the task gives a network
            (frames and lengths, tokens and masks), and may return what the task takes: a map, or a dict of arrays.
        output_type: ``logits`` or ``probabilities``.
        array_type: whether ``fn`` takes ``torch`` tensors or ``numpy`` arrays, floating-point ones in float32.
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


def _call_with_numpy(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    args, kwargs = tree_map(lambda leaf: leaf.numpy() if isinstance(leaf, Tensor) else leaf, (args, kwargs))
    return fn(*args, **kwargs)


def _to_cpu(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().to("cpu", torch.float32 if leaf.is_floating_point() else leaf.dtype)
