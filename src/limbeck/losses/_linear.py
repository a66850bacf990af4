"""Logits as the product of hidden states and the weight of a linear head, and the largest logits of a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.losses._logits import require_temperature
from limbeck.losses._ops import require_interval, upcast

_HIDDEN: Final = "hidden"
_WEIGHT: Final = "head_weight"
_BIAS: Final = "head_bias"
_TOP_K: Final = ("top_k_values", "top_k_classes", "top_k_log_normalizer")
_TOP_K_TEMPERATURE: Final = "top_k_temperature"
_CHUNK_ELEMENTS: Final = 2**25
_CHUNK_ELEMENTS_CPU: Final = 2**24
"""Logits of a chunk: enough rows for fast products, few enough to be small beside the weight of a head."""


@final
@dataclass(frozen=True, slots=True)
class LinearLogits:
    """The logits ``hidden @ weight.T + bias``, without computing them.

    Args:
        hidden: ``[rows, width]``, the hidden states before the head.
        weight: ``[classes, width]``, the weight of the head.
        bias: ``[classes]``, or ``None``. An entry of −inf in both networks excludes a class.

    >>> LinearLogits(torch.ones(2, 3), torch.ones(5, 3)).shape
    (2, 5)
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        hidden, weight = self.hidden, self.weight
        if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
            raise LimbeckError(
                "hidden states must be [rows, width] and the weight of the head [classes, width], got "
                f"{list(hidden.shape)} and {list(weight.shape)}: flatten tokens into rows"
            )
        if self.bias is not None and self.bias.shape != weight.shape[:1]:
            raise LimbeckError(
                f"the bias of a head of {len(weight)} classes must be [{len(weight)}], got {list(self.bias.shape)}"
            )

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.hidden)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and classes."""
        return len(self.hidden), len(self.weight)

    @classmethod
    def from_outputs(cls, outputs: Outputs) -> LinearLogits:
        """Those of :func:`linear_outputs`; an error where there are none."""
        if _HIDDEN not in outputs.by_row or _WEIGHT not in outputs.extra:
            raise LimbeckError(
                "this loss needs hidden states and the weight of the head, and the network has none: let the task "
                "return limbeck.losses.linear_outputs(...), or use the loss on logits"
            )
        return cls(outputs.by_row[_HIDDEN], outputs.extra[_WEIGHT], outputs.extra.get(_BIAS))


@final
@dataclass(frozen=True, slots=True)
class TopKLogits:
    """The largest logits of a teacher, and the log-sum-exp of all.

    The other classes are one bucket, whose probability is what remains. A divergence over the k classes and the bucket
    is a lower bound of that over all classes.

    Args:
        values: ``[rows, k]`` logits, as the network returns them.
        classes: ``[rows, k]`` their class indices, each class once in a row.
        log_normalizer: ``[rows]``, the log-sum-exp of all logits divided by ``temperature``.
        temperature: the only temperature at which a loss can use them.
    """

    values: Tensor
    classes: Tensor
    log_normalizer: Tensor
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        shape = self.values.shape
        if self.values.ndim != 2 or self.classes.shape != shape or self.log_normalizer.shape != shape[:1]:
            raise LimbeckError(
                "values and classes must be [rows, k] and log_normalizer [rows], got "
                f"{list(shape)}, {list(self.classes.shape)} and {list(self.log_normalizer.shape)}"
            )

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.values)

    @classmethod
    def from_outputs(cls, outputs: Outputs) -> TopKLogits:
        """Those of :meth:`outputs`."""
        values, classes, log_normalizer = (outputs.by_row[name] for name in _TOP_K)
        return cls(values, classes, log_normalizer, float(outputs.extra[_TOP_K_TEMPERATURE]))

    def outputs(self, *, row_to_sample: Tensor | None = None, valid: Tensor | None = None) -> Outputs:
        """These logits as the outputs of a teacher, for losses on hidden states."""
        tensors = (self.values, self.classes, self.log_normalizer)
        return Outputs(
            by_row=dict(zip(_TOP_K, tensors, strict=True)),
            extra={_TOP_K_TEMPERATURE: torch.tensor(self.temperature)},
            row_to_sample=row_to_sample,
            valid=valid,
        )


TeacherLogits = LinearLogits | TopKLogits | Tensor
"""Logits of a teacher: from hidden states, the largest ones, or ``[rows, classes]``."""


def linear_outputs(
    hidden: Tensor, head: nn.Linear, *, row_to_sample: Tensor | None = None, valid: Tensor | None = None
) -> Outputs:
    """Outputs with hidden states and a head in place of logits, which a task returns for losses on hidden states.

    Args:
        hidden: ``[rows, width]``, the inputs of ``head`` in the rows of the task.
        head: the last layer of the network.
        row_to_sample: see :class:`~limbeck.core.outputs.Outputs`.
        valid: see :class:`~limbeck.core.outputs.Outputs`.

    Under autocast, the hidden states are cast as the head would cast them.

    >>> linear_outputs(torch.zeros(2, 3), nn.Linear(3, 5, bias=False))
    Outputs(by_row={hidden: [2, 3]}, extra={head_weight: [5, 3]})
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    bias = {} if head.bias is None else {_BIAS: head.bias}
    return Outputs(
        by_row={_HIDDEN: hidden}, extra={_WEIGHT: head.weight, **bias}, row_to_sample=row_to_sample, valid=valid
    )


