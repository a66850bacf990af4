"""The comparison as one page that opens from disk and asks the network for nothing.

One inline script sorts the tables; the page's Content-Security-Policy names it by its hash and allows no other.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.report import formatting as words
from limbeck.report.compare.columns import COSTS, QUALITY, shown, verdict
from limbeck.report.compare.comparison import Arm, Cell, Comparison
from limbeck.report.compare.forest import forest
from limbeck.report.compare.per_class import by_class
from limbeck.report.compare.plots import learning, plane
from limbeck.report.compare.styles import looks
from limbeck.report.html.page import dated

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["compare_page", "policy", "template"]

_HERE = Path(__file__).parent


def compare_page(found: Comparison, *, home: str = "") -> str:
    """The page as HTML; the same comparison gives the same bytes. ``home`` is the address of a way back, if any."""
    return template("compare.html.j2").render(c=found, home=home, **_contents(found))


def policy() -> str:
    """The Content-Security-Policy of the page: no connection, our own style, and the one script, by its hash."""
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def template(name: str, *, folder: Path = _HERE) -> Template:
    """A template that escapes every word, with the style sheets, the script and the policy at hand."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    house = Environment(
        loader=FileSystemLoader([folder, _HERE]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    house.filters |= {name: getattr(words, name) for name in ("amount", "duration", "percent", "tie")}
    house.filters["verdict"] = verdict
    house.globals |= {"style": _style(), "script": _script(), "policy": policy()}
    return house.get_template(name)


def _contents(found: Comparison) -> dict[str, Any]:
    arms = found.arms
    look = looks(arms)
    names, rows, classes = by_class(arms)
    return {
        "looks": look, "created": dated(found.created), "verdicts": _verdicts(found),
        "quality": shown(QUALITY, arms), "costs": shown(COSTS, arms), "forest": forest(arms),
        "learning": learning(arms, look), "plane": plane(arms, look), "class_arms": names, "class_rows": rows,
        "class_all": classes, "states": _states(found.cells), "counts": _counts(found),
        "means": any(arm.top1 and arm.top1.n > 1 for arm in arms),
        "runs": len({cell.folder for cell in found.cells if cell.state == "done"}),
        "titled": [arm for arm in arms if arm.title or arm.note], "least": _least(found),
        "one_seed": any(arm.gain and arm.gain.over == "samples" for arm in arms),
    }  # fmt: skip


def _verdicts(found: Comparison) -> list[Arm]:
    """The arms of which a verdict is to be told: students that are not themselves what others are held against."""
    students = [arm for arm in found.arms if arm.student and arm.name not in found.against]
    return [arm for arm in students if arm.control or arm.role != "alone"]


def _states(cells: tuple[Cell, ...]) -> dict[str, int]:
    return {
        state: n for state in ("done", "running", "waiting", "failed") if (n := sum(c.state == state for c in cells))
    }


def _counts(found: Comparison) -> dict[str, str]:
    """How many seeds of each arm have come to an end, of how many."""
    counts = {}
    for arm in found.arms:
        mine = [cell for cell in found.cells if cell.arm == arm.name]
        done = sum(cell.state == "done" for cell in mine)
        counts[arm.name] = str(done) if done == len(mine) else f"{done} of {len(mine)}"
    return counts


def _least(found: Comparison) -> float:
    """The smallest agreement of two arms, at which the shading begins."""
    shares = found.agreement.shares if found.agreement else ()
    return min((share for row in shares for share in row if share is not None), default=0.0) - 0.02


@cache
def _style() -> str:
    return "".join(
        path.read_text(encoding="utf-8") for path in (_HERE.parent / "html" / "report.css", _HERE / "compare.css")
    )


@cache
def _script() -> str:
    return (_HERE / "sort.js").read_text(encoding="utf-8")
