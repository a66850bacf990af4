"""Layers as text, and the one tensor of a module's input or output that a layer names.

A layer is written ``layer2`` (the output of that module), ``layer2:input`` (its input), ``relu@0`` or ``relu@1:input``
where the module runs several times in one forward pass, and ``fpn#p4`` where the module returns several tensors: the
key of a dict, or the index in a tuple or list. ``lstm#1#0`` is the first tensor of the second item.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, final

from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["LayerRef", "named_tensors", "parse_layer"]

_LAYER_PATTERN = re.compile(r"^(?P<path>[^@:#]*)(?:@(?P<run>\d+))?(?::(?P<side>input|output))?(?P<keys>(?:#[^#:]+)*)$")


@final
@dataclass(frozen=True, slots=True)
class LayerRef:
    """A tensor of a module's input or output.

    Attributes:
        path: the path of the module.
        side: ``input`` or ``output``.
        call_index: the index of the call; ``None``: the only one.
        keys: the keys and indices that lead to the tensor.
    """

    path: str
    side: Literal["input", "output"] = "output"
    call_index: int | None = None
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        call = "" if self.call_index is None else f"@{self.call_index}"
        side = ":input" if self.side == "input" else ""
        return f"{self.path}{call}{side}{''.join(f'#{key}' for key in self.keys)}"

    def select_input(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """The tensor of an input. Keys are positions and names of arguments; without keys, the first tensor."""
        value = {**{str(i): arg for i, arg in enumerate(args)}, **kwargs}
        if not self.keys:
            for _, tensor in named_tensors(value):
                return tensor
        return self.select(value)

    def select(self, value: Any) -> Tensor:
        """The tensor of ``value``, the output of the module.

        Raises:
            LimbeckError: no tensor is at the keys, or several are.

        >>> LayerRef("fpn", keys=("p4",)).select({"p3": Tensor([1.0]), "p4": Tensor([2.0])})
        tensor([2.])
        """
        tensors = dict(named_tensors(value))
        prefix = "".join(f"#{key}" for key in self.keys)
        selected = {
            key: tensor for key, tensor in tensors.items() if f"{key}#".startswith(f"{prefix}#" if prefix else "")
        }
        if len(selected) == 1:
            return next(iter(selected.values()))
        if not tensors:
            raise LimbeckError(f"the {self.side} of {self.path!r} has no tensor: use another layer")
        module = replace(self, keys=())
        names = [f"{module}{key} {list(tensor.shape)}" for key, tensor in (selected or tensors).items() if key]
        if not names:
            raise LimbeckError(f"the {self.side} of {self.path!r} is one tensor, so it has no {prefix}: write {module}")
        reason = f"has {len(selected)} tensors, and a feature is one" if selected else f"has no tensor {prefix}"
        more = f" and {len(names) - 12} more" if len(names) > 12 else ""
        raise LimbeckError(f"the {self.side} of {self.path!r} {reason}: write {', '.join(names[:12])}{more}")


def parse_layer(layer: str) -> LayerRef:
    """Parse a layer.

    >>> parse_layer("layer1.0.relu@1:input")
    LayerRef(path='layer1.0.relu', side='input', call_index=1, keys=())
    >>> parse_layer("backbone.fpn#p4").keys
    ('p4',)
    """
    match = _LAYER_PATTERN.match(layer)
    if match is None:
        raise LimbeckError(
            f"{layer!r} is not a layer: write layer2, layer2:input, relu@1 (second run), or fpn#p4 (key of its output)"
        )
    call_index = None if match["run"] is None else int(match["run"])
    keys = tuple(match["keys"].split("#")[1:])
    return LayerRef(match["path"], "input" if match["side"] == "input" else "output", call_index, keys)


def named_tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of an input or output in order, with their keys: ``""`` for a tensor, ``"#p4"``, ``"#1#0"``.

    >>> [key for key, _ in named_tensors((Tensor(1), {"h": Tensor(1), "size": 3}))]
    ['#0', '#1#h']
    """
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from named_tensors(item, f"{prefix}#{key}")
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value):
            yield from named_tensors(item, f"{prefix}#{i}")
