"""Selects the inference backend of a frozen network by measuring latencies on a real batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from limbeck.core.errors import LimbeckError, format_root_cause, suggest_names
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.teachers.backends.builders import BUILDERS, BackendUnsupported, BuildContext, PreparedModel, record_calls
from limbeck.teachers.backends.runtime_session import missing_package_message
from limbeck.utils.timing import measure_latencies

__all__ = ["BACKENDS", "BackendReport", "InferenceBackend", "max_relative_difference"]

BACKENDS = ("auto", *BUILDERS)
TOLERANCE = 1e-4
_AUTO_CANDIDATES = ("eager", "fold_batchnorm", "openvino", "onnxruntime")
_ROUNDS = 20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReport:
    """The selected backend and the measurements behind it.

    Attributes:
        requested: the requested backend, ``auto`` included.
        backend: the selected backend.
        input_shape: shape of the input that was measured.
        num_threads: threads of each backend.
        latency_ms: median latency of each backend that was measured.
        max_difference: largest difference to eager, relative to eager's largest value.
        skipped: why a backend was not measured.
        notes: remarks on a backend that was.

    >>> print(BackendReport(requested="auto", backend="fold_batchnorm", input_shape=(64, 3, 32, 32), num_threads=1,
    ...              latency_ms={"eager": 120.0, "fold_batchnorm": 60.0}, max_difference={"fold_batchnorm": 4e-7}))
    fold_batchnorm, 2.0 times eager's speed (60 ms for 64×3×32×32, 1 thread, difference 4e-07)
    """

    requested: str
    backend: str
    input_shape: tuple[int, ...] = ()
    num_threads: int = 1
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    max_difference: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def speedup(self) -> float | None:
        """Latency of eager over that of the backend; ``None`` without a measurement."""
        eager_ms, backend_ms = self.latency_ms.get("eager"), self.latency_ms.get(self.backend)
        return eager_ms / backend_ms if eager_ms and backend_ms else None

    def __str__(self) -> str:
        if self.speedup is None:
            return self.backend
        speed = "" if self.backend == "eager" else f", {self.speedup:.1f} times eager's speed"
        details = f"{self.latency_ms[self.backend]:.3g} ms for {'×'.join(map(str, self.input_shape))}"
        details += f", {self.num_threads} thread{'s' if self.num_threads > 1 else ''}"
        if self.backend in self.max_difference:
            details += f", difference {self.max_difference[self.backend]:.0e}"
        remarks = [f"{name} {ms:.3g} ms" for name, ms in self.latency_ms.items() if name not in ("eager", self.backend)]
        remarks += [f"{name}: {note}" for name, note in self.notes.items()]
        remarks += [f"not {name}: {reason}" for name, reason in self.skipped.items()]
        return "; ".join([f"{self.backend}{speed} ({details})", *remarks])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``record.json``."""
        latencies = {name: round(milliseconds, 3) for name, milliseconds in self.latency_ms.items()}
        speedup = None if self.speedup is None else round(self.speedup, 3)
        return asdict(self) | {"input_shape": list(self.input_shape), "latency_ms": latencies, "speedup": speedup}


