"""One node of a recipe, ``{use: small_cnn, width: 8}``, checked against the signature of what it names.

The callable is the only list of its settings: a parameter added to it is a key of the recipe from then on, with the
type and the default it has there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from limbeck.core.errors import LimbeckError
from limbeck.core.temperature_range import USUAL
from limbeck.recipe import registry as aliases
from limbeck.recipe.defaults import BY_HINT, whole
from limbeck.recipe.messages import at, shown, unknown_setting
from limbeck.recipe.resolved_node import LATER, Checked
from limbeck.recipe.scalars import complaint
from limbeck.recipe.type_hints import below, classes, hints_of, only_objects, reader, words

__all__ = ["check"]

_LIMITS: Final = {"gt", "ge", "lt", "le", "min_length", "max_length", "multiple_of"}
_ELSEWHERE: Final = {
    "weight": "a weight belongs to a term of an objective",
    "weights": "weights are read for teachers only",
    "engine": "an engine is a teacher's",
    "per": "`per` belongs to the training's scheduler",
}
_LENGTHS: Final = ("T_max", "total_steps")
_OTHER_LENGTH: Final = ("epochs", "steps_per_epoch")


def check(
    node: str | Mapping[str, Any],
    kind: str | Sequence[str],
    *,
    plugins: Iterable[str] = (),
    given: Mapping[str, Any] | None = None,
    place: str | None = None,
) -> Checked:
    """Find what ``node`` names and compare its settings with the signature, without building anything.

    Arguments:
        node: a mapping with ``use``, or the name alone.
        kind: one of :data:`limbeck.recipe.registry.KINDS`, or several in the order to look in.
        plugins: packages that ``use`` may import from.
        given: what limbeck fills in where the recipe says nothing: ``classes``, ``channels``, ``seed``, ``steps``,
            and of response terms ``tau``, by the task.
            :data:`~limbeck.recipe.resolved_node.LATER` stands for what will be known when it is built.
        place: where the node stands in the recipe, for errors; the kind where none is given.

    >>> node = check({"use": "linear", "start": 1}, "schedule", place="stages.0.objective.soft.weight")
    Traceback (most recent call last):
    limbeck.core.errors.LimbeckError: stages.0.objective.soft.weight: linear needs 'end', a number
    >>> check({"use": "linear", "start": 1, "end": 0}, "schedule").build()
    Linear(start=1.0, end=0.0)
    """
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    place = kinds[0] if place is None else place
    use, settings = _opened(node, place)
    found, target = aliases.find(use, kinds, plugins=plugins, place=place)
    signature = _Signature.of(target, aliases.KINDS[found].passed, use, place)
    context = _Context(found, tuple(plugins), given or {})
    _refuse_unknown(settings, signature, use, place, found)
    values = {
        name: _value(item, signature.hints.get(name, Any), at(place, name), context) for name, item in settings.items()
    }
    filled = _filled(aliases.KINDS[found], signature, settings, context.given)
    later = {name: source for name, (source, value) in filled.items() if value is LATER}
    values |= {name: value for name, (_, value) in filled.items() if value is not LATER}
    for name, parameter in signature.settings.items():
        if parameter.default is parameter.empty and name not in values and name not in later:
            raise LimbeckError(f"{place}: {use} needs {name!r}, {words(signature.hints.get(name, Any))}")
    return Checked(
        place=place, use=use, kind=found, target=target, settings=values, later=later,
        resolved={"use": use, **whole(signature.settings, signature.hints, values, later)},
    )  # fmt: skip


class _Context(NamedTuple):
    """What a nested node shares with the node around it."""

    kind: str
    plugins: tuple[str, ...]
    given: Mapping[str, Any]


class _Signature(NamedTuple):
    """The settings that a callable takes."""

    settings: dict[str, inspect.Parameter]
    hints: dict[str, Any]
    open: bool

    @classmethod
    def of(cls, target: Callable[..., Any], passed: Sequence[str], use: str, place: str) -> _Signature:
        try:
            parameters = inspect.signature(target).parameters
        except (ValueError, TypeError) as error:
            raise LimbeckError(f"{place}: {use} has no signature that Python can read, so it cannot be used") from error
        named = {
            name: parameter
            for name, parameter in parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) and name not in passed
        }
        takes_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return cls(named, hints_of(target), takes_more)


def _opened(node: Any, place: str) -> tuple[str, dict[str, Any]]:
    if isinstance(node, str):
        return node, {}
    if not isinstance(node, Mapping) or not isinstance(node.get("use"), str):
        raise LimbeckError(f"{place}: {shown(node)} is not a node: write {{use: NAME}}")
    return node["use"], {name: value for name, value in node.items() if name != "use"}


def _refuse_unknown(settings: Mapping[str, Any], signature: _Signature, use: str, place: str, kind: str) -> None:
    for name in settings:
        hidden = not isinstance(name, str) or name in aliases.KINDS[kind].passed
        if name not in signature.settings and (hidden or not signature.open):
            hint = f"; {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
            raise LimbeckError(f"{place}: {unknown_setting(use, name, signature.settings)}{hint}")


def _filled(
    kind: aliases.Kind, signature: _Signature, settings: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, tuple[str, Any]]:
    """What limbeck fills in: by parameter, the name it has for it and the value."""
    # OneCycleLR takes its length in one of two ways, and total_steps would silently win over the other. A length of
    # null is none, as in its own signature.
    other = any(settings.get(name) is not None for name in _OTHER_LENGTH)
    said = {name for name, value in settings.items() if value is not None or name not in _LENGTHS}
    return {
        name: (source, given[source])
        for name, source in kind.filled.items()
        if name in signature.settings and source in given and name not in said and not (source == "steps" and other)
        if source != "tau" or _follows_the_task(signature, name)
    }


def _follows_the_task(signature: _Signature, name: str) -> bool:
    """Whether this is the temperature of a response term that has no default of its own method's."""
    takes_policy = any(getattr(each, "__name__", "") == "Temperature" for each in classes(signature.hints.get(name)))
    return takes_policy and signature.settings[name].default == USUAL


