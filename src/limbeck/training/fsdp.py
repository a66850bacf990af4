"""A student in shares (FSDP2): every process holds a part of each weight, of its gradient and of its optimizer state.

Zhao et al., VLDB 2023, https://arxiv.org/abs/2304.11277, by ``torch.distributed.fsdp.fully_shard``. What is sharded is
a copy: the student that the user gave stays a plain module, and gets the whole weights when the training ends. Teachers
are frozen and stay whole in each process.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.distiller.distiller import Distiller

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "gather_full_state",
    "is_fsdp",
    "load_full_optimizer_state",
    "load_full_weights",
    "local_shard",
    "make_fsdp_strategy",
    "shard_module",
]

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def make_fsdp_strategy(world_size: int) -> Any:
    """Fabric's strategy that shards over ``world_size`` processes."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(_apply_fully_shard, data_parallel_size=world_size, tensor_parallel_size=1)


def is_fsdp(fabric: Fabric) -> bool:
    """Whether this Fabric's strategy is that of :func:`make_fsdp_strategy`."""
    return type(fabric.strategy).__name__ == "ModelParallelStrategy"


def shard_module(distiller: Distiller, fabric: Fabric) -> tuple[Distiller, Any]:
    """A copy of ``distiller`` with the same teachers, its student and terms in shares, and Fabric's wrapper of it.

    All processes start from the first one's weights. The given distiller's own student and terms go to the CPU.
    """
    for name, parameter in distiller.named_parameters():
        if not parameter.ndim:
            raise LimbeckError(
                f"training.strategy fsdp cannot share out {name!r}, which is one number: set the strategy to ddp"
            )
    for module in (distiller.student, distiller.objective):
        module.cpu()
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = fabric.broadcast(tensor.data)
    unsharded = (distiller.task, *distiller.teachers.values())
    sharded: Distiller = copy.deepcopy(distiller, {id(module_to_keep): module_to_keep for module_to_keep in unsharded})
    return sharded, fabric.setup_module(sharded, move_to_device=False)


def gather_full_state(state: Any) -> Any:
    """``state`` (of a module or an optimizer) with every share put together, on the CPU; all processes take part."""
    from torch.distributed.tensor import DTensor

    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, Mapping):
        full_state = {name: gather_full_state(value) for name, value in state.items()}
        # Itself where nothing was in shares: a module's state carries versions beside its tensors.
        return full_state if any(full_state[name] is not value for name, value in state.items()) else state
    return state


def local_shard(tensor: Tensor) -> Tensor:
    """What this process holds of ``tensor``: all of it, unless it is shared out."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def load_full_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load whole ``weights`` into ``module``, whose own may be in shares."""
    current = module.state_dict()
    sharded = {name: _distribute_like(tensor, current.get(name)) for name, tensor in weights.items()}
    module.load_state_dict(sharded if any(sharded[name] is not weights[name] for name in sharded) else weights)


def load_full_optimizer_state(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Load an optimizer's state of whole tensors; those of a parameter's shape are shared out as it is."""
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
    """Share out the blocks of the student one by one, so that few weights are whole at once, then what is left."""
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
