"""How much longer a distilled training takes than the same alone: what "equal wall time" means for the control.

Both steps are timed in turns, so that a busy moment slows both alike, and in the precision that they are trained in.
The teacher is asked as a user of the recipe would ask it: at every step, or, where the recipe itself has a cache, for
the share of the pictures that is new. What the study shares among its arms is no discount, and the teacher's own
training is not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.progress import Progress
from limbeck.training import launched
from limbeck.training.fit import dealt
from limbeck.workflows._job.job import Job

__all__ = ["pace"]


def pace(job: Job, *, turns: int = 12) -> float:
    """Wall time of the recipe's stages with their teachers, divided by that of the same stages alone.

    Arguments:
        job: the recipe itself.
        turns: how often each step is timed, after two times that do not count.
    """
    guides: dict[str, nn.Module] = {
        name: (job.teacher(name) if name in job.recipe.teachers else job.assistant(name)).eval()
        for name in job.recipe.links()[-1].guides
    }
    taught = alone = 0.0
    for number, length in enumerate(job.lengths()):
        step, ask = _distilled(job, number, guides)
        with_teacher, asking, without = _medians([step, ask, _alone(job, number)], turns=turns)
        saved = (1 - _asked(job, length)) * min(asking, with_teacher - without)
        taught += length * (with_teacher - max(0.0, saved))
        alone += length * without
    return taught / alone


def _asked(job: Job, length: int) -> float:
    """The share of a stage's pictures that the teacher is asked about: with a cache, each view once."""
    views = job.data.views.per_sample if job.data.views.transforms else 1
    if job.recipe.cache is None or not views:
        return 1.0
    return min(1.0, views * len(job.data.train) / (length * job.recipe.training.batch))


def _distilled(job: Job, number: int, guides: dict[str, nn.Module]) -> tuple[Callable[[], None], Callable[[], None]]:
    """A whole step with teachers, and the asking alone."""
    distiller, batches, step = _trial(job, number, guides)

    def ask() -> None:
        batch = batches()
        for source in distiller.teachers.values():
            source.answer(batch, distiller.task)

    return step, ask


def _alone(job: Job, number: int) -> Callable[[], None]:
    return _trial(job, number, None)[2]


def _trial(
    job: Job, number: int, guides: dict[str, nn.Module] | None
) -> tuple[Any, Callable[[], Any], Callable[[], None]]:
    distiller, training = job.trial(number, guides)
    device = launched().device
    stream = dealt(job.data, training, "all" if distiller.teachers else "labelled")
    precise = launched(precision=job.plan.stages[number].training.precision)
    count = iter(range(1_000_000))

    def batches() -> Any:
        return {name: value.to(device) for name, value in stream.batch(next(count)).items()}

    distiller.to(device).prepare(batches()).train()
    distiller.progress = Progress(step=0, steps=1, total=1)
    optimizer = training.optimizer(distiller.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with precise.autocast():
            total: Tensor = distiller(batches()).total
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return distiller, batches, step


def _medians(calls: list[Callable[[], None]], *, turns: int) -> list[float]:
    """Median seconds of each, made in turns."""
    taken: list[list[float]] = [[] for _ in calls]
    for turn in range(turns + 2):
        for call, times in zip(calls, taken, strict=True):
            begun = time.perf_counter()
            call()
            if turn >= 2:
                times.append(time.perf_counter() - begun)
    return [statistics.median(times) for times in taken]
