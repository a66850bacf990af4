"""The command line. A command imports what it needs when it runs, so that ``--help`` is fast."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from limbeck._version import __version__
from limbeck.cli.commands import add_commands
from limbeck.cli.renamed import renamed_message
from limbeck.core.errors import LimbeckError

__all__ = ["main", "make_parser"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 success, 2 a wrong argument, 128 + n stopped by signal n."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    try:
        run = options.pop("run")
        if isinstance(run, str):
            module, _, function = run.partition(":")
            run = getattr(import_module(module), function)
        with _trust_plugins(options.pop("trust", False)):
            result = run(**options)
        if isinstance(result, str | Path):
            print(result, end="" if str(result).endswith("\n") else "\n")  # noqa: T201
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
    return result if isinstance(result, int) else 0


class _Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviated options, which could become ambiguous."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser: argparse.ArgumentParser = _Parser(
        prog="limbeck", description="Knowledge distillation from theory to deployment. Start with: limbeck distill"
    )
    parser.add_argument("--version", action="version", version=f"limbeck {__version__}")
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    return parser


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of one command; recipe settings may follow an option, which argparse does not allow by itself."""
    parser = make_parser()
    if message := renamed_message(arguments):
        parser.error(message)
    namespace, extra = parser.parse_known_args(arguments)
    options = vars(namespace)
    if extra and not ("overrides" in options and all("=" in word and word[0] != "-" for word in extra)):
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    if "overrides" in options:
        options["overrides"] += extra
        for name, key in (("data_root", "data.root"), ("seed", "seed")):
            if (value := options.pop(name, None)) is not None:
                options["overrides"].append(f"{key}={value}")
    return options


def _trust_plugins(is_given: bool) -> AbstractContextManager[None]:
    """What ``--trust`` does while the command runs."""
    if not is_given:
        return nullcontext()
    from limbeck.recipe.trust import trust_plugins

    return trust_plugins()


def _process_suffix() -> str:
    """The rank of a process that torchrun started; empty for the first."""
    rank = os.environ.get("RANK", "0") if int(os.environ.get("WORLD_SIZE") or 1) > 1 else "0"
    return "" if rank == "0" else f" (process {rank})"


def _print_error(message: str) -> None:
    print(message, file=sys.stderr)  # noqa: T201
