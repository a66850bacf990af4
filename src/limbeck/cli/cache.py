"""``limbeck cache``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add the command to the parser."""
    cache = commands.add_parser("cache", help="fill, list, check or remove caches of teacher outputs")
    actions = cache.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("fill", help="compute the outputs of a recipe's teachers for every view of every image")
    action.add_argument("recipe", metavar="RECIPE")
    action.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    action.add_argument("--batch-size", type=int, default=256, metavar="N", help="batch size (default: 256)")
    action.add_argument("--data-root", metavar="DIR", help="root folder of the data; the same as data.root=DIR")
    action.set_defaults(run=_cache_fill)
    action = actions.add_parser("info", help="list all caches")
    action.set_defaults(run=_cache_info, keys=())
    check = actions.add_parser("verify", help="read and check every output")
    check.add_argument(
        "keys", nargs="*", metavar="KEY", help="caches to check, by the start of their keys (default: all)"
    )
    check.set_defaults(run=_cache_verify)
    prune = actions.add_parser("prune", help="remove caches: those named, those not used for long, or all")
    prune.add_argument("keys", nargs="*", metavar="KEY", help="the caches to remove, by the start of their keys")
    prune.add_argument("--older-than", type=float, metavar="DAYS", help="caches that were not used for this many days")
    prune.add_argument("--all", action="store_true", dest="everything", help="all of them")
    prune.set_defaults(run=_cache_prune)
    for command in (action, check, prune):
        command.add_argument(
            "--root", metavar="DIR", help="the folder of all caches ($LIMBECK_CACHE, ~/.cache/limbeck/teacher_outputs)"
        )


def _cache_fill(options: argparse.Namespace) -> None:
    from limbeck.workflows.teacher_cache import populate_cache

    root = [] if options.data_root is None else [f"data.root={options.data_root}"]
    populate_cache(options.recipe, [*options.settings, *root], batch_size=options.batch_size)


def _cache_info(options: argparse.Namespace) -> None:
    from limbeck.workflows.teacher_cache import print_caches

    print_caches(options.root)


def _cache_verify(options: argparse.Namespace) -> None:
    from limbeck.workflows.teacher_cache import verify_caches

    verify_caches(options.keys, options.root)


def _cache_prune(options: argparse.Namespace) -> None:
    from limbeck.workflows.teacher_cache import prune_caches

    prune_caches(options.keys, older_than=options.older_than, all_caches=options.everything, root=options.root)
