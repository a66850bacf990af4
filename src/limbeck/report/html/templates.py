"""Templates of pages that open from disk and make no network request.

Jinja escapes all text of an HTML page. Its Content-Security-Policy forbids every connection, and allows one inline
script, identified by its hash: it sorts tables.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.report import formatting

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

_TEMPLATE_DIR = Path(__file__).parent


def content_security_policy() -> str:
    """The Content-Security-Policy of a page with the script that sorts tables."""
    digest = base64.b64encode(hashlib.sha256(read_asset("sort.js").encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def load_template(name: str, *, folder: Path = _TEMPLATE_DIR) -> Template:
    """A template with the formatters as filters, and style sheets, script and Content-Security-Policy as globals.

    Args:
        name: its file name; text is escaped where it ends with ``.html.j2``.
        folder: searched first, then the folder of the shared macros.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader([folder, _TEMPLATE_DIR]), autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        **dict(inspect.getmembers(formatting, inspect.isfunction)),
        "get_path": _get_path,
        "mark_code": mark_code,
    }
    environment.globals |= {
        "style": read_asset("report.css") + read_asset("compare.css"), "script": read_asset("sort.js"),
        "csp": content_security_policy(),
    }  # fmt: skip
    return environment.get_template(name)


@cache
def read_asset(name: str) -> str:
    """The text of a style sheet or script."""
    return (_TEMPLATE_DIR / name).read_text(encoding="utf-8")


def mark_code(text: str) -> Markup:
    """``text`` escaped, with what is between backticks as code.

    >>> print(mark_code("set `a.b` < 3"))
    set <code>a.b</code> &lt; 3
    """
    from markupsafe import Markup, escape

    parts = [escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:  # a backtick without its pair
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _get_path(value: Any, *path: str) -> Any:
    """The value at a path of attributes and keys; ``None`` where a part of it is missing."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else getattr(value, key, None)
    return value
