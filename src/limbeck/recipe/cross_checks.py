"""Whether the parts of a recipe agree with each other: names that are spoken of exist, and nothing is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from limbeck.core.errors import LimbeckError, nearest
from limbeck.recipe.assistant_chain import Link
from limbeck.recipe.messages import at
from limbeck.recipe.resolved_node import Checked
from limbeck.recipe.schema import Recipe, Scheduler, Stage

__all__ = ["check"]


def check(
    recipe: Recipe, terms: Mapping[str, Mapping[str, Checked]], teachers: Mapping[str, Checked] = MappingProxyType({}),
    combination: Checked | None = None,
) -> None:  # fmt: skip
    """Raise ``LimbeckError`` for the first disagreement.

    ``terms`` are checked, by the place of their stage; ``teachers`` likewise, by name; ``combination`` likewise.
    """
    foreign = [name for name, teacher in teachers.items() if teacher.kind == "teacher"]
    together = () if combination is None else _together(recipe, combination, terms)
    for complaint in (*_foreign(recipe, foreign), *_complaints(recipe, terms, foreign), *together):
        raise LimbeckError(complaint)


def _foreign(recipe: Recipe, foreign: Sequence[str]) -> Iterator[str]:
    """What a teacher cannot have that only answers."""
    for name in foreign:
        teacher = recipe.teachers[name]
        if teacher.weights is not None:
            yield f"teachers.{name}.weights: {teacher.use} has no weights to read: leave them away"
        if teacher.engine != "eager":
            yield f"teachers.{name}.engine: {teacher.use} answers by itself: leave engine away"
        for place, stage in recipe.each_stage():
            if stage.taps.get(name):
                yield f"{place}.taps.{name}: {teacher.use} gives answers only, so nothing in it can be tapped"


def _together(
    recipe: Recipe, combination: Checked, terms: Mapping[str, Mapping[str, Checked]]
) -> Iterator[str]:  # fmt: skip
    """Whether there is anything to combine, and somebody who listens to it."""
    weights = combination.settings.get("weights")
    for name in weights if isinstance(weights, Mapping) else ():
        if name not in recipe.teachers:
            yield f"combination.weights: no teacher is named {name!r}; there are: {nearest(name, recipe.teachers)}"
    if combination.use == "MeanLogits" and not weights:  # the default, which nobody asked for
        return
    said = f"combination: {combination.use} says how several teachers speak together, and"
    if len(recipe.teachers) < 2:
        yield f"{said} the recipe has {len(recipe.teachers) or 'none'}: leave it away, or add teachers"
    if recipe.guided == "dense" and recipe.assistants:
        yield f"{said} with guided: dense each term listens to each of them by itself: leave one of the two away"
    each = [term for place, stage in terms.items() if place != "teaching" for term in stage.values()]
    if all(":" not in term.use and term.resolved.get("teacher", "none") is not None for term in each):
        yield f"{said} every term names its own teacher: leave it away, or a term's `teacher`"


def _complaints(recipe: Recipe, terms: Mapping[str, Mapping[str, Checked]], foreign: Sequence[str]) -> Iterator[str]:
    if not recipe.stages:
        yield (
            "stages: a recipe needs at least one, such as "
            "{name: distill, epochs: 30, objective: {soft: {use: SoftTarget, weight: 0.9}}}"
        )
    if recipe.cache is not None and not recipe.teachers:
        yield "cache: it keeps what teachers answer, and the recipe has none: leave it away, or add teachers"
    yield from _same_names(recipe)
    # What a user's own function builds is known once it is built; Job looks then.
    untaught = [
        name for name, teacher in recipe.teachers.items()
        if teacher.weights is None and name not in foreign and ":" not in teacher.use
    ]  # fmt: skip
    if untaught and recipe.teaching is None:
        yield (
            f"teachers.{untaught[0]}: it has no weights, and there is no `teaching` to train it by: "
            "give weights, a file or a run folder, or add teaching: {epochs: …, objective: …}"
        )
    for name in untaught:
        if recipe.teachers[name].named:
            yield (
                f"teachers.{name}.classes: it has no weights, so it is trained here and learns the data's classes: "
                "leave classes away, or give weights"
            )
    yield from _chain(recipe)
    yield from _itself(recipe, terms)
    for place, stage in recipe.each_stage():
        taught = place == "teaching"
        own = [] if taught else list(recipe.self_teachers)
        yield from _taps(stage, place, [] if taught else [*recipe.teachers, *recipe.assistants, *own])
        links = [Link("student", ())] if taught else recipe.links()
        chain = [Link(learner, (*guides, *own)) for learner, guides in links]
        for name, term in terms[place].items():
            yield from _teacher(term, at(place, "objective", name), chain)
            for link in chain:
                yield from _term(term, at(place, "objective", name), stage, link, each=recipe.guided == "dense")
        yield from _scheduler(recipe.training_of(stage, place=place).scheduler, place)


def _same_names(recipe: Recipe) -> Iterator[str]:
    first: dict[str, int] = {}
    for i, stage in enumerate(recipe.stages):
        if stage.name in first:
            yield f"stages.{i}.name: {stage.name!r} is the name of stages.{first[stage.name]} already: choose another"
        first[stage.name] = i


def _taps(stage: Stage, place: str, teachers: list[str]) -> Iterator[str]:
    networks = ["student", *teachers]
    for network in stage.taps:
        if network not in networks:
            # In teaching the network that learns is the teacher, and it is the student of its own training.
            hint = " (while a teacher is taught, it is called student)" if place == "teaching" else ""
            yield f"{place}.taps: no network is named {network!r}; there are: {nearest(network, networks)}{hint}"


def _chain(recipe: Recipe) -> Iterator[str]:
    for name in recipe.assistants:
        if name in recipe.teachers:
            yield f"assistants.{name}: a teacher has that name already: choose another"
        if not recipe.teachers:
            yield f"assistants.{name}: an assistant learns from the teachers, and the recipe has none: add teachers"
    if not recipe.assistants and recipe.guided == "dense":
        yield "guided: dense says who guides assistants, and the recipe has none: add assistants, or leave guided away"
    if not recipe.assistants and "direct" in recipe.controls:
        yield "control: direct is the student without assistants, and the recipe has none: write alone or none"


def _itself(recipe: Recipe, terms: Mapping[str, Mapping[str, Checked]]) -> Iterator[str]:
    """What stands beside the student: teachers made of it, and peers that learn with it."""
    others = {**dict.fromkeys(recipe.teachers, "teacher"), **dict.fromkeys(recipe.assistants, "assistant")}
    for key, names in (("self_teachers", recipe.self_teachers), ("peers", recipe.peers)):
        for name in names:
            if name in others:
                yield f"{key}.{name}: a {others[name]} has that name already: choose another"
    both = [name for name in recipe.peers if name in recipe.self_teachers]
    if both:
        yield f"peers.{both[0]}: a teacher made of the student has that name already: choose another"
    for place, stage in recipe.each_stage():
        training = recipe.training_of(stage, place=place)
        for name, term in terms[place].items():
            if term.use == "DeepToShallow" and (training.ema is not None or training.keep == "best"):
                yield (
                    f"{at(place, 'objective', name)}: its heads are those of the last step, and training keeps other "
                    "weights of the student, which they do not fit: leave ema away, and keep: last"
                )
        if recipe.peers and (stage.taps or stage.frozen or training.sampling != "plain"):
            key = "taps" if stage.taps else "frozen" if stage.frozen else "training.sampling"
            yield f"{place}.{key}: it is for one student, and the recipe has peers: leave {key} away, or the peers"
    for key in ("self_teachers", "assistants", "cache"):
        if recipe.peers and getattr(recipe, key):
            yield f"{key}: it is for one student, and the recipe has peers: leave {key} away, or the peers"


def _teacher(term: Checked, place: str, chain: list[Link]) -> Iterator[str]:
    """Whether the teacher that a term names is there for everyone who learns by it."""
    teacher = term.settings.get("teacher")
    everyone = list(dict.fromkeys(name for link in chain for name in (*link.guides, link.learner)))[:-1]
    lacking = next((link for link in chain if teacher not in link.guides), None)
    if not isinstance(teacher, str) or lacking is None:
        return
    if teacher not in everyone:
        yield f"{place}.teacher: no teacher is named {teacher!r}; there are: {nearest(teacher, everyone)}"
    guides = " and ".join(lacking.guides)
    yield (
        f"{place}.teacher: {lacking.learner} goes through the same stages and learns from {guides}, not from "
        f"{teacher}: leave `teacher` away, and the term listens to whoever teaches"
    )


def _term(term: Checked, place: str, stage: Stage, link: Link, *, each: bool) -> Iterator[str]:
    teacher = term.settings.get("teacher")
    own = ":" not in term.use
    if own and "teacher" in term.resolved and not link.guides:
        where = "and a teacher is taught without one" if place.startswith("teaching") else "and the recipe has none"
        yield f"{place}: {term.use} compares with a teacher, {where}: choose a term on the truth, or add teachers"
    alone = each or len(link.guides) == 1
    speaking = [teacher] if isinstance(teacher, str) else list(link.guides) if alone else []
    for setting, tap in _tapped(term) if own else ():
        for network in (link.learner, *speaking):
            if tap not in stage.taps.get(network, {}):
                stage_place = place.rpartition(".objective.")[0]
                yield (
                    f"{place}.{setting}: no tap of {network} is named {tap!r}: name the module to read, "
                    f"{stage_place}.taps: {{{network}: {{{tap}: PATH}}}}"
                )


def _tapped(term: Checked) -> Iterator[tuple[str, str]]:
    """The names of taps in a term's settings, one or several in each."""
    for setting in ("at", "first", "last"):
        said: Any = term.settings.get(setting)
        yield from ((setting, tap) for tap in (said if isinstance(said, list) else [said]) if isinstance(tap, str))


def _scheduler(scheduler: Scheduler | None, place: str) -> Iterator[str]:
    if scheduler is not None and scheduler.use == "ReduceLROnPlateau" and scheduler.per == "step":
        yield (
            f"{place}: ReduceLROnPlateau watches the validation loss, which is measured once an epoch: "
            "set per: epoch in training.scheduler"
        )
