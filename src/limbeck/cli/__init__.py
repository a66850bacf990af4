"""The command line. A command imports what it needs when it runs, so that ``--help`` is fast."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

from limbeck._version import __version__
from limbeck.cli import (
    cache,
    compare,
    dashboard,
    distill,
    evaluate,
    lists,
    recipe,
    reproduce,
    run_files,
    select_teachers,
    study,
)
from limbeck.cli.renamed import renamed_message
from limbeck.core.errors import LimbeckError

__all__ = ["SubParsers", "main"]

SubParsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 2 a mistake in the arguments, 128 + n stopped by signal n."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _make_parser()
    if message := renamed_message(arguments):
        parser.error(message)
    options, extra = parser.parse_known_args(arguments)
    # argparse takes no positional words after an option; settings may stand anywhere.
    if extra and not (hasattr(options, "settings") and all("=" in word and word[0] != "-" for word in extra)):
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    if extra:
        options.settings = [*options.settings, *extra]
    try:
        status: int = options.run(options) or 0
    except LimbeckError as error:
        if not getattr(error, "reported", False):
            _print_error(f"limbeck{_process_suffix()}: {error}")
        return 128 + int(getattr(error, "signal", -126))
    except KeyboardInterrupt:
        if not _process_suffix():
            _print_error("limbeck: stopped by SIGINT; finished work is kept, and --resume continues from there")
        return 130
    except BrokenPipeError:
        return 141
    return status


class _Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviated options, which could become ambiguous."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="limbeck",
        description="Knowledge distillation from theory to deployment. Start with: limbeck distill",
    )
    parser.add_argument("--version", action="version", version=f"limbeck {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (
        distill, study, select_teachers, reproduce, evaluate, run_files, compare, dashboard, lists, cache, recipe,
    ):  # fmt: skip
        module.add_commands(commands)
    return parser


def _process_suffix() -> str:
    """Names the process where it is not the first of those that torchrun started."""
    rank = os.environ.get("RANK", "0") if int(os.environ.get("WORLD_SIZE") or 1) > 1 else "0"
    return "" if rank == "0" else f" (process {rank})"


def _print_error(message: str) -> None:
    print(message, file=sys.stderr)  # noqa: T201
