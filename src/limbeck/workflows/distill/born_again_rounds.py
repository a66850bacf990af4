"""Born-again networks: a network of the same shape learns from the one before it, again and again, and all vote.

Furlanello et al., ICML 2018, https://arxiv.org/abs/1805.04770. The first generation learns from the labels, every other
from labels and the one before it, each from a start of its own; the ensemble is the mean of their probabilities. A
recipe does the same with ``generations``. It is a :func:`~limbeck.workflows.distill.assistants.distill_chain` whose
networks are of one shape.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Loss, Task
from limbeck.core.schedules import Schedule
from limbeck.data.counter_rng import derive_seed
from limbeck.distiller import Distiller
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.models import save_weights
from limbeck.models.ensemble_model import EnsembleModel
from limbeck.recipe.training_order import generation_name
from limbeck.training import FitResult, TrainingConfig, fit
from limbeck.training.fit import TrainingData
from limbeck.workflows.distill.assistants import distill_chain

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["BornAgainResult", "train_born_again"]


@final
@dataclass(frozen=True, slots=True)
class BornAgainResult:
    """The generations of one network.

    Attributes:
        runs: the training of each by its name, ``generation1`` first; ``run.student`` is the network, in eval mode.
        ensemble: all of them together.
    """

    runs: dict[str, FitResult]
    ensemble: EnsembleModel


def train_born_again(
    make_model: Callable[[], nn.Module],
    data: TrainingData | Any,
    *,
    generations: int = 3,
    objective: Mapping[str, Loss] | None = None,
    weights: Mapping[str, float | Schedule] | None = None,
    task: Task,
    epochs: int | None = None,
    steps: int | None = None,
    training: TrainingConfig = TrainingConfig(),
    run_dir: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    fabric: Fabric | None = None,
    callbacks: Any = None,
) -> BornAgainResult:
    """Train ``generations`` networks, each distilled from the one before it; the first learns from the labels.

    Arguments:
        make_model: gives a new network at its start; called once for each, with torch seeded by ``seed`` and its name.
        data: as for :func:`limbeck.fit`.
        generations: how many networks there are, at least 2.
        objective: what every generation after the first learns by; ``None``: ``CrossEntropyLoss`` and
            ``KDLoss(temperature=1)``.
        weights: a number or a schedule for each loss.
        task: what a batch means.
        epochs: how often each training shows every image; or give ``steps``.
        steps: how many optimizer steps each training makes.
        training: optimizer, batch and the like, for each training alike.
        run_dir: the run folder; gets ``checkpoint/generationN.safetensors`` for each, and what ``fit`` writes.
        seed: of the networks, and of whatever is drawn from torch's generators.
        resume: go on where the training in ``run_dir`` was; what is finished is not done again.
        fabric: devices, precision, processes, as for :func:`limbeck.fit`.
        callbacks: of each training; ``None``: a progress bar.

    All of them together cost ``generations`` trainings: compare with one network trained for as many steps, and the
    ensemble with one of as many networks without a teacher.
    """
    if generations < 2:
        raise LimbeckError(f"a network is born again in generation 2: generations is at least 2, not {generations}")
    names = [generation_name(index) for index in range(1, generations + 1)]
    networks = {}
    for name in names:
        torch.manual_seed(derive_seed(seed, zlib.crc32(name.encode())))
        networks[name] = make_model()
    first = Distiller(networks[names[0]], objective={"target": CrossEntropyLoss()}, task=task)
    fit_options: dict[str, Any] = {
        "epochs": epochs, "steps": steps, "training": training, "run_dir": run_dir, "seed": seed, "resume": resume,
        "fabric": fabric, "callbacks": callbacks,
    }  # fmt: skip
    runs = {names[0]: fit(first, data, phase=names[0], **fit_options)}
    if run_dir is not None:
        save_weights(networks[names[0]], Path(run_dir) / "checkpoint" / f"{names[0]}.safetensors")
    losses: Mapping[str, Loss] = (
        {"target": CrossEntropyLoss(), "kd": KDLoss(temperature=1.0)} if objective is None else objective
    )
    runs |= distill_chain(networks, data, objective=losses, weights=weights, task=task, **fit_options)
    return BornAgainResult(runs, EnsembleModel(list(networks.values())).eval())