def require_chunks(num_classes: int | None, chunk_rows: int | None) -> None:
    """Raise an error for numbers that no head and no chunk can have."""
    for name, value, least in (("num_classes", num_classes, 2), ("chunk_rows", chunk_rows, 1)):
        if value is not None and value < least:
            raise LimbeckError(f"{name} must be at least {least}, got {value}")


def teacher_logits(outputs: Outputs) -> TeacherLogits:
    """The largest logits, the logits, or hidden states and head: the first that ``outputs`` of a teacher have."""
    if _TOP_K[0] in outputs.by_row:
        return TopKLogits.from_outputs(outputs)
    return LinearLogits.from_outputs(outputs) if outputs.logits is None else outputs.logits


@torch.no_grad()
def top_k_logits(
    logits: LinearLogits | Tensor, k: int, *, temperature: float = 1.0, num_classes: int | None = None,
    chunk_rows: int | None = None,
) -> TopKLogits:  # fmt: skip
    """The ``k`` largest logits of each row, and the log-sum-exp of all, in chunks of rows.

    Args:
        logits: hidden states and head, or ``[rows, classes]``.
        k: number of classes that are kept, at most all.
        temperature: the temperature at which a loss will use them.
        num_classes: classes from this index on are padding of the vocabulary and left out; ``None``: none is.
        chunk_rows: rows whose logits are computed at once; ``None``: by the number of classes.

    >>> top_k_logits(torch.tensor([[0.0, 2.0, 1.0]]), 2)
    TopKLogits(values=tensor([[2., 1.]]), classes=tensor([[1, 2]]), log_normalizer=tensor([2.4076]), temperature=1.0)
    """
    source = ChunkedLogits(logits, logits.shape[1] if num_classes is None else num_classes)
    require_interval("k", k, f"[1, {source.num_classes}]")
    values = source.new_empty(len(source), k)
    classes, log_normalizer = torch.empty_like(values, dtype=torch.int64), values.new_empty(len(source))
    for rows in source.chunks(chunk_rows):
        chunk = upcast(source.compute(rows))
        torch.topk(chunk, k, dim=1, out=(values[rows], classes[rows]))
        log_normalizer[rows] = (chunk / temperature).logsumexp(dim=1)
    return TopKLogits(values, classes, log_normalizer, temperature)


@final
class ChunkedLogits:
    """Logits that are computed for some rows at a time, without gradients.

    Products are in the dtype of autocast, where it is enabled, and of the hidden states otherwise; float16 is computed
    in float32, since small gradients would vanish.

    Args:
        logits: hidden states and head, or ``[rows, classes]``.
        num_classes: classes from this index on are left out.

    Attributes:
        num_classes: number of classes.
        hidden: ``[rows, width]`` in the dtype of the products; empty for given logits.
        weight: ``[num_classes, width]`` likewise.
        dtype: of the products.
    """

    def __init__(self, logits: LinearLogits | Tensor, num_classes: int) -> None:
        if logits.shape[1] < 2:
            raise LimbeckError(f"logits must have at least 2 classes for a softmax, got {list(logits.shape)}")
        if not 2 <= num_classes <= logits.shape[1]:
            raise LimbeckError(f"num_classes must be from 2 to {logits.shape[1]}, those of the head, got {num_classes}")
        self.num_classes, self._num_rows = num_classes, logits.shape[0]
        self._logits = logits.detach()[:, :num_classes] if isinstance(logits, Tensor) else None
        self.hidden = self.weight = logits[:0] if isinstance(logits, Tensor) else logits.hidden
        self.dtype = self.hidden.dtype
        self._bias: Tensor | None = None
        self._buffer: Tensor | None = None
        if isinstance(logits, Tensor):
            return
        self.dtype = _product_dtype(logits.hidden)
        self.hidden, self.weight = (
            tensor.detach().to(self.dtype) for tensor in (logits.hidden, logits.weight[:num_classes])
        )
        if logits.bias is not None:
            self._bias = logits.bias.detach()[:num_classes].to(self.dtype)

    def __len__(self) -> int:
        return self._num_rows

    def new_empty(self, *shape: int) -> Tensor:
        """An uninitialized tensor of at least float32 on the same device."""
        return self.hidden.new_empty(shape, dtype=torch.promote_types(self.dtype, torch.float32))

    def chunks(self, chunk_rows: int | None) -> Iterator[slice]:
        """The rows in chunks of ``chunk_rows``; ``None``: by the number of classes and the kind of device."""
        if chunk_rows is None:
            elements = _CHUNK_ELEMENTS_CPU if self.hidden.device.type == "cpu" else _CHUNK_ELEMENTS
            chunk_rows = max(1, elements // self.num_classes)
        for start in range(0, len(self), chunk_rows):
            yield slice(start, min(start + chunk_rows, len(self)))

    def compute(self, rows: slice) -> Tensor:
        """The logits of ``rows``, ``[rows, num_classes]``, overwritten by the next call."""
        if self._logits is not None:
            return self._logits[rows]
        hidden = self.hidden[rows]
        if self._buffer is None:  # the first chunk is the largest
            self._buffer = hidden.new_empty(len(hidden), self.num_classes)
        out = self._buffer[: len(hidden)]
        if self._bias is None:
            return torch.mm(hidden, self.weight.t(), out=out)
        return torch.addmm(self._bias, hidden, self.weight.t(), out=out)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    return torch.float32 if dtype == torch.float16 else dtype
