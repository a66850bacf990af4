"""Docstrings in parts: paragraphs, arguments, examples; and their reStructuredText as Markdown."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["parse_arguments", "split_paragraphs", "to_markdown"]

_ARGUMENT_HEADINGS: Final = ("Arguments:", "Args:")
_LIST_HEADINGS: Final = (*_ARGUMENT_HEADINGS, "Attributes:", "Returns:", "Raises:", "Shapes:")
_ROLE: Final = re.compile(r":[a-z]+:`~?([^`]+)`")


def split_paragraphs(text: str) -> list[str]:
    r"""The paragraphs of ``text``, each on one line.

    >>> split_paragraphs("One\ntwo.\n\nThree.")
    ['One two.', 'Three.']
    """
    return [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text.strip()) if paragraph.strip()]


def parse_arguments(text: str) -> dict[str, str]:
    r"""What a docstring says of each argument, under ``Arguments:``.

    >>> parse_arguments("Does it.\n\nArguments:\n    layer: the name\n        of the layer.\n    temperature: above zero.")
    {'layer': 'the name of the layer.', 'temperature': 'above zero.'}
    """
    descriptions: dict[str, str] = {}
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        while lines and lines[0].strip() not in _ARGUMENT_HEADINGS:
            lines.pop(0)
        name = ""
        for line in lines[1:]:
            if entry := re.match(r"    (\w+): (.*)", line):
                name = entry[1]
                descriptions[name] = entry[2]
            elif name:
                descriptions[name] += " " + line.strip()
    return descriptions


def to_markdown(text: str) -> str:
    r"""A docstring as Markdown: code in single backticks, arguments as a list, examples as fenced blocks.

    >>> to_markdown("Mean of ``x``, as :func:`~a.b.mean`.\n\nArguments:\n    x: numbers.")
    'Mean of `x`, as `mean`.\n\nArguments:\n\n- `x`: numbers.'
    """
    return "\n\n".join(_format_block(block) for block in re.split(r"\n\s*\n", text.strip()) if block.strip())


def _format_block(block: str) -> str:
    lines = block.strip("\n").splitlines()
    if lines[0].startswith(">>>"):
        return "\n".join(["```pycon", *lines, "```"])
    if lines[0].strip() in _LIST_HEADINGS:
        return _format_text(lines[0].strip()) + "\n\n" + "\n".join(_format_entries(lines[1:]))
    return _format_text("\n".join(line.strip() for line in lines))


def _format_entries(lines: list[str]) -> list[str]:
    entries: list[str] = []
    for line in lines:
        if entry := re.match(r"    (\w+): (.*)", line):
            entries.append(f"- `{entry[1]}`: {_format_text(entry[2])}")
        elif entries:
            entries.append("  " + _format_text(line.strip()))
        else:
            entries.append(_format_text(line.strip()))
    return entries


def _format_text(text: str) -> str:
    text = _ROLE.sub(lambda role: f"`{role[1].rpartition('.')[2]}`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)
