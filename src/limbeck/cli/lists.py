"""``limbeck layers`` and ``limbeck losses``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck.cli import SubParsers

__all__ = ["add_commands"]


def add_commands(commands: SubParsers) -> None:
    """Add the commands to the parser."""
    _add_layers(commands)
    _add_losses(commands)


def _add_layers(commands: SubParsers) -> None:
    layers = commands.add_parser("layers", help="list the layers of a model whose features can be read")
    layers.add_argument("model", metavar="MODEL", help="resnet20, torchvision:resnet18, timm:vit_tiny_patch16_224, or "
                      "package.module:function with --plugin package")  # fmt: skip
    layers.add_argument("--input", default="3x32x32", metavar="CxHxW", help="the shape of one input (default: 3x32x32)")
    layers.add_argument(
        "--plugin", action="append", default=[], metavar="PACKAGE", help="a package MODEL may come from"
    )
    layers.set_defaults(run=_list_layers)


def _list_layers(options: argparse.Namespace) -> None:
    from limbeck.workflows.revisit import print_layers

    print_layers(options.model, options.input, plugins=options.plugin)


def _add_losses(commands: SubParsers) -> None:
    losses = commands.add_parser(
        "losses", help="list every loss: what it compares, its paper, parameters, buffers and layers"
    )
    losses.add_argument("--markdown", action="store_true", help="print docs/methods.md, with formulas and settings")
    losses.set_defaults(run=_list_losses)


def _list_losses(options: argparse.Namespace) -> None:
    from limbeck.workflows.list_losses import list_losses, losses_page, losses_table

    if options.markdown:
        print(losses_page(list_losses()), end="")  # noqa: T201
    else:
        print(losses_table(list_losses()))  # noqa: T201