def _value(value: Any, hint: Any, place: str, context: _Context) -> Any:
    """``value`` as the parameter wants it, with ``Checked`` where a node stood."""
    opened = _nodes(value, hint, place, context)
    try:
        return reader(hint).validate_python(opened)
    except ValidationError as error:
        raise LimbeckError(_wrong(value, hint, place, error)) from None


def _nodes(value: Any, hint: Any, place: str, context: _Context) -> Any:
    wanted = classes(hint)
    name_alone = isinstance(value, str) and only_objects(hint)
    if name_alone or (isinstance(value, Mapping) and isinstance(value.get("use"), str)):
        return _nested(value, hint, wanted, place, context)
    if isinstance(value, list):
        return [_nodes(item, below(hint, i), at(place, i), context) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: _nodes(item, below(hint, str(key)), at(place, key), context) for key, item in value.items()}
    return value


def _nested(value: Any, hint: Any, wanted: list[Any], place: str, context: _Context) -> Checked:
    if not wanted and hint is not Any:
        raise LimbeckError(f"{place}: {shown(value)} is a node, and what stands here is {words(hint)}")
    meant = [BY_HINT[each.__name__] for each in wanted if getattr(each, "__name__", "") in BY_HINT]
    kinds = meant or [context.kind, *(kind for kind in aliases.KINDS if kind != context.kind)]
    checked = check(value, kinds, plugins=context.plugins, given=context.given, place=place)
    made = checked.target if inspect.isclass(checked.target) else hints_of(checked.target).get("return")
    if wanted and inspect.isclass(made) and not any(_fits(made, each) for each in wanted):
        raise LimbeckError(f"{place}: {checked.use} gives a {made.__name__}, and what stands here is {words(hint)}")
    return checked


def _fits(made: type, wanted: Any) -> bool:
    try:
        return issubclass(made, wanted)
    except TypeError:  # a protocol with attributes, or no class at all: only the object itself could tell
        return True


def _wrong(value: Any, hint: Any, place: str, error: ValidationError) -> str:
    """The sentence for the innermost value that all of pydantic's records are about."""
    records = error.errors(include_url=False)
    depth = 0
    while all(len(record["loc"]) > depth for record in records):
        steps = {record["loc"][depth] for record in records}
        step = next(iter(steps))
        inside = isinstance(value, list) and isinstance(step, int) and step < len(value)
        if len(steps) > 1 or not (inside or (isinstance(value, Mapping) and step in value)):
            break
        value, hint, place, depth = value[step], below(hint, step), at(place, step), depth + 1
    if len(records) == 1 and _LIMITS & (records[0].get("ctx") or {}).keys():
        return f"{place}: {complaint(records[0])}"
    return f"{place}: {shown(value)} is not {words(hint)}"
