"""``limbeck study``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add the command to the parser."""
    study = commands.add_parser(
        "study",
        help="compare a recipe's variants with matched baselines over several seeds, with intervals and a verdict",
        description="Trains the teacher, the student without a teacher (for equal steps, for equal wall time, with "
        "label smoothing), the recipe and its `study: {variants: ...}`, each with every seed. "
        "Each training reads the test split once.",
    )
    study.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a name of `limbeck recipe list`")
    study.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings that replace those of the recipe")
    study.add_argument("--seeds", type=int, metavar="N", help="how many seeds, from 0 (default: the recipe's, or 5)")
    study.add_argument("--jobs", type=int, default=1, metavar="N", help="processes on this machine (default: 1)")
    study.add_argument(
        "--out", type=Path, metavar="DIR", help="its folder (default: runs/NAME-study, numbered if taken)"
    )
    study.add_argument(
        "--resume", action="store_true", help="continue the study in --out; new variants and seeds are added"
    )
    study.add_argument("--data-root", metavar="DIR", help="root folder of the data; the same as data.root=DIR")
    study.set_defaults(run=_study)


def _study(options: argparse.Namespace) -> None:
    from limbeck.workflows.study.run import study

    root = [] if options.data_root is None else [f"data.root={options.data_root}"]
    study(
        options.recipe, [*options.settings, *root], seeds=options.seeds, jobs=options.jobs, output_dir=options.out,
        resume=options.resume,
    )  # fmt: skip
