"""The rules for teachers, brought to a recipe and to what was measured of its networks, for every command alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import Heard, hear, pairs
from limbeck.recipe import Recipe
from limbeck.teachers import Facts, Likeness, warnings
from limbeck.teachers.external.external_teacher import unanswered
from limbeck.workflows._job.job import Job

__all__ = ["bridged", "broken_rules", "facts", "likeness", "listen"]

_MOST = 10_000


def broken_rules(job: Job, networks: Mapping[str, nn.Module], models: Mapping[str, Any]) -> list[str]:
    """What a user should know of the teachers before believing the figures; by validation, never by the test part.

    Arguments:
        job: whose teachers they are.
        networks: by name, the teachers among them.
        models: ``models`` of the record, by the same names.
    """
    teachers = list(job.recipe.teachers)
    if not teachers:
        return []
    heard = {name: listen(job, networks[name]) for name in teachers} if len(teachers) > 1 else {}
    student = facts(models["alone"]) if "alone" in models else facts({**models["distilled"], "validation": {}})
    return warnings(
        {name: facts(models[name]) for name in teachers}, student, likeness=likeness(pairs(heard)),
        bridged=bridged(job.recipe),
    )  # fmt: skip


def facts(model: Mapping[str, Any]) -> Facts:
    """What the rules look at, out of one of the record's ``models``."""
    return Facts(
        accuracy=model["validation"].get("top1"), ece=model["validation"].get("ece"),
        latency=model["latency_ms"]["median"], parameters=model["parameters"],
    )  # fmt: skip


def likeness(compared: Sequence[Mapping[str, Any]]) -> list[Likeness]:
    """What the rules look at, out of what :func:`limbeck.evaluation.pairs` gives."""
    return [
        Likeness(first=pair["first"], second=pair["second"], agreement=1 - pair["disagreement"], cka=pair["cka"])
        for pair in compared
    ]


def listen(job: Job, network: nn.Module, *, place: str = "") -> Heard:
    """What ``network`` says about the validation part; features of at most 10,000 samples, evenly spread.

    A sample that a teacher leaves unanswered has logits of zero: beside others it knows nothing there.
    """
    every = -(-len(job.data.validation) // _MOST)
    try:
        heard = hear(network, job.data.validation_batches(), job.task, every=max(1, every))
    except LimbeckError as error:
        raise LimbeckError(f"{place}: {error}" if place else str(error)) from error
    if not getattr(network, "partial", False):
        return heard
    return replace(heard, logits=heard.logits.masked_fill(unanswered(heard.logits)[:, None], 0.0))


def bridged(recipe: Recipe) -> list[str]:
    """The teachers who need no word on a large gap: assistants stand between, or they are stopped early."""
    if getattr(recipe, "assistants", None):
        return list(recipe.teachers)
    return [name for name, teacher in recipe.teachers.items() if getattr(teacher, "stop", None) not in (None, 1)]
