"""Commands and options that had other names before version 0.3. There are no aliases: an error names the new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["REMOVED_OPTIONS", "RENAMED_COMMANDS", "RENAMED_OPTIONS", "renamed_message"]

RENAMED_COMMANDS: Final[Mapping[str, str]] = {
    "taps": "layers", "methods": "losses", "teachers": "select-teachers", "rerun": "reproduce", "board": "dashboard",
    "card": "model-card",
}  # fmt: skip
RENAMED_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "evaluate": {
        "--part": "--split", "--shift": "--shifted-dir", "--twin": "--reference-dir", "--examples": "--num-samples",
    },
    "compare": {"--against": "--baseline"},
    "select-teachers": {"--alone": "--baseline-run", "--budget": "--latency-budget"},
    "cache": {"--older": "--older-than", "--batch": "--batch-size"},
}  # fmt: skip
"""Old option to new option, by command."""
REMOVED_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "study": {"--storage": "a study needs no database; give the same --out, a shared folder, on every machine"},
}
"""Removed option to what to do instead, by command."""


def renamed_message(arguments: Sequence[str]) -> str | None:
    """The error for an old command or option in ``arguments``; ``None`` where there is none.

    >>> renamed_message(["taps", "resnet20"])
    'limbeck taps is now limbeck layers'
    >>> renamed_message(["compare", "runs/a", "--against=teacher"])
    '--against of limbeck compare is now --baseline'
    """
    if not arguments:
        return None
    command = arguments[0]
    if command in RENAMED_COMMANDS:
        return f"limbeck {command} is now limbeck {RENAMED_COMMANDS[command]}"
    options, removed_options = RENAMED_OPTIONS.get(command, {}), REMOVED_OPTIONS.get(command, {})
    for argument in arguments[1:]:
        if argument == "--":
            return None
        option = argument.partition("=")[0]
        if option in options:
            return f"{option} of limbeck {command} is now {options[option]}"
        if option in removed_options:
            return f"{option} was removed: {removed_options[option]}"
    return None
