"""``limbeck recipe``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add the command to the parser."""
    recipe = commands.add_parser("recipe", help="check or show a recipe, or list those that come with limbeck")
    actions = recipe.add_subparsers(required=True, metavar="ACTION")
    for name, description in (
        ("check", "check that a recipe is valid"),
        ("show", "print it with every setting, defaults included"),
    ):
        action = actions.add_parser(name, help=description)
        action.add_argument("recipe", metavar="FILE")
        action.add_argument("settings", nargs="*", metavar="KEY=VALUE")
        action.set_defaults(run=_recipe_check if name == "check" else _recipe_show)
    actions.add_parser("list", help="the recipes that come with limbeck").set_defaults(run=_recipe_list)


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
