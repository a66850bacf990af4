"""How much longer a distilled training takes than the same alone: what "equal wall time" means for the baseline.

Both steps are timed in turns, so that a busy moment slows both alike, and in the precision that they are trained in.
The teacher is asked as a user of the recipe would ask it: at every step, or, where the recipe itself has a cache, for
the share of the pictures that is new. What the study shares among its variants is no discount, and the teacher's own
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
from limbeck.training import make_fabric
from limbeck.training.fit import get_batches
from limbeck.workflows._job.job import Job

__all__ = ["measure_time_ratio"]


def measure_time_ratio(job: Job, *, num_repeats: int = 12) -> float:
    """Wall time of the recipe's stages with their teachers, divided by that of the same stages alone.

    Arguments:
        job: the recipe itself.
        num_repeats: how often each step is timed, after two times that do not count.
    """
    teachers: dict[str, nn.Module] = {
        name: (job.build_teacher(name) if name in job.recipe.teachers else job.build_assistant(name)).eval()
        for name in job.recipe.training_order()[-1].teachers
    }
    distilled_seconds = baseline_seconds = 0.0
    for stage_index, num_steps in enumerate(job.stage_steps()):
        step, query_teachers = _make_distilled_step(job, stage_index, teachers)
        step_with_teachers, teacher_query, step_without = _median_seconds(
            [step, query_teachers, _make_baseline_step(job, stage_index)], num_repeats=num_repeats
        )
        saved_by_cache = (1 - _teacher_query_fraction(job, num_steps)) * min(
            teacher_query, step_with_teachers - step_without
        )
        distilled_seconds += num_steps * (step_with_teachers - max(0.0, saved_by_cache))
        baseline_seconds += num_steps * step_without
    return distilled_seconds / baseline_seconds


def _teacher_query_fraction(job: Job, num_steps: int) -> float:
    """The share of a stage's pictures that the teacher is asked about: with a cache, each view once."""
    num_views = job.data.augmentation.num_views if job.data.augmentation.transforms else 1
    if job.recipe.cache is None or not num_views:
        return 1.0
    return min(1.0, num_views * len(job.data.train) / (num_steps * job.recipe.training.batch_size))


def _make_distilled_step(
    job: Job, stage_index: int, teachers: dict[str, nn.Module]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A whole step with teachers, and the asking alone."""
    distiller, next_batch, step = _make_step(job, stage_index, teachers)

    def query_teachers() -> None:
        batch = next_batch()
        for source in distiller.teachers.values():
            source.predict(batch, distiller.task)

    return step, query_teachers


def _make_baseline_step(job: Job, stage_index: int) -> Callable[[], None]:
    return _make_step(job, stage_index, None)[2]


def _make_step(
    job: Job, stage_index: int, teachers: dict[str, nn.Module] | None
) -> tuple[Any, Callable[[], Any], Callable[[], None]]:
    distiller, training = job.dry_run_stage(stage_index, teachers)
    device = make_fabric().device
    stream = get_batches(job.data, training, "all" if distiller.teachers else "labeled")
    precision_fabric = make_fabric(precision=job.plan.stages[stage_index].training.precision)
    batch_indices = iter(range(1_000_000))

    def next_batch() -> Any:
        return {name: value.to(device) for name, value in stream.batch(next(batch_indices)).items()}

    distiller.to(device).prepare(next_batch()).train()
    distiller.progress = Progress(step=0, steps=1, total_steps=1)
    optimizer = training.optimizer(distiller.parameters())

    def step() -> None:
        optimizer.zero_grad()
        with precision_fabric.autocast():
            total: Tensor = distiller(next_batch()).total
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return distiller, next_batch, step


def _median_seconds(calls: list[Callable[[], None]], *, num_repeats: int) -> list[float]:
    """Median seconds of each, made in turns."""
    durations: list[list[float]] = [[] for _ in calls]
    for repeat in range(num_repeats + 2):
        for call, times in zip(calls, durations, strict=True):
            start_time = time.perf_counter()
            call()
            if repeat >= 2:
                times.append(time.perf_counter() - start_time)
    return [statistics.median(times) for times in durations]
