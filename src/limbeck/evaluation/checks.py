"""Validation of logits, targets and pixels, and forward passes in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from limbeck.core.errors import LimbeckError
from limbeck.core.task import EvaluableTask, Scores
from limbeck.data.split import UNLABELED, Split
from limbeck.utils.eval_mode import eval_mode

__all__ = ["predict_logits", "predict_split", "require_pixels", "score_batch"]


def check_logits(logits: Tensor, *, owner: str = "the") -> Tensor:
    """``logits`` (``[n, classes]``, floats) detached on the CPU, or an error that names their ``owner``."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise LimbeckError(f"{owner} logits must be [n, classes] with at least 2 classes, got {list(logits.shape)}")
    logits = logits.detach().cpu()
    invalid = (~logits.isfinite().all(dim=1)).nonzero()[:, 0]
    if len(invalid):
        raise LimbeckError(
            f"{owner} logits are not finite in {len(invalid)} of {len(logits)} rows (the first is row {invalid[0]}); "
            "look for NaN or infinity in the network's weights and inputs"
        )
    return logits


def check_class_names(class_names: Sequence[str], logits: Tensor) -> None:
    """Checks that every class of ``logits`` has a name."""
    if len(class_names) != logits.shape[1]:
        raise LimbeckError(f"the logits have {logits.shape[1]} classes, and {len(class_names)} names are given")


def check_same_length(first: Tensor, second: Tensor) -> None:
    """Checks that both are of the same number of samples, at least one."""
    if len(first) != len(second) or not len(first):
        raise LimbeckError(
            f"networks must be compared on the same samples, at least one, got {len(first)} and {len(second)}"
        )


def labeled_mask(target: Tensor, *, num_rows: int, num_classes: int) -> Tensor:
    """Mask of the labeled rows of ``target`` (``[rows]`` class indices, −100 for no label), on the CPU."""
    if target.ndim != 1 or len(target) != num_rows or target.is_floating_point():
        raise LimbeckError(
            f"target must be {num_rows} class indices, one per row, got {target.dtype} {list(target.shape)}"
        )
    target = target.detach().cpu()
    is_labeled: Tensor = target != UNLABELED
    invalid = target[is_labeled & ((target < 0) | (target >= num_classes))]
    if len(invalid):
        raise LimbeckError(
            f"target must be in 0..{num_classes - 1}, or {UNLABELED} for no label, got the class {int(invalid[0])} of "
            f"{num_classes} classes"
        )
    return is_labeled


def require_class_targets(split: Split, purpose: str) -> None:
    """Checks that each sample of ``split`` is an image of one class, which ``purpose`` needs."""
    fields = {"sequences": split.sequences, "masks": split.masks, "values": split.values}
    for kind, value in fields.items():
        if value is not None:
            raise LimbeckError(f"{purpose} needs images of one class each, got a split with {kind}: remove it")


def require_labeled(split: Split) -> Split:
    """The labeled samples of ``split``, at least one."""
    labeled = split.select_labeled()
    if not len(labeled):
        raise LimbeckError("the split must have at least one labeled sample, and no sample has a label")
    return labeled


def require_pixels(pixels: Tensor, *, eps: float | None = None) -> None:
    """Checks that pixels, and an ε, are in units of 0..1."""
    if eps is not None and not 0 < eps <= 1:
        raise LimbeckError(f"ε must be in pixel units between 0 and 1, got {eps:g}; write 8/255 (0.0314) for 8 levels")
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.numel() else (0.0, 0.0)
    if not (low >= 0.0 and high <= 1.0):  # also for NaN
        raise LimbeckError(
            f"pixels must be in 0..1, got {low:.3g} to {high:.3g}; pass images without normalization, with the "
            "normalization inside the network"
        )


def model_device(model: nn.Module) -> torch.device:
    """Device of the first parameter of ``model``; the CPU without parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def move_to_device(batch: Any, device: torch.device) -> Any:
    """``batch`` with every tensor in it on ``device``."""
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)


def predict_logits(network: nn.Module, pixels: Tensor) -> Tensor:
    """Logits of ``network`` for one batch, in eval mode without gradients, float32 on the CPU.

    >>> predict_logits(nn.Identity(), torch.eye(2)).argmax(dim=1)
    tensor([0, 1])
    """
    with eval_mode(network):
        logits: Tensor = network(pixels.to(model_device(network)))
    return logits.float().cpu()


def predict_split(network: nn.Module, split: Split, *, batch_size: int = 256) -> Tensor:
    """Logits of ``network`` for all samples of ``split``, ``[n, classes]`` float32 on the CPU."""
    batches = torch.split(torch.arange(len(split)), batch_size)
    return torch.cat([predict_logits(network, split.read(indices)) for indices in batches])


def statistics_under_perturbations(
    networks: Mapping[str, nn.Module], split: Split, task: EvaluableTask,
    perturb: Callable[[Tensor, Tensor], Iterator[Tensor]], *, batch_size: int,
) -> dict[str, Tensor]:  # fmt: skip
    """What each labeled sample of ``split`` adds to the primary metric, under each perturbation of its image.

    ``perturb`` yields the perturbed pixels of a batch from ``pixels, sample_ids``; all networks get the same ones.

    Returns:
        By network, ``[perturbations, labeled, k]`` float64, see :class:`limbeck.core.task.Scores`.
    """
    if split.sequences is not None:
        raise LimbeckError("noise and corruptions need images, got a split with sequences: remove them")
    split = require_labeled(split)
    chunks: dict[str, list[Tensor]] = {name: [] for name in networks}
    for indices in torch.split(torch.arange(len(split)), batch_size):
        batch, rows = {**split.read_fields(indices), "sample_id": split.sample_ids[indices]}, dict[str, list[Tensor]]()
        for pixels in perturb(batch["input"], batch["sample_id"]):
            for name, network in networks.items():
                scores = score_batch(network, {**batch, "input": pixels}, task)
                rows.setdefault(name, []).append(scores.statistics.detach().cpu().double())
        for name, statistics in rows.items():
            chunks[name].append(torch.stack(statistics))
    return {name: torch.cat(statistics, dim=1) for name, statistics in chunks.items()}


def score_batch(network: nn.Module, batch: Any, task: EvaluableTask) -> Scores:
    """``task.score`` in eval mode without gradients, on the device of ``network``."""
    device = model_device(network)
    with eval_mode(network):
        return task.score(network, batch if device.type == "cpu" else move_to_device(batch, device))
