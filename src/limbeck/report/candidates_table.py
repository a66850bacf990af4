"""Candidates for teaching, for the terminal: their figures, how alike they are, and why each was taken or left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.report.formatting import NONE, amount, fixed, percent, points, size

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["candidates_table"]

_MOST = 10
_WIDTH = 100


def candidates_table(found: Mapping[str, Any]) -> str:
    """What ``teachers.json`` holds, as plain text without colours: figures, reasons, pairs, warnings, the choice."""
    from rich.console import Console

    console = Console(width=_WIDTH, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as caught:
        console.print(_figures(found))
        console.print(_reasons(found["candidates"]))
        if found["pairs"]:
            console.print(_pairs(found["pairs"]))
    lines = [line.rstrip() for line in caught.get().strip("\n").splitlines()]
    if found["warnings"]:
        lines += ["With all of them teaching, limbeck distill would warn:"]
        lines += [f" - {text}" for text in found["warnings"]]
    return "\n".join([*lines, _choice(found)])


def _figures(found: Mapping[str, Any]) -> Table:
    alone = found["alone"]
    table = _table(f"validation part, n = {alone['validation']['examples']}")
    table.add_column("")
    table.add_column("candidate", no_wrap=True, overflow="ellipsis")
    for heading in ("accuracy", "margin", "NLL", "ECE", "parameters", "latency", "memory"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, model in found["candidates"].items():
        table.add_row(*_row("●" if model["chosen"] else "", name, model, points(model["margin_points"])))
    table.add_row(*_row("", "student alone", alone, ""))
    return table


def _row(mark: str, name: str, model: Mapping[str, Any], margin: str) -> list[Any]:
    from rich.text import Text

    quality, latency = model["validation"], model["latency_ms"]["median"]
    # Text, not a string: a name with brackets is no markup.
    return [
        mark, Text(name), percent(quality["top1"]), margin, fixed(quality["nll"]), fixed(quality["ece"]),
        amount(model["parameters"]), f"{latency:.3g} ms", size(model["memory"]),
    ]  # fmt: skip


def _reasons(candidates: Mapping[str, Any]) -> Table:
    from rich.text import Text

    table = _table("why")
    table.show_header = False
    for _ in range(3):
        table.add_column(overflow="fold")
    for name, model in candidates.items():
        table.add_row("●" if model["chosen"] else "", Text(name), Text(model["reason"]))
    return table


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> Table:
    """The most alike, since theirs is the question; the file has them all."""
    from rich.text import Text

    shown = sorted(pairs, key=lambda pair: pair["disagreement"])[:_MOST]
    many = "" if len(shown) == len(pairs) else f", the {_MOST} most alike of {len(pairs)} pairs"
    table = _table(f"how alike they are{many}")
    table.add_column("pair")
    for heading in ("other answer", "errors correlate", "both wrong", "CKA"):
        table.add_column(heading, justify="right", no_wrap=True)
    for pair in shown:
        cka = fixed(pair["cka"], digits=2) + (" of logits" if pair["cka_of"] == "logits" else "")
        table.add_row(
            Text(f"{pair['first']} – {pair['second']}"), percent(pair["disagreement"]),
            fixed(pair["error_correlation"], digits=2), percent(pair["double_fault"]),
            NONE if pair["cka"] is None else cka,
        )  # fmt: skip
    return table


def _choice(found: Mapping[str, Any]) -> str:
    steps, rules = found["selection"]["steps"], found["rules"]
    if not steps:
        return "Chosen: none of them; the reasons stand above."
    last, of = steps[-1], "" if rules["given"] else f", {rules['times']:g} times the student"
    names = ", ".join(found["selection"]["chosen"]) + (" together" if len(steps) > 1 else "")
    return (
        f"Chosen: {names}: {percent(last['top1'])}, NLL {fixed(last['nll'])}, {last['latency']:.3g} ms of a budget of "
        f"{rules['budget']:.3g} ms{of}"
    )


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="dim", pad_edge=False)
