"""The pages of the board as text: the index, a run while it trains, and the pages that limbeck writes for the rest."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from limbeck.core.errors import LimbeckError
from limbeck.dashboard.run_index import Entry, phases
from limbeck.report import report_page
from limbeck.report.compare import Arm, compare_page, template
from limbeck.report.compare.plots import learning
from limbeck.report.compare.styles import looks
from limbeck.report.formatting import duration
from limbeck.report.metrics_csv import Curve, curves
from limbeck.report.read import read
from limbeck.workflows.compare.run import comparison

__all__ = ["index", "missing", "page"]

_HERE = Path(__file__).parent
_ROLES = ("teacher", "alone", "longer", "smoothed", "direct", "distilled")


def index(found: Iterable[Entry], root: Path) -> str:
    """All runs and studies; ``root`` is told by its name only."""
    rows = [_row(entry) for entry in found]
    return template("index.html.j2", folder=_HERE).render(rows=rows, name=root.name or "runs")


def page(entry: Entry) -> str:
    """The page of one run or study; where its files cannot be read just now, one sentence on it."""
    try:
        if entry.kind == "study":
            return compare_page(comparison([entry.folder]), home="/")
        if entry.state == "finished":
            return _report(entry.folder)
        return _training(entry)
    except LimbeckError as error:
        return _told(entry.place, str(error))
    except Exception as error:  # a record that somebody edited must not stop the board
        return _told(entry.place, f"The files of this {entry.kind} cannot be read just now ({type(error).__name__}).")


def missing() -> str:
    """What is answered to any other address."""
    return template("message.html.j2", folder=_HERE).render(
        title="Not found", text="There is no run or study of this name on the board: it may have been moved or removed."
    )


def _told(title: str, text: str) -> str:
    return template("message.html.j2", folder=_HERE).render(title=title, text=text)


def _report(folder: Path) -> str:
    written = folder / "report.html"
    if written.exists():
        return written.read_text(encoding="utf-8")
    # A cell of a study is one arm, and has no page of its own beside what a comparison says of it.
    whole = read(folder / "record.json").kind == "run"
    return report_page(folder) if whole else compare_page(comparison([folder]), home="/")


def _training(entry: Entry) -> str:
    drawn = curves(entry.folder / "metrics.csv")
    arms = [_arm(name, curve) for name, curve in drawn.items()]
    look = looks(arms)
    return template("training.html.j2", folder=_HERE).render(
        entry=entry, phases=phases(entry.folder), looks=look, learning=learning(arms, look), ago=_ago(entry.changed)
    )


def _arm(name: str, curve: Curve) -> Arm:
    """A training without figures yet; of a name that is none of the students', it is a teacher's or an assistant's."""
    role: Any = name if name in _ROLES else "teacher"
    return Arm(name=name, role=role, curves=(curve,))


def _row(entry: Entry) -> dict[str, Any]:
    said, share = "", None
    if entry.kind == "study":
        said, share = f"{entry.done} of {entry.of} cells", entry.done / entry.of if entry.of else None
    elif entry.state != "finished":
        try:
            now = phases(entry.folder)
        except LimbeckError:
            now = []
        if now:
            last = now[-1]
            of = "" if last.of is None else f" of {last.of:,}"
            said, share = f"{last.name}, step {last.step:,}{of}", last.share
        else:
            said = "no step finished yet"
    return {
        "entry": entry, "title": entry.place if entry.place != "." else "this folder", "progress": said,
        "share": None if share is None else round(100 * share), "ago": _ago(entry.changed),
        "stamp": time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.changed)),
    }  # fmt: skip


def _ago(changed: float) -> str:
    return f"{duration(max(0.0, time.time() - changed))} ago"
