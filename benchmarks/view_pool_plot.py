"""The plot of view_pool.py: accuracy by the number of views, and the difference of each pool to fresh views."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

TEXT, MUTED, GRID, BLUE, PALE = "#1f2430", "#5b6270", "#e3e6eb", "#2563a8", "#8fb4dc"


def draw(figures: dict, path: Path) -> None:
    """Write ``path`` from the contents of results/view_pool.json."""
    rows = {row["name"]: row for row in figures["rows"]}
    pools = [name for name in figures["runs"] if name != "fresh"]
    settings = {"svg.fonttype": "path", "svg.hashsalt": "view_pool", "font.size": 11, "text.color": TEXT}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9.2, 3.9), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(7, 6))
        names = [*pools, "fresh"]
        _panel(left, names, [[run["accuracy"] for run in figures["runs"][name]] for name in names],
               [rows[f"view_pool_{name}_accuracy"] for name in names])  # fmt: skip
        left.set_title("Validation accuracy, %", loc="left", fontsize=11, color=TEXT)
        fresh = [run["accuracy"] for run in figures["runs"]["fresh"]]
        pairs = [
            [run["accuracy"] - fresh_accuracy for run, fresh_accuracy in zip(figures["runs"][name], fresh, strict=True)]
            for name in pools
        ]
        right.axhline(0, color=MUTED, linewidth=1)
        _panel(right, pools, pairs, [rows[f"view_pool_{name}_minus_fresh"] for name in pools])
        right.set_title("Difference to fresh views, points, paired by seed", loc="left", fontsize=11, color=TEXT)
        key = "views per image, used in turn (dark: mean and 95 % interval over seeds; pale: single seeds)"
        figure.supxlabel(key, fontsize=11, color=MUTED)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(panel, names: list[str], seeds: list[list[float]], rows: list[dict]) -> None:
    """For each name a mean with its 95 % interval, and the seeds next to it."""
    for position, (values, row) in enumerate(zip(seeds, rows, strict=True)):
        panel.plot([position + 0.16] * len(values), values, "o", color=PALE, markersize=4)
        if row["low"] is not None:
            panel.plot([position, position], [row["low"], row["high"]], color=BLUE, linewidth=2)
        panel.plot([position], [row["value"]], "o", color=BLUE, markersize=7)
    panel.set_xticks(range(len(names)), [name.replace("K", "") for name in names])
    panel.set_xlim(-0.5, len(names) - 0.5)
    panel.grid(axis="y", color=GRID)
    panel.set_axisbelow(True)
    panel.tick_params(length=0, colors=MUTED)
    for side, spine in panel.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)
