"""Prints text for a person; control characters, which a name in a file may hold, are shown as Python writes them."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, Final, TextIO

__all__ = ["escape_controls", "format_json", "print_text"]

_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""All but tab and line feed, the marks that reverse the direction of text, and bytes of a path that are no UTF-8."""


def escape_controls(text: object) -> str:
    r"""``text`` with control characters as Python writes them; tabs and line feeds stay.

    >>> print(escape_controls("conv\x1b[2J"))
    conv\x1b[2J
    """
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], str(text))


def format_json(value: Any) -> str:
    r"""``value`` as JSON in ASCII without control characters, which :func:`escape_controls` leaves as it is.

    >>> print(format_json({"path": "é\x7f"}))
    {
     "path": "\u00e9\u007f"
    }
    """
    return json.dumps(value, indent=1).replace("\x7f", "\\u007f")


def print_text(text: object, *, file: TextIO | None = None, end: str = "\n") -> None:
    """Print ``text`` without control characters, and flush; to ``sys.stdout`` where no file is given."""
    print(escape_controls(text), file=file or sys.stdout, end=end, flush=True)
