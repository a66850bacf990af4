"""Lightning Fabric for the processes and the devices of a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from limbeck.core.errors import LimbeckError
from limbeck.training.distributed import get_launched_world_size, init_process_group
from limbeck.training.fsdp import make_fsdp_strategy
from limbeck.utils.settings import Strategy

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["make_fabric", "make_single_device_fabric"]


def make_fabric(*, strategy: Strategy = "auto", precision: Any = "32-true", loggers: Sequence[Any] = ()) -> Fabric:
    """Make a Fabric for the processes started by ``torchrun``, or for the best single device without them.

    Args:
        strategy: ``ddp`` (the whole student in each process), ``fsdp`` (sharded), or ``auto``: ``ddp`` if there are
            several processes.
        precision: a Fabric precision, such as ``bf16-mixed``.
        loggers: from :func:`~limbeck.training.callbacks.make_logger`, or Fabric's.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    from limbeck.training.precision import make_precision_kwargs

    world_size = get_launched_world_size()
    if world_size == 1:
        if strategy != "auto":
            raise LimbeckError(
                f"the strategy {strategy!r} spreads a training over processes, and there is one: start several with "
                "torchrun --nproc-per-node N -m limbeck distill …, or set training.strategy to auto"
            )
        return make_single_device_fabric(precision=precision, loggers=loggers)
    init_process_group()
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    precision_kwargs = make_precision_kwargs(precision)
    fabric = Fabric(
        accelerator="cuda" if torch.cuda.is_available() else "cpu",
        devices=local_world_size,
        num_nodes=world_size // local_world_size,
        strategy="ddp" if strategy != "fsdp" else make_fsdp_strategy(world_size),
        # Fabric also detects SLURM and then expects one task per device, where torchrun is one task per machine.
        plugins=[TorchElasticEnvironment(), *precision_kwargs["plugins"]],
        precision=precision_kwargs["precision"],
        loggers=list(loggers),
    )
    fabric.launch()
    return fabric


def make_single_device_fabric(*, precision: Any = "32-true", loggers: Sequence[Any] = ()) -> Fabric:
    """Make a Fabric for the best single device, also if ``torchrun`` started several processes.

    Args:
        precision: a Fabric precision, such as ``bf16-mixed``.
        loggers: from :func:`~limbeck.training.callbacks.make_logger`, or Fabric's.
    """
    from lightning_fabric import Fabric

    from limbeck.training.precision import make_precision_kwargs

    return Fabric(accelerator="auto", devices=1, loggers=list(loggers), **make_precision_kwargs(precision))
