"""``limbeck reproduce``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add the command to the parser."""
    reproduce = commands.add_parser(
        "reproduce",
        help="repeat a run from its record and compare the metrics",
        description="Trains everything again in a new folder. Exit status 0: the metrics agree; 1: they differ.",
    )
    reproduce.add_argument("folder", type=Path, metavar="RUN")
    reproduce.add_argument(
        "--out", type=Path, metavar="DIR", help="the new folder (default: RUN-reproduce, numbered if taken)"
    )
    reproduce.add_argument(
        "--tolerance", type=float, default=0.005, metavar="SHARE",
        help="largest difference of a metric that still agrees (default: 0.005, half a point of accuracy)",
    )  # fmt: skip
    reproduce.add_argument("--data-root", metavar="DIR", help="root folder of the data, if it has moved")
    reproduce.add_argument("--resume", action="store_true", help="continue a reproduction in --out that was stopped")
    reproduce.set_defaults(run=_reproduce)


def _reproduce(options: argparse.Namespace) -> int:
    from limbeck.workflows.reproduce import reproduce

    if options.resume and options.out is None:
        raise LimbeckError("--resume continues the reproduction in --out: give its folder")
    result = reproduce(
        options.folder,
        output_dir=options.out,
        tolerance=options.tolerance,
        data_root=options.data_root,
        resume=options.resume,
    )
    return int(result["match"] == "different")
