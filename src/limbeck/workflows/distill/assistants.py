"""A chain from the teacher to a much smaller student: assistants of sizes between, each taught by those before it.

One after the other: Mirzadeh et al., AAAI 2020, https://arxiv.org/abs/1902.03393. Densely guided, each by all before
it: Son et al., ICCV 2021, https://arxiv.org/abs/2009.08825; their dropping of guides by chance is not here.

:func:`chain` takes plain modules; :func:`assist` is the part of the main job that a recipe's ``assistants`` ask for.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from torch import nn

from limbeck.core.errors import LimbeckError, nearest
from limbeck.core.protocols import Task, Term
from limbeck.core.schedules import Schedule
from limbeck.distiller import Distiller, each_teacher
from limbeck.models import save_weights
from limbeck.recipe.assistant_chain import Guided, Link, links
from limbeck.training import Run, Training, fit
from limbeck.training.callbacks import Watcher
from limbeck.training.fit import Source
from limbeck.workflows._job.job import Job

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["assist", "chain", "warnings"]


def chain(
    networks: Mapping[str, nn.Module],
    data: Source | Any,
    *,
    objective: Mapping[str, Term],
    weights: Mapping[str, float | Schedule] | None = None,
    taps: Mapping[str, Mapping[str, str]] | None = None,
    task: Task,
    guided: Guided = "last",
    epochs: int | None = None,
    steps: int | None = None,
    training: Training = Training(),
    out: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    fabric: Fabric | None = None,
    watchers: Sequence[Watcher] | None = None,
) -> dict[str, Run]:
    """Teach every network but the first, from large to small; gives the training of each by its name, in that order.

    Arguments:
        networks: by name, from large to small: the teacher, which is trained already, the assistants, the student.
        data: as for :func:`limbeck.fit`.
        objective: terms by name. Each network learns by fresh copies, so none may name a teacher, except that with
            ``dense`` every network is taught by the first.
        weights: a number or a schedule for each term.
        taps: for the name of each network, places by the name to give them, read while it learns and while it teaches.
        task: what a batch means.
        guided: each learns from the ``last`` before it, or from all before it (``dense``: a term to each, of equal
            shares).
        epochs: how often each training shows every picture; or give ``steps``.
        steps: how many optimizer steps each training makes.
        training: optimizer, batch and the like, for each training alike.
        out: the run folder; gets ``checkpoint/NAME.safetensors`` for each that was taught, and what ``fit`` writes.
        seed: of whatever is drawn from torch's generators.
        resume: go on where the chain in ``out`` was; what is finished is not done again.
        fabric: devices, precision, processes, as for :func:`limbeck.fit`.
        watchers: who is told how it goes; ``None``: a progress bar.

    The networks are trained in place: ``chain(...)["student"].student`` is ``networks["student"]``, in eval mode.
    """
    names = list(networks)
    if len(names) < 2:
        raise LimbeckError(f"a chain takes a teacher and at least one network that learns, and here are: {names}")
    if guided not in get_args(Guided):
        raise LimbeckError(f"guided is {' or '.join(get_args(Guided))}, not {guided!r}")
    for name in taps or {}:
        if name not in names:
            raise LimbeckError(f"taps are given for {name!r}; there are: {nearest(name, names)}")
    runs: dict[str, Run] = {}
    for learner, guides in links(names[:1], names[1:], guided=guided):
        _require_guides(objective, Link(learner, guides))
        terms, shares = each_teacher(objective, weights or {}, guides) if guided == "dense" else (objective, weights)
        places = {name: (taps or {})[name] for name in guides if name in (taps or {})}
        distiller = Distiller(
            networks[learner], {name: networks[name] for name in guides},
            objective={name: copy.deepcopy(term) for name, term in terms.items()}, weights=shares,
            taps=places | {"student": (taps or {}).get(learner, {})}, task=task,
        )  # fmt: skip
        runs[learner] = fit(
            distiller, data, epochs=epochs, steps=steps, training=training, out=out, phase=learner, seed=seed,
            resume=resume, fabric=fabric, watchers=watchers,
        )  # fmt: skip
        if out is not None:
            save_weights(networks[learner], Path(out) / "checkpoint" / f"{learner}.safetensors")
    return runs


def assist(
    job: Job, teachers: Mapping[str, nn.Module], *, resume: bool, watchers: Sequence[Watcher] | None
) -> dict[str, Run]:
    """Train the recipe's assistants through its stages, each by its guides; none where it has none."""
    runs: dict[str, Run] = {}
    for name, guides in job.recipe.links()[:-1]:
        known = {**teachers, **{done: run.student for done, run in runs.items()}}
        runs[name] = job.train(
            name, job.assistant(name), {guide: known[guide] for guide in guides}, resume=resume, watchers=watchers
        )
    return runs


def warnings(job: Job, models: Mapping[str, Any]) -> list[str]:
    """What a user should know of the order of a chain: it goes from large to small."""
    order = [name for name in (*job.recipe.assistants, "distilled") if job.recipe.assistants]
    sizes = [(name, models[name]["parameters"]) for name in order]
    return [
        f"{name!r} has more parameters than the assistant {before!r} that teaches it ({many:,} against {fewer:,}): "
        "a chain goes from large to small"
        for (before, fewer), (name, many) in pairwise(sizes)
        if many > fewer
    ]


def _require_guides(objective: Mapping[str, Term], link: Link) -> None:
    for name, term in objective.items():
        teacher = getattr(term, "teacher", None)
        if isinstance(teacher, str) and teacher not in link.guides:
            raise LimbeckError(
                f"the term {name!r} listens to {teacher!r}, and {link.learner!r} learns from {', '.join(link.guides)}: "
                "leave its teacher away, and it listens to whoever teaches"
            )
