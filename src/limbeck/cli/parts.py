"""The commands around a training: taps, methods, cache, recipe."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli import Commands

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add them to the parser."""
    _add_taps(commands)
    _add_methods(commands)
    _add_cache(commands)
    _add_recipe(commands)


def _add_taps(commands: Commands) -> None:
    taps = commands.add_parser("taps", help="list the places in a model where features can be read")
    taps.add_argument("model", metavar="MODEL", help="resnet20, torchvision:resnet18, timm:vit_tiny_patch16_224, or "
                      "package.module:function with --plugin package")  # fmt: skip
    taps.add_argument("--input", default="3x32x32", metavar="CxHxW", help="the shape of one input (default: 3x32x32)")
    taps.add_argument("--plugin", action="append", default=[], metavar="PACKAGE", help="a package MODEL may come from")
    taps.set_defaults(run=_taps)


def _add_methods(commands: Commands) -> None:
    methods = commands.add_parser(
        "methods", help="list every term: what it compares, its paper, what it learns and keeps, the taps it needs"
    )
    methods.add_argument("--markdown", action="store_true", help="print docs/methods.md, with formulas and settings")
    methods.set_defaults(run=_methods)


def _add_cache(commands: Commands) -> None:
    cache = commands.add_parser("cache", help="fill, list, check or remove caches of teachers' answers")
    acts = cache.add_subparsers(required=True, metavar="ACTION")
    act = acts.add_parser("fill", help="ask a recipe's teachers about every view of every picture, ahead of all runs")
    act.add_argument("recipe", metavar="RECIPE")
    act.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    act.add_argument("--batch", type=int, default=256, metavar="N", help="pictures asked about at once (default: 256)")
    act.add_argument("--data-root", metavar="DIR", help="where the data stands; the same as data.root=DIR")
    act.set_defaults(run=_cache_fill)
    act = acts.add_parser("info", help="list the caches there are")
    act.set_defaults(run=_cache_info, keys=())
    check = acts.add_parser("verify", help="read every answer and check it")
    check.add_argument("keys", nargs="*", metavar="KEY", help="the caches to check, by the start of their keys; all")
    check.set_defaults(run=_cache_verify)
    gone = acts.add_parser("prune", help="remove caches: those named, those not used for long, or all")
    gone.add_argument("keys", nargs="*", metavar="KEY", help="the caches to remove, by the start of their keys")
    gone.add_argument("--older", type=float, metavar="DAYS", help="those that were not used for so many days")
    gone.add_argument("--all", action="store_true", dest="everything", help="all of them")
    gone.set_defaults(run=_cache_prune)
    for one in (act, check, gone):
        one.add_argument(
            "--root", metavar="DIR", help="the folder of all caches ($LIMBECK_CACHE, ~/.cache/limbeck/answers)"
        )


def _add_recipe(commands: Commands) -> None:
    recipe = commands.add_parser("recipe", help="check or show a recipe, or list those that come with limbeck")
    acts = recipe.add_subparsers(required=True, metavar="ACTION")
    for name, does in (("check", "say whether a recipe is sound"), ("show", "print it with every setting filled in")):
        act = acts.add_parser(name, help=does)
        act.add_argument("recipe", metavar="FILE")
        act.add_argument("settings", nargs="*", metavar="KEY=VALUE")
        act.set_defaults(run=_recipe_check if name == "check" else _recipe_show)
    acts.add_parser("list", help="the recipes that come with limbeck").set_defaults(run=_recipe_list)


def _taps(options: argparse.Namespace) -> None:
    from limbeck.workflows.revisit import taps

    taps(options.model, options.input, plugins=options.plugin)


def _methods(options: argparse.Namespace) -> None:
    from limbeck.workflows.list_losses import methods, methods_page, methods_table

    if options.markdown:
        print(methods_page(methods()), end="")  # noqa: T201
    else:
        print(methods_table(methods()))  # noqa: T201


def _cache_fill(options: argparse.Namespace) -> None:
    from limbeck.workflows.teacher_cache import fill

    root = [] if options.data_root is None else [f"data.root={options.data_root}"]
    fill(options.recipe, [*options.settings, *root], batch=options.batch)


def _cache_info(options: argparse.Namespace) -> None:
    from limbeck.workflows.teacher_cache import info

    info(options.root)


def _cache_verify(options: argparse.Namespace) -> None:
    from limbeck.workflows.teacher_cache import verify

    verify(options.keys, options.root)


def _cache_prune(options: argparse.Namespace) -> None:
    from limbeck.workflows.teacher_cache import prune

    prune(options.keys, older=options.older, everything=options.everything, root=options.root)


def _recipe_check(options: argparse.Namespace) -> None:
    from limbeck.recipe import check, find, load

    recipe = load(find(options.recipe), options.settings)
    check(recipe)
    if recipe.study is not None:
        from limbeck.workflows.study.variants import sound

        sound(recipe)
    print(f"{options.recipe} is sound")  # noqa: T201


def _recipe_show(options: argparse.Namespace) -> None:
    from limbeck.recipe import find, load, show

    print(show(load(find(options.recipe), options.settings)), end="")  # noqa: T201


def _recipe_list(options: argparse.Namespace) -> None:
    from limbeck.recipe import listing

    for name, first in listing():
        print(f"{name:<36} {first}")  # noqa: T201
