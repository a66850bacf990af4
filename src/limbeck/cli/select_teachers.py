"""``limbeck select-teachers``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add the command to the parser."""
    teachers = commands.add_parser(
        "select-teachers",
        help="measure a recipe's teachers on the validation split and choose among them",
        description="Candidates are the recipe's teachers; the test split is not read. Writes teacher_selection.json "
        "and teacher_selection.svg.",
    )
    teachers.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a name of `limbeck recipe list`")
    teachers.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the recipe")
    teachers.add_argument(
        "--latency-budget", type=float, metavar="MS",
        help="ms per image for all teachers together (default: 30 times the student's)",
    )  # fmt: skip
    teachers.add_argument(
        "--margin",
        type=float,
        default=5.0,
        metavar="POINTS",
        help="minimum gain over the student's baseline (default: 5)",
    )
    teachers.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="output folder (default: runs/NAME-teachers); models trained there are reused",
    )
    teachers.add_argument("--baseline-run", type=Path, metavar="RUN", help="a finished run to take the baseline from")
    teachers.set_defaults(run=_select_teachers)


def _select_teachers(options: argparse.Namespace) -> None:
    from limbeck.workflows.select_teachers.run import select_teachers

    select_teachers(
        options.recipe, options.settings, latency_budget=options.latency_budget, margin=options.margin,
        output_dir=options.out, baseline_run=options.baseline_run,
    )  # fmt: skip
