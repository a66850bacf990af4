"""The command line. A command imports what it needs when it runs, so that ``--help`` is fast."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from limbeck._version import __version__
from limbeck.cli.commands import add_commands
from limbeck.cli.renamed import renamed_message
from limbeck.core.errors import LimbeckError, StoppedBySignal, suggest_names
from limbeck.utils.console import escape_controls, print_text

__all__ = ["main", "make_parser"]

_CONTINUES = "; finished work is kept, and --resume continues from there"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0: success; 2: a wrong argument, recipe or file; 70: an unexpected error, whose traceback is in the file that the
    message names; 128 + n: stopped by signal n. ``--debug`` prints the traceback of any error.
    """
    with _raise_on_signals() as received:
        try:
            options = _parse(sys.argv[1:] if arguments is None else arguments)
            debug, continues = options.pop("debug", False), _CONTINUES if "resume" in options else ""
            try:
                return _run(options)
            except (SystemExit, GeneratorExit):
                raise
            except BaseException as error:  # a library may turn a signal during its import into an error of its own
                if received and not isinstance(error, LimbeckError):
                    error = StoppedBySignal(received[0])
                return _report(error, continues, debug=debug)
        except StoppedBySignal as stop:  # while the arguments were read, or an error was reported
            return _report(stop)


def _run(options: dict[str, Any]) -> int:
    run = options.pop("run")
    if isinstance(run, str):
        module, _, function = run.partition(":")
        run = getattr(import_module(module), function)
    with _trust_plugins(options.pop("trust", False)), _escape_warnings():
        result = run(**options)
    if isinstance(result, str | Path):
        print_text(result, end="" if str(result).endswith("\n") else "\n")
    sys.stdout.flush()
    return result if isinstance(result, int) else 0


def _report(error: BaseException, continues: str = "", *, debug: bool = False) -> int:
    """Print one sentence for ``error``, with its traceback where asked, and return the exit status."""
    if isinstance(error, BrokenPipeError):
        # Python flushes stdout when it ends, which would fail again.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if debug:
        import traceback

        _print_error("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, KeyboardInterrupt | StoppedBySignal):
        stop = error if isinstance(error, StoppedBySignal) else StoppedBySignal(signal.SIGINT)
        if not _process_suffix():
            _print_error(f"limbeck: {stop}{continues}")
        return 128 + stop.signal
    if isinstance(error, LimbeckError):
        if not getattr(error, "reported", False):
            _print_error(f"limbeck{_process_suffix()}: {error}")
        return 128 + int(getattr(error, "signal", -126))
    from limbeck.cli.exceptions import describe_exception, write_traceback

    sentence, status = describe_exception(error)
    path = None if debug else write_traceback(error)
    advice = f"; the traceback is in {path}" if path else "" if debug else "; --debug shows the traceback"
    _print_error(f"limbeck{_process_suffix()}: {sentence}{advice}")
    return status


@contextmanager
def _raise_on_signals() -> Iterator[list[int]]:
    """Raise :class:`StoppedBySignal` on SIGTERM and SIGHUP; a second signal ends the process at once.

    Yields:
        The signals that were received, those of Ctrl-C too.
    """
    process_id, received = os.getpid(), list[int]()

    def stop(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != process_id:  # a process forked to load data
            os._exit(128 + signum)
        signal.signal(signum, signal.SIG_DFL)
        received.append(signum)
        raise StoppedBySignal(signum)

    def interrupt(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        raise KeyboardInterrupt

    is_main_thread = threading.current_thread() is threading.main_thread()
    signums = (signal.SIGTERM, signal.SIGHUP) if is_main_thread else ()
    # A signal that the process ignores, as SIGHUP under nohup, and one with a handler of the caller stay.
    previous_handlers = {signum: signal.getsignal(signum) for signum in signums}
    changed = [signum for signum, handler in previous_handlers.items() if handler == signal.SIG_DFL]
    for signum in changed:
        signal.signal(signum, stop)
    has_interrupt = is_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if has_interrupt:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield received
    finally:
        for signum in changed:
            signal.signal(signum, signal.SIG_DFL)
        if has_interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class _Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviated options, which could become ambiguous."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            nearest = suggest_names(value, action.choices)
            raise argparse.ArgumentError(None, f"no command is named {value!r}; available: {nearest}")
        super()._check_value(action, value)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser: argparse.ArgumentParser = _Parser(
        prog="limbeck",
        description="Knowledge distillation from theory to deployment. Start with: limbeck distill",
        epilog="Exit status: 0 success; 1 a check found differences or problems; 2 a wrong argument, recipe or file; "
        "70 an unexpected error, with its traceback in a file; 128 + n stopped by signal n.",
    )
    parser.add_argument("--version", action="version", version=f"limbeck {__version__}")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    return parser


def _parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The options of one command; recipe settings may follow an option, which argparse does not allow by itself."""
    parser = make_parser()
    for argument in arguments:
        if not argument:  # an unset variable of the shell; as a path it would be the current folder
            parser.error("an argument must be text, got an empty one: leave it out, or give . for the current folder")
        if not _is_text(argument):
            parser.error(f"an argument must be UTF-8 text, got {argument.encode(errors='surrogateescape')!r}")
    if message := renamed_message(arguments):
        parser.error(message)
    namespace, extra = parser.parse_known_args(arguments)
    options = vars(namespace)
    if extra and not ("overrides" in options and all("=" in word and word[0] != "-" for word in extra)):
        hint = (
            "; settings of the recipe are written KEY=VALUE, such as stages.0.epochs=3"
            if "overrides" in options
            else ""
        )
        parser.error(f"unrecognized arguments: {' '.join(extra)}{hint}")
    if "overrides" in options:
        options["overrides"] += extra
        for name, key in (("data_root", "data.root"), ("seed", "seed")):
            if (value := options.pop(name, None)) is not None:
                # Quoted, since YAML reads a folder named 2024 or null as a number or as nothing.
                options["overrides"].append(f"{key}={json.dumps(value, ensure_ascii=False)}")
    return options


def _trust_plugins(is_given: bool) -> AbstractContextManager[None]:
    """What ``--trust`` does while the command runs."""
    if not is_given:
        return nullcontext()
    from limbeck.recipe.trust import trust_plugins

    return trust_plugins()


def _is_text(argument: str) -> bool:
    """Whether ``argument`` is UTF-8; bytes that are not reach Python as surrogates."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _escape_warnings() -> Iterator[None]:
    """Show the control characters of a name in a Python warning, as in other output."""
    format_warning = warnings.formatwarning

    def format_escaped(*args: Any, **kwargs: Any) -> str:
        return escape_controls(format_warning(*args, **kwargs))

    warnings.formatwarning = format_escaped
    try:
        yield
    finally:
        warnings.formatwarning = format_warning


def _process_suffix() -> str:
    """The rank of a process that torchrun started; empty for the first."""
    is_one_of_several = os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")
    rank = os.environ.get("RANK", "0") if is_one_of_several else "0"
    return "" if rank == "0" else f" (process {rank})"


def _print_error(message: str) -> None:
    with suppress(OSError):  # stderr is closed
        print_text(message, file=sys.stderr)
