"""Docstrings in parts: paragraphs, arguments, examples; and their reStructuredText as Markdown."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["arguments", "markdown", "paragraphs"]

_ARGUMENTS: Final = ("Arguments:", "Args:")
_LISTS: Final = (*_ARGUMENTS, "Attributes:", "Returns:", "Raises:", "Shapes:")
_ROLE: Final = re.compile(r":[a-z]+:`~?([^`]+)`")


def paragraphs(text: str) -> list[str]:
    r"""The paragraphs of ``text``, each on one line.

    >>> paragraphs("One\ntwo.\n\nThree.")
    ['One two.', 'Three.']
    """
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def arguments(text: str) -> dict[str, str]:
    r"""What a docstring says of each argument, under ``Arguments:``.

    >>> arguments("Does it.\n\nArguments:\n    at: the name\n        of the tap.\n    tau: above zero.")
    {'at': 'the name of the tap.', 'tau': 'above zero.'}
    """
    found: dict[str, str] = {}
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        while lines and lines[0].strip() not in _ARGUMENTS:
            lines.pop(0)
        name = ""
        for line in lines[1:]:
            if entry := re.match(r"    (\w+): (.*)", line):
                name = entry[1]
                found[name] = entry[2]
            elif name:
                found[name] += " " + line.strip()
    return found


def markdown(text: str) -> str:
    r"""A docstring as Markdown: code in single backticks, arguments as a list, examples as fenced blocks.

    >>> markdown("Mean of ``x``, as :func:`~a.b.mean`.\n\nArguments:\n    x: numbers.")
    'Mean of `x`, as `mean`.\n\nArguments:\n\n- `x`: numbers.'
    """
    return "\n\n".join(_block(block) for block in re.split(r"\n\s*\n", text.strip()) if block.strip())


def _block(block: str) -> str:
    lines = block.strip("\n").splitlines()
    if lines[0].startswith(">>>"):
        return "\n".join(["```pycon", *lines, "```"])
    if lines[0].strip() in _LISTS:
        return _plain(lines[0].strip()) + "\n\n" + "\n".join(_entries(lines[1:]))
    return _plain("\n".join(line.strip() for line in lines))


def _entries(lines: list[str]) -> list[str]:
    entries: list[str] = []
    for line in lines:
        if entry := re.match(r"    (\w+): (.*)", line):
            entries.append(f"- `{entry[1]}`: {_plain(entry[2])}")
        elif entries:
            entries.append("  " + _plain(line.strip()))
        else:
            entries.append(_plain(line.strip()))
    return entries


def _plain(text: str) -> str:
    text = _ROLE.sub(lambda role: f"`{role[1].rpartition('.')[2]}`", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)
