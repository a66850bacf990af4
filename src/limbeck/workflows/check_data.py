"""``limbeck data check``: read all data of a recipe, and list everything that is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from limbeck.data.check_source import DataReport, check_source
from limbeck.data.sources.lookup import no_downloads
from limbeck.recipe import Recipe, find_recipe, load_recipe, resolve_recipe
from limbeck.utils.console import format_json, print_text

__all__ = ["check_data", "render_data_report"]


def check_data(recipe: str | Path | Recipe, overrides: Sequence[str] = (), *, as_json: bool = False) -> int:
    """Check the data of a recipe and print what is wrong; nothing is trained.

    Args:
        recipe: a recipe, its file, or the name of one that comes with limbeck.
        overrides: ``key=value`` settings that replace those of a file.
        as_json: print JSON in place of text.

    Returns:
        0 where nothing is wrong, else 1.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(find_recipe(recipe), overrides)
    plan = resolve_recipe(recipe)
    seed = recipe.seed if recipe.split_seed is None else recipe.split_seed
    with no_downloads():
        report = check_source(plan.data.build(), seed=seed)
    if as_json:
        print_text(format_json({"data": recipe.data.use, "ok": not report.problems, **asdict(report)}))
    else:
        print_text(render_data_report(recipe.data.use, report))
    return int(bool(report.problems))


def render_data_report(name: str, report: DataReport) -> str:
    """One line for each problem, and a summary."""
    counts = [f"{count} {split}" for split, count in report.num_samples.items()]
    files = [f"{report.num_files} files"] if report.num_files else []
    lines = [f"{name}: {', '.join([*files, *counts]) or 'could not be loaded'}"]
    lines += [f"{problem.kind.replace('_', ' ')}: {problem.message}" for problem in report.problems]
    kinds = Counter(problem.kind.replace("_", " ") for problem in report.problems)
    summary = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return "\n".join([*lines, f"{len(report.problems)} problems ({summary})" if kinds else "no problem found"])
