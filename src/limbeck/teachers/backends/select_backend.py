"""Choosing the engine of a frozen network by a short measurement on a real batch, and remembering the choice."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch
from torch import nn

from limbeck.core.errors import LimbeckError, nearest, reason
from limbeck.core.outputs import Outputs
from limbeck.core.protocols import Task
from limbeck.teachers.backends.backend_report import Report
from limbeck.teachers.backends.builders import CANDIDATES, Ready, Situation
from limbeck.teachers.backends.call_recorder import Unfit, answered, difference, heard
from limbeck.teachers.backends.runtime_session import missing

__all__ = ["ENGINES", "Engine"]

ENGINES = ("auto", *CANDIDATES)
TOLERANCE = 1e-4
_AUTO = ("eager", "folded", "openvino", "onnxruntime")
_FEWEST, _MOST, _ENOUGH = 7, 60, 0.5


@final
class Engine:
    """How a frozen network answers.

    Arguments:
        name: one of :data:`ENGINES`. ``auto`` takes the fastest of those that fit; it does not try ``compile``, which
            takes a minute to get ready.
        seconds: how long to measure; no candidate is made ready once five times that is spent.
        tell: who is told what was found; ``None``: nobody.
        clock: seconds that pass, for tests.

    An engine fits when it can run the network, and answers a real batch (logits, maps, taps) like eager up to 1e-4 of
    the largest number there. All have the threads that torch has. The choice is made at the first batch, and holds for
    as long as the network stays where it is; weights that change later are seen by ``eager`` only.
    """

    def __init__(
        self, name: str = "eager", *, seconds: float = 3.0, tell: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        if name not in ENGINES:
            raise LimbeckError(f"no engine is named {name!r}; there are: {nearest(name, ENGINES)}")
        if (absent := missing(name)) is not None:
            raise LimbeckError(f"engine {name!r}: {absent}")
        self.name, self.seconds, self.tell, self.clock = name, seconds, tell, clock
        self.report = Report(asked=name, engine=name)
        # The network is kept beside what was made of it, so that no other can come to its id.
        self._ready: dict[tuple[int, tuple[tuple[str, str], ...]], tuple[nn.Module, Ready]] = {}

    def require_taps(self, places: Mapping[str, str]) -> None:
        """Refuse to tap features where the engine gives answers only, before an hour was spent on the teacher."""
        if places and self.name not in ("auto", "eager", "folded"):
            raise LimbeckError(
                f"engine {self.name!r} gives answers only, and features are tapped ({', '.join(places)}): "
                "set engine to eager, folded or auto"
            )

    def answer(self, network: nn.Module, places: Mapping[str, str], batch: Any, task: Task) -> Outputs:
        """What ``network`` says about ``batch``, by the engine that was chosen."""
        key = (id(network), tuple(sorted(places.items())))
        if key not in self._ready:
            ready, self.report = _chosen(self, network, places, batch, task)
            self._ready[key] = network, ready
            if self.tell is not None:
                self.tell(str(self.report))
        ready = self._ready[key][1]
        return answered(ready.network, ready.taps, batch, task)

    def forget(self) -> None:
        """Choose again at the next batch: the network has moved."""
        self._ready.clear()

    def __getstate__(self) -> dict[str, Any]:
        # What was made ready belongs to this very network and process.
        return {**self.__dict__, "_ready": {}, "tell": None}

    def __repr__(self) -> str:
        return f"Engine({self.name!r})"


def _chosen(
    engine: Engine, network: nn.Module, places: Mapping[str, str], batch: Any, task: Task
) -> tuple[Ready, Report]:
    """The engine that answers from now on, and what was found."""
    begun = engine.clock()
    eager = CANDIDATES["eager"](Situation(network, places, ()))
    expected, calls = heard(network, eager.taps, batch, task)
    at = Situation(network, places, calls)
    fit, apart, left_out = {"eager": eager}, dict[str, float](), dict[str, str]()
    for name in _AUTO if engine.name == "auto" else (engine.name,):
        if name == "eager":
            continue
        try:
            if engine.name == "auto" and engine.clock() - begun > 5 * engine.seconds:
                raise Unfit("the time for measuring was spent")
            ready = CANDIDATES[name](at)
            apart[name] = _checked(ready, expected, batch, task)
            fit[name] = ready
        except Unfit as error:
            left_out[name] = str(error)
        except Exception as error:  # torch.compile and the runtimes raise whatever they meet
            left_out[name] = str(error) if isinstance(error, LimbeckError) else reason(error)
    if left_out and engine.name not in ("auto", "folded"):
        raise LimbeckError(f"engine {engine.name!r} does not fit this teacher, for {left_out[engine.name]}: set auto")
    took = _milliseconds(fit, batch, task, engine)
    best = min(took, key=lambda name: took[name]) if engine.name == "auto" else list(fit)[-1]
    report = Report(
        asked=engine.name, engine=best, batch=_shape(calls), threads=torch.get_num_threads(), milliseconds=took,
        difference=apart, left_out=left_out, notes={name: one.note for name, one in fit.items() if one.note},
    )  # fmt: skip
    return fit[best], report


def _checked(ready: Ready, expected: Outputs, batch: Any, task: Task) -> float:
    """How far its answer is from eager's, or ``Unfit`` where that is too far."""
    found = difference(answered(ready.network, ready.taps, batch, task), expected)
    if not found <= TOLERANCE:
        raise Unfit(
            f"its answer differs from eager's by {found:.1e} of the largest number ({TOLERANCE:.0e} is allowed)"
        )
    return found


def _milliseconds(fit: Mapping[str, Ready], batch: Any, task: Task, engine: Engine) -> dict[str, float]:
    """The median time of an answer of each, in turns, so that a slow moment of the machine meets all alike.

    Seven turns, or more where all of them are over in half a second, or fewer where the time is spent.
    """
    taken: dict[str, list[float]] = {name: [] for name in fit}
    begun = engine.clock()
    for turn in range(_MOST):
        for name, ready in fit.items():
            start = engine.clock()
            answered(ready.network, ready.taps, batch, task)
            taken[name].append(engine.clock() - start)
        spent = engine.clock() - begun
        if spent > engine.seconds or (turn + 1 >= _FEWEST and spent > _ENOUGH):
            break
    return {name: 1e3 * statistics.median(times) for name, times in taken.items()}


def _shape(calls: Iterable[Any]) -> tuple[int, ...]:
    given = [value for call in calls for value in (*call.args, *call.kwargs.values())]
    return next((tuple(value.shape) for value in given if isinstance(value, torch.Tensor)), ())
