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

__all__ = ["is_sharding", "own_share", "restore_optimizer", "restore_weights", "sharding", "shared_out", "whole"]

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def sharding(world: int) -> Any:
    """Fabric's strategy that shards over ``world`` processes."""
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(_shard, data_parallel_size=world, tensor_parallel_size=1)


def is_sharding(fabric: Fabric) -> bool:
    """Whether this Fabric's strategy is that of :func:`sharding`."""
    return type(fabric.strategy).__name__ == "ModelParallelStrategy"


def shared_out(distiller: Distiller, fabric: Fabric) -> tuple[Distiller, Any]:
    """A copy of ``distiller`` with the same teachers, its student and terms in shares, and Fabric's wrapper of it.

    All processes start from the first one's weights. The given distiller's own student and terms go to the CPU.
    """
    for name, parameter in distiller.named_parameters():
        if not parameter.ndim:
            raise LimbeckError(
                f"training.strategy fsdp cannot share out {name!r}, which is one number: set the strategy to ddp"
            )
    for part in (distiller.student, distiller.objective):
        part.cpu()
        for tensor in (*part.parameters(), *part.buffers()):
            tensor.data = fabric.broadcast(tensor.data)
    kept = (distiller.task, *distiller.teachers.values())
    mine: Distiller = copy.deepcopy(distiller, {id(one): one for one in kept})
    return mine, fabric.setup_module(mine, move_to_device=False)


def whole(state: Any) -> Any:
    """``state`` (of a module or an optimizer) with every share put together, on the CPU; all processes take part."""
    from torch.distributed.tensor import DTensor

    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, Mapping):
        together = {name: whole(value) for name, value in state.items()}
        # Itself where nothing was in shares: a module's state carries versions beside its tensors.
        return together if any(together[name] is not value for name, value in state.items()) else state
    return state


def own_share(tensor: Tensor) -> Tensor:
    """What this process holds of ``tensor``: all of it, unless it is shared out."""
    from torch.distributed.tensor import DTensor

    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def restore_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load whole ``weights`` into ``module``, whose own may be in shares."""
    own = module.state_dict()
    mine = {name: _like(tensor, own.get(name)) for name, tensor in weights.items()}
    module.load_state_dict(mine if any(mine[name] is not weights[name] for name in mine) else weights)


def restore_optimizer(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Load an optimizer's state of whole tensors; those of a parameter's shape are shared out as it is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        number: {
            name: _like(value, parameters[number]) if _is_like(value, parameters[number]) else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


def _shard(distiller: nn.Module, mesh: Any) -> nn.Module:
    """Share out the blocks of the student one by one, so that few weights are whole at once, then what is left."""
    from torch.distributed.fsdp import fully_shard

    assert isinstance(distiller, Distiller)
    for block in _blocks(distiller.student):
        fully_shard(block, mesh=mesh["data_parallel"])
    balance = distiller.objective.balance
    balances = (balance,) if isinstance(balance, nn.Module) else ()
    for part in (distiller.student, *distiller.objective.learned.values(), *balances):
        if any(True for _ in part.parameters()):
            fully_shard(part, mesh=mesh["data_parallel"])
    return distiller


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    for child in network.children():
        if isinstance(child, _CONTAINERS):
            yield from _blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def _is_like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def _like(tensor: Tensor, other: Tensor | None) -> Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)
