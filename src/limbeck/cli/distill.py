"""``limbeck distill``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add the command to the parser."""
    distill = commands.add_parser(
        "distill",
        help="train a student with its teachers, compare it with its baseline, export, report",
        description="Without a recipe: digits, on the data that comes with scikit-learn. "
        "KEY=VALUE changes a setting: student.width=16",
    )
    distill.add_argument("recipe", nargs="?", metavar="RECIPE", help="a YAML file, or a name of `limbeck recipe list`")
    distill.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the recipe")
    distill.add_argument(
        "--out", type=Path, metavar="DIR", help="the run folder (default: runs/NAME, numbered if taken)"
    )
    distill.add_argument("--seed", type=int, metavar="N", help="replaces the recipe's seed")
    distill.add_argument("--resume", action="store_true", help="continue the run in --out (or the newest of its name)")
    distill.add_argument("--data-root", metavar="DIR", help="root folder of the data; the same as data.root=DIR")
    distill.set_defaults(run=_distill)


def _distill(options: argparse.Namespace) -> None:
    from limbeck.workflows.distill.run import distill

    settings, name = list(options.settings), options.recipe
    if name is not None and "=" in name and not Path(name).exists():
        settings, name = [name, *settings], None
    if options.data_root is not None:
        settings.append(f"data.root={options.data_root}")
    if options.seed is not None:
        settings.append(f"seed={options.seed}")
    distill(name, settings, run_dir=options.out, resume=options.resume)
