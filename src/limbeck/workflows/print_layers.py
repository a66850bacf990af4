"""``limbeck layers``: the layers of a model whose features can be recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from limbeck.core.errors import LimbeckError
from limbeck.core.limits import MAX_INPUT_SIZE
from limbeck.features import list_layers, parse_layer
from limbeck.recipe.plugins import plugin_error
from limbeck.recipe.resolve_node import resolve_node
from limbeck.utils.console import print_text
from limbeck.utils.model_names import MODEL_PREFIXES

__all__ = ["print_layers"]


def print_layers(model: str, shape: str, *, plugins: Sequence[str] = ()) -> None:
    """Print every layer of ``model`` with the shape of its features for one input of ``shape`` (``3x32x32``)."""
    input_shape = _parse_shape(shape)
    prefix, colon, _ = model.partition(":")
    top = prefix.partition(".")[0]
    is_listed = any(prefix == plugin or prefix.startswith(f"{plugin}.") for plugin in plugins)
    if colon and prefix not in MODEL_PREFIXES and not is_listed and plugin_error(top) is None:
        raise LimbeckError(f"{model} is not part of limbeck: if you trust its package, add --plugin {top}")
    settings = {"classes": 10, "channels": input_shape[0]}
    network = resolve_node(model, "model", plugins=plugins, provided=settings, config_path="MODEL").build()
    try:
        rows = list_layers(network, torch.zeros(1, *input_shape))
    except Exception as error:  # a network may raise any error for an input of another shape
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise LimbeckError(f"{model} does not take an input of {shape} ({line[:160]}): give --input another") from error
    width, kind_width = max(len(path) for path, *_ in rows), max(len(kind) for _, kind, *_ in rows)
    for path, kind, output_shape, num_calls in rows:
        text = "did not run" if not num_calls else "no tensor"
        if num_calls and output_shape is not None:
            text = "×".join(map(str, output_shape[1:]))
        if num_calls > 1:
            text += f"   runs {num_calls} times: write {replace(parse_layer(path), call_index=0)} …"
        print_text(f"{path:<{width}}  {kind:<{kind_width}}  {text}")


def _parse_shape(text: str) -> list[int]:
    try:
        shape = [int(size) for size in text.lower().replace("×", "x").split("x")]
    except ValueError:
        shape = []
    if not shape or min(shape) < 1:
        raise LimbeckError(f"--input must be the shape of one input, such as 3x32x32, got {text!r}")
    if max(shape) > MAX_INPUT_SIZE:
        raise LimbeckError(f"--input must have sizes of at most {MAX_INPUT_SIZE}, got {text!r}")
    return shape
