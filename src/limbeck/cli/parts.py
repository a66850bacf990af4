"""The commands around a training: layers, losses, cache, recipe."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add them to the parser."""
    _add_layers(commands)
    _add_losses(commands)
    _add_cache(commands)
    _add_recipe(commands)


def _add_layers(commands: SubParsers) -> None:
    layers = commands.add_parser("layers", help="list the layers of a model whose features can be read")
    layers.add_argument("model", metavar="MODEL", help="resnet20, torchvision:resnet18, timm:vit_tiny_patch16_224, or "
                      "package.module:function with --plugin package")  # fmt: skip
    layers.add_argument("--input", default="3x32x32", metavar="CxHxW", help="the shape of one input (default: 3x32x32)")
    layers.add_argument(
        "--plugin", action="append", default=[], metavar="PACKAGE", help="a package MODEL may come from"
    )
    layers.set_defaults(run=_list_layers)


def _add_losses(commands: SubParsers) -> None:
    losses = commands.add_parser(
        "losses", help="list every loss: what it compares, its paper, what it learns and keeps, the layers it needs"
    )
    losses.add_argument("--markdown", action="store_true", help="print docs/methods.md, with formulas and settings")
    losses.set_defaults(run=_list_losses)


def _add_cache(commands: SubParsers) -> None:
    cache = commands.add_parser("cache", help="fill, list, check or remove caches of teachers' answers")
    actions = cache.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser(
        "fill", help="ask a recipe's teachers about every view of every picture, ahead of all runs"
    )
    action.add_argument("recipe", metavar="RECIPE")
    action.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    action.add_argument(
        "--batch-size", type=int, default=256, metavar="N", help="pictures asked about at once (default: 256)"
    )
    action.add_argument("--data-root", metavar="DIR", help="where the data stands; the same as data.root=DIR")
    action.set_defaults(run=_cache_fill)
    action = actions.add_parser("info", help="list the caches there are")
    action.set_defaults(run=_cache_info, keys=())
    check = actions.add_parser("verify", help="read every answer and check it")
    check.add_argument("keys", nargs="*", metavar="KEY", help="the caches to check, by the start of their keys; all")
    check.set_defaults(run=_cache_verify)
    prune = actions.add_parser("prune", help="remove caches: those named, those not used for long, or all")
    prune.add_argument("keys", nargs="*", metavar="KEY", help="the caches to remove, by the start of their keys")
    prune.add_argument("--older-than", type=float, metavar="DAYS", help="those that were not used for so many days")
    prune.add_argument("--all", action="store_true", dest="everything", help="all of them")
    prune.set_defaults(run=_cache_prune)
    for command in (action, check, prune):
        command.add_argument(
            "--root", metavar="DIR", help="the folder of all caches ($LIMBECK_CACHE, ~/.cache/limbeck/teacher_outputs)"
        )


def _add_recipe(commands: SubParsers) -> None:
    recipe = commands.add_parser("recipe", help="check or show a recipe, or list those that come with limbeck")
    actions = recipe.add_subparsers(required=True, metavar="ACTION")
    for name, description in (
        ("check", "say whether a recipe is valid"),
        ("show", "print it with every setting filled in"),
    ):
        action = actions.add_parser(name, help=description)
        action.add_argument("recipe", metavar="FILE")
        action.add_argument("settings", nargs="*", metavar="KEY=VALUE")
        action.set_defaults(run=_recipe_check if name == "check" else _recipe_show)
    actions.add_parser("list", help="the recipes that come with limbeck").set_defaults(run=_recipe_list)


def _list_layers(options: argparse.Namespace) -> None:
    from limbeck.workflows.revisit import print_layers

    print_layers(options.model, options.input, plugins=options.plugin)


def _list_losses(options: argparse.Namespace) -> None:
    from limbeck.workflows.list_losses import list_losses, losses_page, losses_table

    if options.markdown:
        print(losses_page(list_losses()), end="")  # noqa: T201
    else:
        print(losses_table(list_losses()))  # noqa: T201


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


def _recipe_check(options: argparse.Namespace) -> None:
    from limbeck.recipe import find_recipe, load_recipe, resolve_recipe

    recipe = load_recipe(find_recipe(options.recipe), options.settings)
    resolve_recipe(recipe)
    if recipe.study is not None:
        from limbeck.workflows.study.variants import check_variants

        check_variants(recipe)
    print(f"{options.recipe}: recipe is valid")  # noqa: T201


def _recipe_show(options: argparse.Namespace) -> None:
    from limbeck.recipe import find_recipe, load_recipe, to_yaml

    print(to_yaml(load_recipe(find_recipe(options.recipe), options.settings)), end="")  # noqa: T201


def _recipe_list(options: argparse.Namespace) -> None:
    from limbeck.recipe import list_recipes

    for name, summary in list_recipes():
        print(f"{name:<36} {summary}")  # noqa: T201
