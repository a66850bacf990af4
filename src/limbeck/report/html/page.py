"""One page that holds all a run found out, opens from disk, asks the network for nothing and needs no script.

The page forbids itself every connection by a Content-Security-Policy, and Jinja escapes every word of the record.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.errors import LimbeckError
from limbeck.report import examples as cases
from limbeck.report import fidelity_view as fidelity
from limbeck.report import formatting as words
from limbeck.report import results_view as rows
from limbeck.report.verdict import RULE, judge, verdict
from limbeck.report.verify import changed
from limbeck.utils.io import write_atomically

if TYPE_CHECKING:
    from limbeck.report.metrics_csv import Curve
    from limbeck.report.record import Companion, Record

__all__ = ["dated", "report_page", "write_report"]

_HERE = Path(__file__).parent


def write_report(run: Path) -> Path:
    """Write ``run/report.html`` from its ``record.json``, ``metrics.csv`` and ``temperatures.csv``; gives its path.

    The same record gives the same bytes. Without ``metrics.csv`` the page says that there are no curves.

    Raises:
        LimbeckError: there is no record, or it is not one of a finished run.
    """
    page = report_page(run)
    return write_atomically(Path(run) / "report.html", lambda path: path.write_text(page, encoding="utf-8"))


def report_page(run: Path) -> str:
    """The page of :func:`write_report` as text, with nothing written; raises what it raises."""
    from limbeck.report.metrics_csv import curves
    from limbeck.report.read import read

    record = read(Path(run) / "record.json")
    if record.kind == "arm":
        raise LimbeckError(
            f"{run} holds one arm of the study {record.arm.study if record.arm else ''}, and a report is of a whole "
            "run: give the folder of the study to `limbeck compare`"
        )
    return _render(record, curves(Path(run) / "metrics.csv"), Path(run) / "temperatures.csv", changed(run))


def dated(iso: str) -> str:
    """A time as people write it; what is no time stays as it is."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".rstrip()


def _render(record: Record, curves: dict[str, Curve], taus: Path, doubt: str | None) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    house = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    house.filters |= {
        name: getattr(words, name) for name in ("amount", "duration", "fixed", "percent", "power", "size", "tie")
    }
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    return house.get_template("report.html.j2").render(
        r=record, style=style, warnings=[*([doubt] if doubt else []), *record.warnings],
        **_contents(record, curves, taus),
    )  # fmt: skip


def _contents(record: Record, curves: dict[str, Curve], taus: Path) -> dict[str, Any]:
    """Everything the template shows beside the record itself."""
    good, dear = rows.comparison(record)
    measured = [quality for _, model in record.ordered() if (quality := record.quality(model))]
    found = record.verdict
    ends, gain = (found.interval_points, found.gain_points) if found else (None, None)
    students = fidelity.students(record)
    models = {name: model.model_dump() for name, model in record.models.items()}
    said = (found.sentence if found else "") or verdict(models, gain, ends, found.gap_recovered if found else None)
    return {
        "judgement": judge(ends), "said": said.partition(":"), "rule": RULE,
        "created": dated(record.created), "tiles": rows.tiles(record), "span": rows.span(record),
        "companions": _companions(record),
        "models": [(name, record.short(name), model) for name, model in record.ordered()],
        "control": _control(record), "good": good, "dear": dear, "n": _examples(record),
        "teachers": sum(model.role == "teacher" for model in record.models.values()),
        "classes": cases.classes(record), "samples": cases.samples(record),
        "latency": next((model.latency_ms for _, model in record.ordered() if model.latency_ms), None),
        "bins": next((len(quality.reliability) for quality in measured if quality.reliability), 15),
        "against": next((record.short(name) for name, model in record.ordered() if model is record.teacher), "Teacher"),
        "students": [(record.short(name), role, one) for name, role, one in students],
        "likeness": fidelity.lines([one for _, _, one in students]),
        "wrong": fidelity.classes([one for _, _, one in students]), "cka": fidelity.maps(record),
        "recipe": _yaml(record.recipe), **_pictures(record, curves, taus),
    }  # fmt: skip


def _companions(record: Record) -> list[tuple[str, Companion]]:
    """Peers, exits from shallow to deep, and the ensemble, with what they are called on the page."""
    found = [(f"peer {name}", one) for name, one in record.peers.items()]
    found += [(f"early exit {name}", one) for name, one in record.exits.items()]
    return found + ([("all generations together", record.ensemble)] if record.ensemble else [])


def _pictures(record: Record, curves: dict[str, Curve], taus: Path) -> dict[str, Any]:
    from limbeck.report.plots.curves import accuracy_curves, loss_parts
    from limbeck.report.plots.reliability import reliability, tradeoff
    from limbeck.report.plots.schedules_plot import gradient_ratios, shares, temperatures
    from limbeck.report.temperature_csv import taken

    drawn = [
        (record.short(name), model.role, record.quality(model), reliability(
            record.quality(model), role=model.role, title=record.short(name), name=f"reliability{place}"
        ))
        for place, (name, model) in enumerate(record.ordered())
    ]  # fmt: skip
    distilled = next(name for name, model in record.ordered() if model.role == "distilled")
    course = curves.get(distilled)
    return {
        "accuracy": accuracy_curves(record, curves), "losses": loss_parts(course),
        "taus": temperatures(course, taken(taus, course)), "ratios": gradient_ratios(course), "shares": shares(course),
        "reliability": [one for one in drawn if one[3]], "tradeoff": tradeoff(record),
    }  # fmt: skip


def _control(record: Record) -> str:
    """How fair the comparison is, in a sentence."""
    alone, distilled = record.alone, record.distilled
    if alone is None:
        return "No control: the same student was not trained alone in this run."
    labelled, train = record.data.labelled, record.data.train
    some = labelled is not None and train is not None and labelled < train
    what = f"the {labelled:,} labelled examples" if some else "the same data"
    if alone.steps is None or distilled.steps is None:
        return f"Control: the same student, trained alone on {what}; its steps were not recorded."
    if alone.steps == distilled.steps:
        rest = f" (distilled also saw {train - labelled:,} without a label)" if some and train and labelled else ""
        steps = f"for equally many steps ({distilled.steps:,}){rest}"
        return f"Control: the same student, trained alone on {what} {steps}."
    return (
        f"Control: the same student, trained alone on {what}, but for {alone.steps:,} steps "
        f"against {distilled.steps:,}: the budgets were not equal."
    )


def _examples(record: Record) -> int | None:
    quality = record.quality(record.distilled)
    return quality.examples if quality else None


def _yaml(recipe: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)) if recipe else ""
