"""Hidden features by forward hooks: named places in a network, read while it runs, without editing it.

A place is written ``layer2`` (the output of that module), ``layer2:input`` (its input), and ``relu@0`` or
``relu@1:input`` where the module runs several times in one forward pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, nearest

__all__ = ["Place", "Taps", "bare", "listing", "parse"]

_WRAPPERS = ("OptimizedModule", "DistributedDataParallel", "DataParallel", "_FabricModule")
_PLACE = re.compile(r"^(?P<path>[^@:]*)(?:@(?P<run>\d+))?(?::(?P<side>input|output))?$")


@final
@dataclass(frozen=True, slots=True)
class Place:
    """One place in a network: a module by path, which side of it, and which of its runs (``None``: its only one)."""

    path: str
    side: Literal["input", "output"] = "output"
    run: int | None = None


def parse(place: str) -> Place:
    """Read a place as users write it.

    >>> parse("layer1.0.relu@1:input")
    Place(path='layer1.0.relu', side='input', run=1)
    """
    found = _PLACE.match(place)
    if found is None:
        raise LimbeckError(f"{place!r} is not a place in a network: write layer2, layer2:input, or relu@1 (second run)")
    side: Literal["input", "output"] = "input" if found["side"] == "input" else "output"
    return Place(found["path"], side, None if found["run"] is None else int(found["run"]))


def bare(network: nn.Module) -> nn.Module:
    """The user's own module, out of the wrappers that DDP, Fabric and ``torch.compile`` put around it."""
    for wrapped in ("_orig_mod", "module"):
        inner = getattr(network, wrapped, None)
        if isinstance(inner, nn.Module) and type(network).__name__ in _WRAPPERS:
            return bare(inner)
    return network


@final
class Taps:
    """Reads the features at named places of one network while it runs.

    Arguments:
        network: any module, wrapped or not; hooks go on the bare one.
        places: the names to give, and the places they stand for.

    The hooks are there only inside :meth:`listening`. A later layer that overwrites a tapped tensor in place
    (``ReLU(inplace=True)``) does not change what is read: such tensors are copied.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
    >>> taps = Taps(network, {"hidden": "0"})
    >>> with taps.listening() as heard:
    ...     _ = network(torch.ones(1, 2))
    >>> heard["hidden"].shape
    torch.Size([1, 3])
    """

    def __init__(self, network: nn.Module, places: Mapping[str, str]) -> None:
        self._network = bare(network)
        self._compiled = type(network).__name__ == "OptimizedModule"
        self._places = {name: parse(place) for name, place in places.items()}
        # A module that stands in two places answers to both of its paths.
        modules = dict(self._network.named_modules(remove_duplicate=False))
        for place in self._places.values():
            if place.path not in modules:
                raise LimbeckError(
                    f"{type(self._network).__name__} has no module {place.path!r}; near it: "
                    f"{nearest(place.path, [path for path in modules if path])} (limbeck taps MODEL lists them all)"
                )
        self._untouched: set[tuple[str, bool, bool]] = set()

    def __len__(self) -> int:
        return len(self._places)

    @contextmanager
    def listening(self) -> Iterator[dict[str, Tensor]]:
        """Hooks on, for one forward pass; the features stand in the yielded mapping when it ends without an error."""
        heard: dict[str, Tensor] = {}
        if not self._places:
            yield heard
            return
        runs: dict[str, list[_Heard]] = {name: [] for name in self._places}
        learning = torch.is_grad_enabled()
        with ExitStack() as hooks:
            for name, place in self._places.items():
                module = self._network.get_submodule(place.path)
                hooks.callback(self._hook(module, name, place, runs[name]).remove)
            yield heard
        for name, place in self._places.items():
            heard[name] = self._choose(name, place, runs[name], learning)

    def _hook(self, module: nn.Module, name: str, place: Place, runs: list[_Heard]) -> Any:
        def hear(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *result: Any) -> None:
            # An input has to be read before the module runs, since the module may overwrite it.
            tensor = _first_tensor(result if place.side == "output" else (*args, *kwargs.values()), name, place)
            state = (name, module.training, torch.is_grad_enabled())
            kept = tensor if state in self._untouched and not tensor.is_inference() else tensor.clone()
            runs.append(_Heard(kept, tensor, _version(tensor), state))

        if place.side == "input":
            return module.register_forward_pre_hook(hear, with_kwargs=True)
        return module.register_forward_hook(hear, with_kwargs=True)

    def _choose(self, name: str, place: Place, runs: list[_Heard], learning: bool) -> Tensor:
        if not runs:
            why = (
                ", or it was compiled before it was tapped (then torch.compiler.reset() helps)"
                if self._compiled
                else ""
            )
            raise LimbeckError(f"the tap {name!r} heard nothing: {place.path!r} did not run in this forward pass{why}")
        if place.run is None and len(runs) > 1:
            raise LimbeckError(
                f"{place.path!r} ran {len(runs)} times in one forward pass, so the tap {name!r} is not one tensor: "
                f"write {place.path}@0 … {place.path}@{len(runs) - 1}"
            )
        if place.run is not None and place.run >= len(runs):
            raise LimbeckError(
                f"{place.path!r} ran {len(runs)} times, so there is no run @{place.run} (they count from 0)"
            )
        if learning and not all(heard.state[2] for heard in runs):
            raise LimbeckError(
                f"{place.path!r} ran without gradients, so the tap {name!r} could teach it nothing: use "
                "checkpoint(..., use_reentrant=False), or tap outside the no_grad block"
            )
        self._learn(runs, name)
        return runs[place.run or 0].kept

    def _learn(self, runs: list[_Heard], name: str) -> None:
        """Copy only where needed: a place whose tensor nobody overwrote needs no copy next time."""
        overwritten = [heard for heard in runs if _version(heard.tensor) != heard.version]
        if not overwritten:
            self._untouched.update(heard.state for heard in runs)
        elif any(heard.kept is heard.tensor for heard in overwritten):
            raise LimbeckError(
                f"the tensor at the tap {name!r} is overwritten in place in some passes and not in others, so what was "
                "read is not what the layer gave: tap another module"
            )


