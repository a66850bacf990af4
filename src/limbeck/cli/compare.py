"""``limbeck compare``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add the command to the parser."""
    compare = commands.add_parser(
        "compare",
        help="compare runs, or the variants of a study, on one page",
        description="Runs of one recipe with other seeds are seeds of the same variants. A study may still be running.",
    )
    compare.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folders of runs, or that of a study")
    compare.add_argument("--out", type=Path, metavar="FILE.html", help="the page (default: compare.html)")
    compare.add_argument("--csv", type=Path, metavar="FILE", help="write the table in full precision as well")
    compare.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for GitHub as well")
    compare.add_argument("--latex", type=Path, metavar="FILE", help="write the table for a paper (booktabs) as well")
    compare.add_argument(
        "--baseline", metavar="NAME", help="model to compare with (default: the baseline, or the study's)"
    )
    compare.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> None:
    from limbeck.workflows.compare.run import compare

    compare(
        options.folders, html=options.out, csv=options.csv, markdown=options.markdown, latex=options.latex,
        baseline=options.baseline,
    )  # fmt: skip
