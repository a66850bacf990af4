"""Choosing the engine of a frozen network by a short measurement on a real batch, and remembering the choice."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch
from torch import nn

from limbeck.core.errors import LimbeckError, format_root_cause, suggest_names
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.teachers.backends.backend_report import BackendReport
from limbeck.teachers.backends.builders import BUILDERS, BuildContext, PreparedModel
from limbeck.teachers.backends.call_recorder import (
    BackendUnsupported,
    compute_outputs,
    max_relative_difference,
    record_calls,
)
from limbeck.teachers.backends.runtime_session import find_missing_package

__all__ = ["BACKENDS", "InferenceBackend"]

BACKENDS = ("auto", *BUILDERS)
TOLERANCE = 1e-4
_AUTO_CANDIDATES = ("eager", "fold_batchnorm", "openvino", "onnxruntime")
_MIN_ROUNDS, _MAX_ROUNDS, _ENOUGH_SECONDS = 7, 60, 0.5


@final
class InferenceBackend:
    """How a frozen network answers.

    Arguments:
        name: one of :data:`BACKENDS`. ``auto`` takes the fastest of those that fit; it does not try ``compile``, which
            takes a minute to get ready.
        measure_seconds: how long to measure; no candidate is made ready once five times that is spent.
        log: who is told what was found; ``None``: nobody.
        clock: seconds that pass, for tests.

    An engine fits when it can run the network, and answers a real batch (logits, maps, taps) like eager up to 1e-4 of
    the largest number there. All have the threads that torch has. The choice is made at the first batch, and holds for
    as long as the network stays where it is; weights that change later are seen by ``eager`` only.
    """

    def __init__(
        self, name: str = "eager", *, measure_seconds: float = 3.0, log: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        if name not in BACKENDS:
            raise LimbeckError(f"no backend is named {name!r}; there are: {suggest_names(name, BACKENDS)}")
        if (missing_package := find_missing_package(name)) is not None:
            raise LimbeckError(f"backend {name!r}: {missing_package}")
        self.name, self.measure_seconds, self.log, self.clock = name, measure_seconds, log, clock
        self.report = BackendReport(requested=name, backend=name)
        # The network is kept beside what was made of it, so that no other can come to its id.
        self._prepared: dict[tuple[int, tuple[tuple[str, str], ...]], tuple[nn.Module, PreparedModel]] = {}

    def require_feature_support(self, feature_layers: Mapping[str, str]) -> None:
        """Refuse to tap features where the engine gives answers only, before an hour was spent on the teacher."""
        if feature_layers and self.name not in ("auto", "eager", "fold_batchnorm"):
            raise LimbeckError(
                f"backend {self.name!r} gives answers only, and features are tapped ({', '.join(feature_layers)}): "
                "set backend to eager, fold_batchnorm or auto"
            )

    def predict(self, network: nn.Module, feature_layers: Mapping[str, str], batch: Any, task: Task) -> Outputs:
        """What ``network`` says about ``batch``, by the engine that was chosen."""
        key = (id(network), tuple(sorted(feature_layers.items())))
        if key not in self._prepared:
            prepared, self.report = _select_backend(self, network, feature_layers, batch, task)
            self._prepared[key] = network, prepared
            if self.log is not None:
                self.log(str(self.report))
        prepared = self._prepared[key][1]
        return compute_outputs(prepared.network, prepared.feature_extractor, batch, task)

    def reset(self) -> None:
        """Choose again at the next batch: the network has moved."""
        self._prepared.clear()

    def __getstate__(self) -> dict[str, Any]:
        # What was made ready belongs to this very network and process.
        return {**self.__dict__, "_prepared": {}, "log": None}

    def __repr__(self) -> str:
        return f"InferenceBackend({self.name!r})"


def _select_backend(
    backend: InferenceBackend, network: nn.Module, feature_layers: Mapping[str, str], batch: Any, task: Task
) -> tuple[PreparedModel, BackendReport]:
    """The engine that answers from now on, and what was found."""
    start = backend.clock()
    eager = BUILDERS["eager"](BuildContext(network, feature_layers, ()))
    expected, calls = record_calls(network, eager.feature_extractor, batch, task)
    context = BuildContext(network, feature_layers, calls)
    usable, differences, skipped = {"eager": eager}, dict[str, float](), dict[str, str]()
    for name in _AUTO_CANDIDATES if backend.name == "auto" else (backend.name,):
        if name == "eager":
            continue
        try:
            if backend.name == "auto" and backend.clock() - start > 5 * backend.measure_seconds:
                raise BackendUnsupported("the time for measuring was spent")
            prepared = BUILDERS[name](context)
            differences[name] = _verify_outputs(prepared, expected, batch, task)
            usable[name] = prepared
        except BackendUnsupported as error:
            skipped[name] = str(error)
        except Exception as error:  # torch.compile and the runtimes raise whatever they meet
            skipped[name] = str(error) if isinstance(error, LimbeckError) else format_root_cause(error)
    if skipped and backend.name not in ("auto", "fold_batchnorm"):
        raise LimbeckError(f"backend {backend.name!r} does not fit this teacher, for {skipped[backend.name]}: set auto")
    latencies = _measure_latencies(usable, batch, task, backend)
    best = min(latencies, key=lambda name: latencies[name]) if backend.name == "auto" else list(usable)[-1]
    report = BackendReport(
        requested=backend.name, backend=best, input_shape=_first_input_shape(calls), num_threads=torch.get_num_threads(), latency_ms=latencies,
        max_difference=differences, skipped=skipped, notes={name: prepared_model.note for name, prepared_model in usable.items() if prepared_model.note},
    )  # fmt: skip
    return usable[best], report


def _verify_outputs(prepared: PreparedModel, expected: Outputs, batch: Any, task: Task) -> float:
    """How far its answer is from eager's, or ``BackendUnsupported`` where that is too far."""
    relative_difference = max_relative_difference(
        compute_outputs(prepared.network, prepared.feature_extractor, batch, task), expected
    )
    if not relative_difference <= TOLERANCE:
        raise BackendUnsupported(
            f"its answer differs from eager's by {relative_difference:.1e} of the largest number ({TOLERANCE:.0e} is allowed)"
        )
    return relative_difference


def _measure_latencies(
    usable: Mapping[str, PreparedModel], batch: Any, task: Task, backend: InferenceBackend
) -> dict[str, float]:
    """The median time of an answer of each, in turns, so that a slow moment of the machine meets all alike.

    Seven turns, or more where all of them are over in half a second, or fewer where the time is spent.
    """
    seconds: dict[str, list[float]] = {name: [] for name in usable}
    measure_start = backend.clock()
    for round_index in range(_MAX_ROUNDS):
        for name, prepared in usable.items():
            start = backend.clock()
            compute_outputs(prepared.network, prepared.feature_extractor, batch, task)
            seconds[name].append(backend.clock() - start)
        elapsed = backend.clock() - measure_start
        if elapsed > backend.measure_seconds or (round_index + 1 >= _MIN_ROUNDS and elapsed > _ENOUGH_SECONDS):
            break
    return {name: 1e3 * statistics.median(times) for name, times in seconds.items()}


def _first_input_shape(calls: Iterable[Any]) -> tuple[int, ...]:
    inputs = [value for call in calls for value in (*call.args, *call.kwargs.values())]
    return next((tuple(value.shape) for value in inputs if isinstance(value, torch.Tensor)), ())