@torch.no_grad()
def listing(network: nn.Module, *inputs: Tensor) -> list[tuple[str, str, tuple[int, ...] | None, int]]:
    """Every module of ``network``: path, class, shape of its output on ``inputs`` (batch first), how often it ran.

    The network runs once in eval mode and is left as it was. A module that did not run has the shape ``None``.

    >>> listing(nn.Sequential(nn.Linear(2, 3)), torch.ones(1, 2))
    [('0', 'Linear', (1, 3), 1)]
    """
    network = bare(network)
    shapes: dict[str, list[tuple[int, ...] | None]] = {path: [] for path, _ in network.named_modules() if path}
    modes = {module: module.training for module in network.modules()}
    with ExitStack() as hooks:
        for path in shapes:

            def note(module: nn.Module, args: object, result: object, path: str = path) -> None:
                shapes[path].append(next((tuple(t.shape) for t in _tensors(result)), None))

            hooks.callback(network.get_submodule(path).register_forward_hook(note).remove)
        try:
            network.eval()(*inputs)
        finally:
            for module, mode in modes.items():
                module.training = mode
    return [
        (path, type(network.get_submodule(path)).__name__, seen[-1] if seen else None, len(seen))
        for path, seen in shapes.items()
    ]


@dataclass(frozen=True, slots=True)
class _Heard:
    kept: Tensor
    tensor: Tensor
    version: int
    state: tuple[str, bool, bool]


def _version(tensor: Tensor) -> int:
    """How often the tensor was written to; inference tensors do not count, and are not watched."""
    return 0 if tensor.is_inference() else tensor._version


def _first_tensor(result: Any, name: str, place: Place) -> Tensor:
    for tensor in _tensors(result):
        return tensor
    raise LimbeckError(f"the {place.side} of {place.path!r}, tapped as {name!r}, holds no tensor: tap another module")


def _tensors(result: Any) -> Iterator[Tensor]:
    """The tensors in what a module takes or gives: itself, or those in a tuple, list or mapping, in order."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, Mapping):
        for value in result.values():
            yield from _tensors(value)
    elif isinstance(result, tuple | list):
        for value in result:
            yield from _tensors(value)
