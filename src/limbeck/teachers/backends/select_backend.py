"""Selects the inference backend of a frozen network by measuring latencies on a real batch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, format_root_cause, suggest_names
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.teachers.backends.builders import (
    BUILDERS,
    BackendUnsupported,
    BuildContext,
    PreparedModel,
    RecordedCall,
    record_calls,
)
from limbeck.teachers.backends.runtime_session import find_missing_package

__all__ = ["BACKENDS", "BackendReport", "InferenceBackend", "max_relative_difference"]

BACKENDS = ("auto", *BUILDERS)
TOLERANCE = 1e-4
_AUTO_CANDIDATES = ("eager", "fold_batchnorm", "openvino", "onnxruntime")
_MIN_ROUNDS, _MAX_ROUNDS, _ENOUGH_SECONDS = 7, 60, 0.5


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
        rounded = {name: round(milliseconds, 3) for name, milliseconds in self.latency_ms.items()}
        speedup = None if self.speedup is None else round(self.speedup, 3)
        return asdict(self) | {"input_shape": list(self.input_shape), "latency_ms": rounded, "speedup": speedup}


@final
class InferenceBackend:
    """Computes the outputs of a frozen network with one of :data:`BACKENDS`.

    Args:
        name: the backend. ``auto`` selects the fastest one that is supported, except ``compile``, which takes a
            minute to compile.
        measure_seconds: time for measuring; no backend is built after five times that.
        log: called with the report as text.
        clock: current time in seconds, for tests.

    A backend is supported if its outputs and features on a real batch differ from eager's by at most 1e-4 of eager's
    largest value. All backends get the threads of torch. The selection is made on the first batch and repeated when the
    network moves to another device or dtype. Only ``eager`` uses weights that change later.
    """

    def __init__(
        self, name: str = "eager", *, measure_seconds: float = 3.0, log: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        if name not in BACKENDS:
            raise LimbeckError(f"unknown backend {name!r}; there are: {suggest_names(name, BACKENDS)}")
        if (missing_package := find_missing_package(name)) is not None:
            raise LimbeckError(f"backend {name!r}: {missing_package}")
        self.name, self.measure_seconds, self.log, self.clock = name, measure_seconds, log, clock
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
            prepared, self.report = _select_backend(self, network, feature_layers, batch, task)
            self._prepared[key] = network, prepared
            if self.log is not None:
                self.log(str(self.report))
        return self._prepared[key][1].predict(batch, task)

    def reset(self) -> None:
        """Repeat the selection on the next batch."""
        self._prepared.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": {}, "log": None}  # prepared models belong to this process

    def __repr__(self) -> str:
        return f"InferenceBackend({self.name!r})"


def max_relative_difference(outputs: Outputs, expected: Outputs) -> float:
    """Largest difference of a value, relative to the largest expected value of its tensor; inf for different shapes.

    >>> max_relative_difference(Outputs(logits=torch.tensor([[3.0, 1.0]])), Outputs(logits=torch.tensor([[4.0, 1.0]])))
    0.25
    """
    actual_tensors, expected_tensors = _named_tensors(outputs), _named_tensors(expected)
    if {n: t.shape for n, t in actual_tensors.items()} != {n: t.shape for n, t in expected_tensors.items()}:
        return float("inf")
    differences = [_relative_difference(actual_tensors[n].float(), t.float()) for n, t in expected_tensors.items()]
    return max(differences, default=0.0)


def _relative_difference(actual: Tensor, expected: Tensor) -> float:
    if not expected.numel():
        return 0.0
    difference = torch.where(actual == expected, 0.0, (actual - expected).abs())  # inf − inf is NaN
    scale = expected.abs().where(expected.isfinite(), 0.0).max().clamp(min=1e-30)
    return float((difference.max() / scale).nan_to_num(nan=torch.inf, posinf=torch.inf))


def _named_tensors(outputs: Outputs) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for item in fields(outputs):
        value = getattr(outputs, item.name)
        if isinstance(value, Tensor):
            tensors[item.name] = value
        elif isinstance(value, Mapping):
            tensors |= {f"{item.name}.{name}": tensor for name, tensor in value.items()}
    return tensors


def _select_backend(
    backend: InferenceBackend, network: nn.Module, feature_layers: Mapping[str, str], batch: Any, task: Task
) -> tuple[PreparedModel, BackendReport]:
    start = backend.clock()
    eager = BUILDERS["eager"](BuildContext(network, feature_layers, ()))
    expected, calls = record_calls(network, eager.feature_extractor, batch, task)
    context = BuildContext(network, feature_layers, calls)
    supported, differences, skipped = {"eager": eager}, dict[str, float](), dict[str, str]()
    candidates = _AUTO_CANDIDATES if backend.name == "auto" else (backend.name,)
    for name in candidates:
        if name == "eager":
            continue
        try:
            if backend.name == "auto" and backend.clock() - start > 5 * backend.measure_seconds:
                raise BackendUnsupported("the time for measuring is over")
            prepared = BUILDERS[name](context)
            differences[name] = _check_outputs(prepared.predict(batch, task), expected)
            supported[name] = prepared
        except Exception as error:  # torch.compile and the runtimes raise errors of any type
            skipped[name] = str(error) if isinstance(error, LimbeckError) else format_root_cause(error)
    if skipped and backend.name not in ("auto", "fold_batchnorm"):
        raise LimbeckError(f"backend {backend.name!r} does not support this teacher: {skipped[backend.name]}; set auto")
    latencies = _measure_latencies(supported, batch, task, backend)
    best = min(latencies, key=lambda name: latencies[name]) if backend.name == "auto" else list(supported)[-1]
    report = BackendReport(
        requested=backend.name, backend=best, input_shape=_first_input_shape(calls),
        num_threads=torch.get_num_threads(),
        latency_ms=latencies, max_difference=differences, skipped=skipped,
        notes={name: model.note for name, model in supported.items() if model.note},
    )  # fmt: skip
    return supported[best], report


def _check_outputs(outputs: Outputs, expected: Outputs) -> float:
    difference = max_relative_difference(outputs, expected)
    if difference > TOLERANCE:
        raise BackendUnsupported(f"its outputs differ from eager's by {difference:.1e}, more than {TOLERANCE:.0e}")
    return difference


def _measure_latencies(
    supported: Mapping[str, PreparedModel], batch: Any, task: Task, backend: InferenceBackend
) -> dict[str, float]:
    """Median latencies in ms, measured alternately so that other load of the machine affects all backends alike."""
    seconds: dict[str, list[float]] = {name: [] for name in supported}
    measure_start = backend.clock()
    for round_index in range(_MAX_ROUNDS):
        for name, prepared in supported.items():
            start = backend.clock()
            prepared.predict(batch, task)
            seconds[name].append(backend.clock() - start)
        elapsed = backend.clock() - measure_start
        if elapsed > backend.measure_seconds or (round_index + 1 >= _MIN_ROUNDS and elapsed > _ENOUGH_SECONDS):
            break
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def _first_input_shape(calls: list[RecordedCall]) -> tuple[int, ...]:
    inputs = [value for call in calls for value in (*call.args, *call.kwargs.values())]
    return next((tuple(value.shape) for value in inputs if isinstance(value, Tensor)), ())
