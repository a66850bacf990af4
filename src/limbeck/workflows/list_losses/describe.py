"""What each term is, out of its own docstrings, and what it costs, by making one.

A term says what it is in the docstring of its module: the first paragraph begins with the form of knowledge
("Knowledge of features: …"), and the first link is the paper. Nothing is listed by hand, so a term that is exported by
:mod:`limbeck.losses` stands in the list.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, final

from limbeck.recipe.registry import KINDS, names
from limbeck.workflows.list_losses.cost import Cost, cost
from limbeck.workflows.list_losses.docstrings import arguments, paragraphs

__all__ = ["FORMS", "Method", "methods"]

FORMS: Final = ("responses", "features", "relations", "self", "truth", "other")
"""What knowledge may be of: answers, hidden features, relations, the student's own; the labels; or none of these."""

_FORM: Final = re.compile(r"knowledge of (responses|features|relations)\b", re.IGNORECASE)
_LINK: Final = re.compile(r"https?://[^\s)>\]]*[^\s)>\].,;:]")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One term.

    Attributes:
        name: of the class, by which recipes use it.
        form: one of :data:`FORMS`.
        what: what it compares, in a few words.
        papers: links, the method's own first.
        taps: its arguments that name taps; those in brackets may be left out.
        cost: what it learns and keeps.
        term: the class.
        functions: the public functions of its module, which are its arithmetic.
        text: the docstring of its module.
    """

    name: str
    form: str
    what: str
    papers: tuple[str, ...]
    taps: tuple[str, ...]
    cost: Cost
    term: type[Any]
    functions: tuple[Callable[..., Any], ...]
    text: str


def methods() -> list[Method]:
    """Every term that recipes know by name, by form and then by name.

    >>> [method.name for method in methods() if method.form == "truth"]
    ['CrossEntropy']
    """
    return sorted(map(_method, names("term")), key=lambda method: (FORMS.index(method.form), method.name.lower()))


def _method(name: str) -> Method:
    room = sys.modules[KINDS["term"].module]
    term: type[Any] = getattr(room, name)
    home = sys.modules[term.__module__]
    text = inspect.getdoc(home) or inspect.getdoc(term) or ""
    public = [getattr(room, each) for each in getattr(room, "__all__", ())]
    functions = tuple(each for each in public if inspect.isfunction(each) and each.__module__ == term.__module__)
    first = paragraphs(text)[0] if text else ""
    taps = _taps(term)
    return Method(
        name=name, form=_form(first), what=_what(first), papers=tuple(dict.fromkeys(_LINK.findall(text))), taps=taps,
        cost=cost(term, taps), term=term, functions=functions, text=text,
    )  # fmt: skip


def _form(first: str) -> str:
    if found := _FORM.match(first):
        return found[1].lower()
    start = first.lower()
    return "self" if start.startswith("knowledge") else "truth" if start.startswith("the truth") else "other"


def _what(first: str) -> str:
    """The first sentence without the form of knowledge, and without a link."""
    sentence = re.sub(rf",? ?{_LINK.pattern}", "", re.split(r"(?<=[.])\s+(?=[A-Z])", first)[0]).rstrip(".")
    if _FORM.match(sentence):
        return _FORM.sub("", sentence, count=1).lstrip(": ")
    before, colon, after = sentence.partition(": ")
    return after if colon and before.lower().startswith(("knowledge", "the truth")) else sentence


def _taps(term: type[Any]) -> tuple[str, ...]:
    """The arguments that name taps: text that has to be given, or of which its docstring says that it is a tap."""
    said, found = arguments(inspect.getdoc(term) or ""), []
    for name, parameter in inspect.signature(term).parameters.items():
        needed = parameter.default is inspect.Parameter.empty
        if "str" in str(parameter.annotation) and (needed or re.search(r"\btaps?\b", said.get(name, ""))):
            found.append(name if needed else f"[{name}]")
    return tuple(found)