@final
class InferenceBackend:
    """Computes the outputs of a frozen network with one of :data:`BACKENDS`.

    Args:
        name: the backend. ``auto`` selects the fastest one that is supported, except ``compile``, which takes a
            minute to compile.
        measure_seconds: time for measuring; no backend is built after five times that.
        log: called with the report as text.

    A backend is supported if its outputs and features on a real batch differ from eager's by at most 1e-4 of eager's
    largest value. All backends get the threads of torch. The selection is made on the first batch and repeated when the
    network moves to another device or dtype. Only ``eager`` uses weights that change later.
    """

    def __init__(
        self, name: str = "eager", *, measure_seconds: float = 3.0, log: Callable[[str], None] | None = None
    ) -> None:
        if name not in BACKENDS:
            raise LimbeckError(f"unknown backend {name!r}; available: {suggest_names(name, BACKENDS)}")
        if (missing_package := missing_package_message(name)) is not None:
            raise LimbeckError(f"backend {name!r}: {missing_package}")
        self.name, self.measure_seconds, self.log = name, measure_seconds, log
        self.report = BackendReport(requested=name, backend=name)
        # The network is stored with its prepared model, so that its id stays unique.
        self._prepared: dict[tuple[int, tuple[tuple[str, str], ...]], tuple[nn.Module, PreparedModel]] = {}

    def require_feature_support(self, feature_layers: Mapping[str, str]) -> None:
        """Raise ``LimbeckError`` if there are ``feature_layers`` and this backend cannot read features."""
        if feature_layers and self.name not in ("auto", "eager", "fold_batchnorm"):
            raise LimbeckError(
                f"backend must be eager, fold_batchnorm or auto to read features ({', '.join(feature_layers)}), got "
                f"{self.name!r}"
            )

    def predict(self, network: nn.Module, feature_layers: Mapping[str, str], batch: Any, task: Task) -> Outputs:
        """Outputs of ``network`` for ``batch``."""
        key = (id(network), tuple(sorted(feature_layers.items())))
        if key not in self._prepared:
            self._prepared[key] = network, self._select(network, feature_layers, batch, task)
            if self.log is not None:
                self.log(str(self.report))
        return self._prepared[key][1].predict(batch, task)

    def reset(self) -> None:
        """Repeat the selection on the next batch."""
        self._prepared.clear()

    def _select(self, network: nn.Module, feature_layers: Mapping[str, str], batch: Any, task: Task) -> PreparedModel:
        deadline = time.perf_counter() + 5 * self.measure_seconds
        eager = BUILDERS["eager"](BuildContext(network, feature_layers, ()))
        expected, calls = record_calls(network, eager.feature_extractor, batch, task)
        input_axes = getattr(task, "input_axes", {"input": {0: "batch"}})
        context = BuildContext(network, feature_layers, calls, input_axes)
        supported, differences, skipped = {"eager": eager}, dict[str, float](), dict[str, str]()
        for name in _AUTO_CANDIDATES if self.name == "auto" else (self.name,):
            if name == "eager":
                continue
            try:
                if self.name == "auto" and time.perf_counter() > deadline:
                    raise BackendUnsupported("the time for measuring is over")
                prepared = BUILDERS[name](context)
                differences[name] = _check_outputs(prepared.predict(batch, task), expected)
                supported[name] = prepared
            except Exception as error:  # torch.compile and the runtimes raise errors of any type
                skipped[name] = str(error) if isinstance(error, LimbeckError) else format_root_cause(error)
        if skipped and self.name not in ("auto", "fold_batchnorm"):
            reason = skipped[self.name]
            raise LimbeckError(f"backend {self.name!r} does not support this teacher: {reason}; set auto")
        timings = measure_latencies(
            {name: partial(prepared.predict, batch, task) for name, prepared in supported.items()},
            rounds=_ROUNDS, calls_per_round=1, warmup=0, max_seconds=self.measure_seconds / len(supported),
            num_threads=torch.get_num_threads(),
        )  # fmt: skip
        latencies = {name: float(timing["median"]) for name, timing in timings.items()}
        best = min(latencies, key=latencies.__getitem__) if self.name == "auto" else list(supported)[-1]
        inputs = [value for call in calls for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor)]
        self.report = BackendReport(
            requested=self.name, backend=best, input_shape=tuple(inputs[0].shape) if inputs else (),
            num_threads=torch.get_num_threads(), latency_ms=latencies, max_difference=differences, skipped=skipped,
            notes={name: model.note for name, model in supported.items() if model.note},
        )  # fmt: skip
        return supported[best]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": {}, "log": None}  # prepared models belong to this process

    def __repr__(self) -> str:
        return f"InferenceBackend({self.name!r})"


def max_relative_difference(outputs: Outputs, expected: Outputs) -> float:
    """Largest difference of a value, relative to the largest expected value of its tensor; inf for different shapes.

    >>> max_relative_difference(Outputs(logits=torch.tensor([[3.0, 1.0]])), Outputs(logits=torch.tensor([[4.0, 1.0]])))
    0.25
    """
    actual_tensors, expected_tensors = (
        [t.float() for t in tree_leaves([getattr(value, item.name) for item in fields(value)]) if t is not None]
        for value in (outputs, expected)
    )
    if [t.shape for t in actual_tensors] != [t.shape for t in expected_tensors]:
        return float("inf")
    return max(map(_relative_difference, actual_tensors, expected_tensors), default=0.0)


def _relative_difference(actual: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    difference = torch.where(actual == expected, 0.0, (actual - expected).abs())  # inf − inf is NaN
    scale = expected.abs().where(expected.isfinite(), 0.0).max().clamp(min=1e-30)
    return float((difference.max() / scale).nan_to_num(nan=torch.inf, posinf=torch.inf))


def _check_outputs(outputs: Outputs, expected: Outputs) -> float:
    difference = max_relative_difference(outputs, expected)
    if difference > TOLERANCE:
        raise BackendUnsupported(f"its outputs differ from eager's by {difference:.1e}, more than {TOLERANCE:.0e}")
    return difference
