"""``limbeck dashboard``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add the command to the parser."""
    dashboard = commands.add_parser("dashboard", help="show the runs and studies under a folder in a browser, live")
    dashboard.add_argument("folder", type=Path, metavar="DIR")
    dashboard.add_argument("--port", type=int, default=8642, metavar="N", help="port on 127.0.0.1 (default: 8642)")
    dashboard.set_defaults(run=_dashboard)


def _dashboard(options: argparse.Namespace) -> None:
    from limbeck.dashboard import serve

    serve(options.folder, port=options.port)
