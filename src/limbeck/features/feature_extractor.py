"""Hidden features by forward hooks on named layers (:mod:`limbeck.features.layer_ref`), without editing the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.features.layer_ref import LayerRef, named_tensors, parse_layer
from limbeck.utils.eval_mode import eval_mode


def unwrap_model(network: nn.Module) -> nn.Module:
    """Remove the wrappers of ``torch.compile``, Lightning Fabric and DDP around ``network``.

    ``torch.compile`` holds the network as ``_orig_mod``, and Fabric as ``_original_module``.
    """
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrap_model(network.module)
    for attribute in ("_orig_mod", "_original_module"):
        if isinstance(inner := getattr(network, attribute, None), nn.Module):
            return unwrap_model(inner)
    return network


def layer_root(network: nn.Module) -> nn.Module:
    """The module that layer names are relative to: the network inside wrappers and adapters (``wrapped_network``)."""
    network = unwrap_model(network)
    root: nn.Module = getattr(network, "wrapped_network", network)
    return root


@final
class FeatureExtractor:
    """Captures features at layers of a network during its forward pass.

    Args:
        network: a module, wrapped or not.
        layers: layers by feature name.

    Hooks exist only inside :meth:`capture`. A tensor that a later layer overwrites in place (``ReLU(inplace=True)``) is
    copied.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(inplace=True))
    >>> extractor = FeatureExtractor(network, {"hidden": "0"})
    >>> with extractor.capture() as features:
    ...     _ = network(torch.ones(1, 2))
    >>> features["hidden"].shape
    torch.Size([1, 3])
    """

    def __init__(self, network: nn.Module, layers: Mapping[str, str]) -> None:
        self._network = layer_root(network)
        self._compiled = hasattr(network, "_orig_mod")
        self._layers = {name: parse_layer(layer) for name, layer in layers.items()}
        # A shared module has several paths.
        modules = dict(self._network.named_modules(remove_duplicate=False))
        for layer in self._layers.values():
            if layer.path not in modules:
                raise LimbeckError(
                    f"{type(self._network).__name__} has no module {layer.path!r}; near it: "
                    f"{suggest_names(layer.path, filter(None, modules))} (limbeck layers MODEL lists them all)"
                )
        self._untouched: set[tuple[str, bool, bool]] = set()

    def __len__(self) -> int:
        return len(self._layers)

    @contextmanager
    def capture(self) -> Iterator[dict[str, Tensor]]:
        """Capture one forward pass; the yielded mapping is filled when the context exits without an error."""
        features: dict[str, Tensor] = {}
        if not self._layers:
            yield features
            return
        captures: dict[str, list[_Captured]] = {name: [] for name in self._layers}
        grad_enabled = torch.is_grad_enabled()
        with ExitStack() as hooks:
            for name, layer in self._layers.items():
                module = self._network.get_submodule(layer.path)
                hooks.callback(self._register_hook(module, name, layer, captures[name]).remove)
            yield features
        for name, layer in self._layers.items():
            features[name] = self._select_capture(name, layer, captures[name], grad_enabled)

    def _register_hook(self, module: nn.Module, name: str, layer: LayerRef, captures: list[_Captured]) -> Any:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *result: Any) -> None:
            # An input is read before the module runs, since the module may overwrite it.
            try:
                tensor = layer.select(result[0]) if layer.side == "output" else layer.select_input(args, kwargs)
            except LimbeckError as error:
                raise LimbeckError(f"the feature {name!r} cannot be captured: {error}") from error
            state = (name, module.training, torch.is_grad_enabled())
            value = tensor if state in self._untouched and not tensor.is_inference() else tensor.clone()
            captures.append(_Captured(value, tensor, _version(tensor), state))

        if layer.side == "input":
            return module.register_forward_pre_hook(record, with_kwargs=True)
        return module.register_forward_hook(record, with_kwargs=True)

    def _select_capture(self, name: str, layer: LayerRef, captures: list[_Captured], grad_enabled: bool) -> Tensor:
        if not captures:
            reason = ", or it was compiled before (then call torch.compiler.reset())" if self._compiled else ""
            raise LimbeckError(
                f"the feature {name!r} was not captured: {layer.path!r} did not run in this forward pass{reason}"
            )
        if layer.call_index is None and len(captures) > 1:
            raise LimbeckError(
                f"{layer.path!r} ran {len(captures)} times in one forward pass, so the feature {name!r} is not one "
                f"tensor: write {replace(layer, call_index=0)} … {replace(layer, call_index=len(captures) - 1)}"
            )
        if layer.call_index is not None and layer.call_index >= len(captures):
            raise LimbeckError(
                f"{layer.path!r} ran {len(captures)} times, so there is no run @{layer.call_index} (counted from 0)"
            )
        if grad_enabled and not all(capture.state[2] for capture in captures):
            raise LimbeckError(
                f"{layer.path!r} ran without gradients, so the feature {name!r} has no gradient: use "
                "checkpoint(..., use_reentrant=False), or a layer outside the no_grad block"
            )
        self._update_untouched(captures, name)
        return captures[layer.call_index or 0].value

    def _update_untouched(self, captures: list[_Captured], name: str) -> None:
        """Remember layers whose tensor was not overwritten, which need no copy next time."""
        overwritten = [capture for capture in captures if _version(capture.tensor) != capture.version]
        if not overwritten:
            self._untouched.update(capture.state for capture in captures)
        elif any(capture.value is capture.tensor for capture in overwritten):
            raise LimbeckError(
                f"the tensor of the feature {name!r} is overwritten in place in some passes and not in others, so the "
                "captured value is wrong: use another layer"
            )


@final
@dataclass(frozen=True, slots=True)
class ModuleCall:
    """A call of a submodule.

    Attributes:
        path: the path of the submodule.
        input_shape: the shape of the first tensor of its input.
        output_shapes: the shapes of the tensors of its output by layer, such as ``fpn#p4``, or ``fpn`` for one tensor.
    """

    path: str
    input_shape: tuple[int, ...] | None
    output_shapes: Mapping[str, tuple[int, ...]]


@contextmanager
def trace_calls(network: nn.Module, paths: Iterable[str]) -> Iterator[list[ModuleCall]]:
    """Record the calls of the submodules at ``paths`` while the block runs, in the order in which they end.

    >>> network = nn.Sequential(nn.Linear(2, 3))
    >>> with trace_calls(network, ["0"]) as calls:
    ...     _ = network(torch.ones(1, 2))
    >>> calls
    [ModuleCall(path='0', input_shape=(1, 2), output_shapes={'0': (1, 3)})]
    """
    root, calls = layer_root(network), list[ModuleCall]()

    def record_call(path: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        input_shape = next((tuple(tensor.shape) for _, tensor in named_tensors((args, kwargs))), None)
        tensors = dict(named_tensors(result))
        layers = {f"{path}{key if len(tensors) > 1 else ''}": tuple(t.shape) for key, t in tensors.items()}
        calls.append(ModuleCall(path, input_shape, layers))

    with ExitStack() as hooks:
        for path in paths:
            module = root.get_submodule(path)
            hooks.callback(module.register_forward_hook(partial(record_call, path), with_kwargs=True).remove)
        yield calls


def list_layers(network: nn.Module, *inputs: Tensor) -> list[tuple[str, str, tuple[int, ...] | None, int]]:
    """List every layer of ``network``: layer, class, output shape on ``inputs`` (batch first), number of calls.

    A module that returns several tensors has one line for each, such as ``fpn#p4``. The network runs once in eval mode.
    The shape of a module that does not run, or returns no tensor, is ``None``.

    >>> list_layers(nn.Sequential(nn.Linear(2, 3)), torch.ones(1, 2))
    [('0', 'Linear', (1, 3), 1)]
    """
    root = layer_root(network)
    outputs: dict[str, list[Mapping[str, tuple[int, ...]]]] = {path: [] for path, _ in root.named_modules() if path}
    with eval_mode(network), trace_calls(network, outputs) as calls:
        unwrap_model(network)(*inputs)
    for call in calls:
        outputs[call.path].append(call.output_shapes)
    rows: list[tuple[str, str, tuple[int, ...] | None, int]] = []
    for path, shapes in outputs.items():
        kind = type(root.get_submodule(path)).__name__
        last: Mapping[str, tuple[int, ...] | None] = (shapes and shapes[-1]) or {path: None}
        rows += [(layer, kind, shape, len(shapes)) for layer, shape in last.items()]
    return rows


@dataclass(frozen=True, slots=True)
class _Captured:
    value: Tensor
    tensor: Tensor
    version: int
    state: tuple[str, bool, bool]


def _version(tensor: Tensor) -> int:
    """Number of in-place writes; inference tensors do not count them."""
    return 0 if tensor.is_inference() else tensor._version
