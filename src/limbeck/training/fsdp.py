"""Fully sharded data parallelism (FSDP2, ``torch.distributed.fsdp.fully_shard``).

Zhao et al., VLDB 2023, https://arxiv.org/abs/2304.11277. A copy of the distiller is sharded; the caller's student stays
a plain module and gets the full weights at the end. Teachers are not sharded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.distiller.distiller import Distiller
from limbeck.utils.parametrizations import copy_module

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "gather_full_state", "is_fsdp", "load_full_optimizer_state", "load_full_weights", "local_shard",
    "make_fsdp_strategy", "shard_module",
]  # fmt: skip

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def make_fsdp_strategy(world_size: int) -> Any:
    """Fabric's strategy that shards over ``world_size`` processes."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(_apply_fully_shard, data_parallel_size=world_size, tensor_parallel_size=1)


def is_fsdp(fabric: Fabric) -> bool:
    """Whether this Fabric's strategy is that of :func:`make_fsdp_strategy`."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return isinstance(fabric.strategy, ModelParallelStrategy)


def shard_module(distiller: Distiller, fabric: Fabric) -> tuple[Distiller, Any]:
    """Copy ``distiller`` (with the same teachers) and shard student and losses; returns the copy and Fabric's wrapper.

    All processes start from the weights of rank 0. The student and losses of ``distiller`` are moved to the CPU.
    """
    for name, parameter in distiller.named_parameters():
        if not parameter.ndim:
            raise LimbeckError(
                f"training.strategy fsdp cannot shard {name!r}, which is a scalar: set the strategy to ddp"
            )
    for module in (distiller.student, distiller.objective):
        module.cpu()
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = fabric.broadcast(tensor.data)
    sharded = copy_module(distiller, keep=(distiller.task, *distiller.teachers.values()))
    return sharded, fabric.setup_module(sharded, move_to_device=False)


def gather_full_state(state: Any) -> Any:
    """Gather the sharded tensors of a state dict on the CPU; a collective call."""
    from torch.distributed.tensor import DTensor

    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, Mapping):
        full_state = {name: gather_full_state(value) for name, value in state.items()}
        # A module's state dict has version metadata, so it is returned itself if nothing is sharded.
        return full_state if any(full_state[name] is not value for name, value in state.items()) else state
    return state


def local_shard(tensor: Tensor) -> Tensor:
    """The local shard of ``tensor``, or ``tensor`` itself if it is not sharded."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def load_full_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load full ``weights`` into ``module``, which may be sharded."""
    current = module.state_dict()
    sharded = {name: _distribute_like(tensor, current.get(name)) for name, tensor in weights.items()}
    module.load_state_dict(sharded if any(sharded[name] is not weights[name] for name in sharded) else weights)


def load_full_optimizer_state(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Load a full optimizer state; tensors of a parameter's shape are sharded like it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sharded_state = {
        index: {
            name: _distribute_like(value, parameters[index]) if _has_shape_of(value, parameters[index]) else value
            for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": sharded_state})


def _apply_fully_shard(distiller: nn.Module, mesh: Any) -> nn.Module:
    """Shard the blocks of the student one by one, so that few weights are gathered at once, then the rest."""
    from torch.distributed.fsdp import fully_shard

    assert isinstance(distiller, Distiller)
    for block in _iterate_blocks(distiller.student):
        fully_shard(block, mesh=mesh["data_parallel"])
    loss_weighting = distiller.objective.loss_weighting
    weighting_modules = (loss_weighting,) if isinstance(loss_weighting, nn.Module) else ()
    for module in (distiller.student, *distiller.objective.trainable.values(), *weighting_modules):
        if any(True for _ in module.parameters()):
            fully_shard(module, mesh=mesh["data_parallel"])
    return distiller


def _iterate_blocks(network: nn.Module) -> Iterator[nn.Module]:
    for child in network.children():
        if isinstance(child, _CONTAINERS):
            yield from _iterate_blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def _has_shape_of(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _distribute_like(tensor: Tensor, reference: Tensor | None) -> Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(reference, DTensor):
        return tensor
    return distribute_tensor(tensor.to(reference.device), reference.device_mesh, reference.placements)
