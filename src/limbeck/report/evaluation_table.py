"""The tables of ``evaluation.json`` for the terminal: figures by network with their difference, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from limbeck.report.formatting import NONE, amount, fixed, percent, points, size

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["evaluation_table"]

_WIDTH = 120
_CALLED = {"alone": "student alone", "direct": "no assistants", "distilled": "distilled"}
_ATTACKS = {"fgsm": "FGSM", "pgd": "PGD-20", "apgd": "APGD-20", "worst": "worst of them"}
_SCORES = {"max_softmax": "AUROC, softmax", "energy": "AUROC, energy"}
_Row = tuple[str, str, tuple[str | int, ...], Callable[[float | None], str]]


def evaluation_table(found: Mapping[str, Any]) -> str:
    """What ``evaluation.json`` holds, as text of up to 120 columns without colours."""
    from rich.console import Console

    console = Console(width=_WIDTH, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as caught:
        for title, table in (_quality(found), *_costs(found)):
            # As a line of its own: a table breaks its title where the table ends.
            console.print(title, markup=False)
            console.print(table)
    text = "\n".join(line.rstrip() for line in caught.get().strip("\n").splitlines())
    notes = [line for note in _notes(found) for line in wrap(f"note: {note}", _WIDTH, subsequent_indent="  ")]
    return "\n".join([text, *notes])


def _quality(found: Mapping[str, Any]) -> tuple[str, Table]:
    models = found["models"]
    n = max(model["examples"] for model in models.values())
    table = _table()
    table.add_column("accuracy of", no_wrap=True)
    for name, model in models.items():
        table.add_column(_called(name, model), justify="right", no_wrap=True)
    pairs = list(dict.fromkeys((one["of"], one["against"]) for one in found["differences"]))
    for of, against in pairs:
        table.add_column(f"{of} − {against}, 95 %", justify="right", no_wrap=True)
    by = {(one["of"], one["against"], one["figure"]): one for one in found["differences"]}
    for title, figure, place, shown in _rows(found):
        values = [_at(model, place) for model in models.values()]
        differences = [_difference(by.get((*pair, figure))) for pair in pairs]
        table.add_row(title, *(shown(value) for value in values), *differences)
    return f"{found['name']}, {found['part']} part, n = {n} where nothing else is said", table


def _rows(found: Mapping[str, Any]) -> Iterator[_Row]:
    """Title, name in the differences, place in a model's figures, and how it is shown."""
    first = next(iter(found["models"].values()))
    yield "pictures as they are", "clean", ("clean",), percent
    for name in (name for name in _ATTACKS if name in first.get("attacks", {})):
        title = f"  {_ATTACKS[name]}" if name == "worst" else f"{_ATTACKS[name]}, ε = {_eps(first['attacks']['eps'])}"
        yield title, name, ("attacks", name), percent
    if "corruptions" in first:
        yield "15 corruptions × 5", "corruptions", ("corruptions", "mean"), percent
        for name in first["corruptions"]["by"]:
            yield f"  {name.replace('_', ' ')}", name, ("corruptions", "by", name), percent
    for row, sigma in enumerate(first.get("noise", {}).get("sigmas", ())):
        yield f"noise, σ = {sigma:g}", f"noise {sigma:g}", ("noise", "top1", row), percent
    if "shift" in first:
        n = f", n = {first['shift']['n']}"
        if first["shift"]["twins"]:
            yield f"twins, unshifted{n}", "", ("shift", "first"), percent
        yield f"shifted pictures{n}", "shift", ("shift", "second"), percent
        yield "  points against unshifted ones", "", ("shift", "difference"), points
        if first["shift"]["twins"]:
            yield "  another class than unshifted", "", ("shift", "flipped"), percent
    for name in (name for name in _SCORES if name in first.get("ood", {})):
        yield f"{_SCORES[name]}, {first['ood']['against']}", f"auroc {name}", ("ood", name, "auroc"), fixed
    if "calibration" in first:
        yield f"temperature, told on n = {first['calibration']['n']}", "", ("calibration", "temperature"), fixed
        for when, figure in ((when, figure) for when in ("before", "after") for figure in ("ece", "nll")):
            yield f"  {figure.upper()} {when}", f"{figure} {when}", ("calibration", when, figure), fixed


def _costs(found: Mapping[str, Any]) -> Iterator[tuple[str, Table]]:
    if not found["efficiency"]:
        return
    rows = found["efficiency"]["rows"]
    where, threads = rows[0]["machine"], rows[0]["threads"]
    title = (
        f"ms for one call, median (95th percentile); {threads} thread{'s' if threads > 1 else ''} of {where['cores']} "
        f"cores, {where['cpu']}"
    )
    table = _table()
    table.add_column("network", no_wrap=True)
    table.add_column("runtime", no_wrap=True)
    batches = list(rows[0]["latency_ms"])
    for heading in (*(f"batch of {batch}" for batch in batches), "accuracy", "file"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        took = (row["latency_ms"][batch] for batch in batches)
        table.add_row(
            _called(row["model"], found["models"][row["model"]]), f"{row['runtime']} {row['precision']}",
            *(f"{one['median']:.3g} ({one['p95']:.3g})" for one in took), percent(row["top1"]), size(row["bytes"]),
        )  # fmt: skip
    yield title, table
    table = _table()
    for heading in ("network", "parameters", "FLOPs", "memory at most"):
        table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
    for row in (row for row in rows if row["runtime"] == "torch"):
        called = _called(row["model"], found["models"][row["model"]])
        table.add_row(called, amount(row["parameters"]), amount(row["flops"]), size(row["memory"]))
    yield "of one picture in torch", table


def _notes(found: Mapping[str, Any]) -> Iterator[str]:
    first = next(iter(found["models"].values()))
    if "corruptions" in first:
        yield first["corruptions"]["note"]
    if "calibration" in first:
        yield f"temperatures are fitted on {first['calibration']['fitted_on_part']}, and told on other pictures"
    yield from found["notes"]


def _table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False)


def _called(name: str, model: Mapping[str, Any]) -> str:
    return _CALLED.get(model.get("role", ""), name)


def _difference(one: Mapping[str, Any] | None) -> str:
    if one is None:
        return ""
    shown = points if one["unit"] == "points" else _signed
    return f"{shown(one['difference'])} ({shown(one['low'])} to {shown(one['high'])})"


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+.3f}".replace("-", "−")


def _at(model: Any, place: tuple[str | int, ...]) -> float | None:
    """The figure at ``place``, the mean where there are several, and ``None`` where there is none."""
    for step in place:
        model = model.get(step) if isinstance(model, Mapping) else model[step]
        if model is None:
            return None
    return float(sum(model) / len(model) if isinstance(model, list) else model)


def _eps(eps: float) -> str:
    levels = eps * 255
    return f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-6 else f"{eps:g}"
