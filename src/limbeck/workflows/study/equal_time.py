"""How much longer a distilled training takes than that of the baseline: the steps of ``equal_time``.

The steps of both are timed in turns, so that other load slows both alike, with their precision. Teacher outputs are
computed at every step or, where the recipe itself has a cache, once for each view. A cache that the study adds, and
the training of the teacher, do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.progress import Progress
from limbeck.training import make_fabric
from limbeck.training.fit import get_batches
from limbeck.utils.timing import measure_latencies
from limbeck.workflows._job.job import Job

__all__ = ["measure_time_ratio"]


def measure_time_ratio(job: Job) -> float:
    """Wall time of the recipe's stages with their teachers, divided by that of the same stages without."""
    teachers: dict[str, nn.Module] = {
        name: (job.build_teacher(name) if name in job.recipe.teachers else job.build_assistant(name)).eval()
        for name in job.recipe.training_order()[-1].teachers
    }
    distilled_seconds = baseline_seconds = 0.0
    for stage_index, num_steps in enumerate(job.stage_steps()):
        step, query_teachers = _make_step(job, stage_index, teachers)
        step_without, _ = _make_step(job, stage_index, None)
        calls = {"distilled": step, "query": query_teachers, "baseline": step_without}
        num_threads = torch.get_num_threads()
        timings = measure_latencies(calls, rounds=6, calls_per_round=2, max_seconds=60.0, num_threads=num_threads)
        seconds, query_seconds, seconds_without = (timings[name]["median"] for name in calls)
        saved_by_cache = (1 - _query_fraction(job, num_steps)) * min(query_seconds, seconds - seconds_without)
        distilled_seconds += num_steps * (seconds - max(0.0, saved_by_cache))
        baseline_seconds += num_steps * seconds_without
    return distilled_seconds / baseline_seconds


def _query_fraction(job: Job, num_steps: int) -> float:
    """The fraction of a stage's samples for which teacher outputs are computed: with a cache, each view once."""
    num_views = job.data.augmentation.num_views if job.data.augmentation.transforms else 1
    if job.recipe.cache is None or not num_views:
        return 1.0
    return min(1.0, num_views * len(job.data.train) / (num_steps * job.recipe.training.batch_size))


def _make_step(
    job: Job, stage_index: int, teachers: dict[str, nn.Module] | None
) -> tuple[Callable[[], None], Callable[[], None]]:
    """An optimizer step with ``teachers`` or (``None``) of the baseline, and the teacher outputs of one step."""
    distiller, training = job.dry_run_stage(stage_index, teachers)
    device = make_fabric().device
    stream = get_batches(job.data, training, "all" if distiller.teachers else "labeled")
    precision_fabric = make_fabric(precision=job.plan.stages[stage_index].training.precision)
    batch_indices = count()

    def next_batch() -> dict[str, Any]:
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

    def query_teachers() -> None:
        batch = next_batch()
        for teacher in distiller.teachers.values():
            teacher.predict(batch, distiller.task)

    return step, query_teachers
