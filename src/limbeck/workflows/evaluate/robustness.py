"""Accuracy of networks under attack, corruption, noise and shift, out-of-distribution detection, and calibration.

All networks are measured on the same images, with intervals of the differences between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck import evaluation
from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.protocols import Task
from limbeck.data import DataModule, Split
from limbeck.data.normalization import NormalizedModel
from limbeck.data.split import UNLABELED, InMemory
from limbeck.evaluation.checks import require_labeled
from limbeck.evaluation.robustness.ood import OOD_SCORES

__all__ = ["CHECKS", "LogitsModel", "RobustnessConfig", "evaluate_robustness", "evaluate_side_by_side"]

CHECKS = ("attacks", "corruptions", "noise", "shift", "ood", "calibration")
_Metrics: TypeAlias = dict[str, dict[str, Any]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessConfig:
    """What is measured, and how.

    Attributes:
        checks: out of :data:`CHECKS`.
        attacks: out of ``limbeck.evaluation.ATTACKS``.
        eps: the largest change of a pixel under attack, in 0..1.
        shifted: images of the same classes from another domain.
        reference: the same images as ``shifted`` before they were shifted; ``None``: compare with the split itself.
        ood: images of none of the classes; ``None``: uniform noise.
        num_samples: how many images of the split are attacked, corrupted and made noisy, chosen by seed; ``None``: all.
        seed: of all draws.
    """

    checks: tuple[str, ...] = ("attacks", "corruptions", "noise", "ood", "calibration")
    attacks: tuple[str, ...] = ("fgsm", "pgd")
    eps: float = evaluation.DEFAULT_EPS
    shifted: Split | None = None
    reference: Split | None = None
    ood: Split | None = None
    num_samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.checks:
            if name not in CHECKS:
                raise LimbeckError(f"{name!r} is not a check; available: {suggest_names(name, CHECKS)}")
        if "shift" in self.checks and self.shifted is None:
            raise LimbeckError("the check shift needs images; give shifted")
        if self.num_samples is not None and self.num_samples < 2:
            raise LimbeckError(f"num_samples must be from 2, got {self.num_samples}")


@final
class LogitsModel(nn.Module):
    """A network with its normalization and task: maps pixels in 0..1, ``[n, channels, ...]``, to ``[n, classes]``."""

    def __init__(self, network: nn.Module, data: DataModule, task: Task) -> None:
        super().__init__()
        self.model, self.task = NormalizedModel(network, data.normalization, num_dims=len(data.input_shape)), task
        if (parameter := next(network.parameters(), None)) is not None:
            self.model.to(parameter.device)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.task.outputs(self.model, {"input": pixels}).require_logits()


def evaluate_robustness(
    network: nn.Module,
    data: DataModule,
    task: Task,
    split: Split,
    *,
    checks: Sequence[str] | None = None,
    config: RobustnessConfig = RobustnessConfig(),
) -> dict[str, Any]:
    """Every metric of ``config`` for one network.

    Args:
        network: takes inputs as ``data`` normalizes them.
        data: gives the normalization, the classes, and the validation split that a temperature is fitted on.
        task: what a batch means.
        split: what is measured on: the validation split, or the test set at its one opening.
        checks: out of :data:`CHECKS`, in place of ``config.checks``.
        config: what to measure, and how.

    Returns:
        ``num_samples``, ``clean_accuracy`` and one entry for each of ``config.checks``, as in ``evaluation.json``.

    Raises:
        LimbeckError: no sample of ``split`` has a label; or its inputs are not in 0..1, and attacks, corruptions,
            noise, or uniform noise as OOD data are configured.
    """
    config = config if checks is None else replace(config, checks=tuple(checks))
    metrics: dict[str, Any] = evaluate_side_by_side({"": network}, data, task, split, config=config)["models"][""]
    return metrics


def evaluate_side_by_side(
    networks: Mapping[str, nn.Module],
    data: DataModule,
    task: Task,
    split: Split,
    *,
    config: RobustnessConfig = RobustnessConfig(),
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """:func:`evaluate_robustness` of several networks on the same images, and the differences of ``pairs`` of them.

    Returns:
        ``models``, by name; and ``differences``, a list with ``model``, ``reference``, ``metric``, ``unit``
        (``points`` of accuracy, or ``1``), ``difference``, ``low``, ``high`` (95 %, over the samples) and
        ``num_samples``.
    """
    labeled = require_labeled(split)
    models = {name: LogitsModel(network, data, task) for name, network in networks.items()}
    run = _Evaluation(models, data, labeled, _select_samples(labeled, config), config, pairs)
    correct = run.predict_correct(run.subset)
    run.compare("clean_accuracy", correct)
    metrics: _Metrics = {
        name: {"num_samples": len(run.subset), "clean_accuracy": _accuracy(mask)} for name, mask in correct.items()
    }
    for check in (name for name in CHECKS if name in config.checks):
        for name, model_metrics in _CHECK_FUNCTIONS[check](run).items():
            metrics[name][check] = model_metrics
    return {"models": metrics, "differences": run.differences}


def _accuracy_difference(correct_a: Tensor, correct_b: Tensor) -> dict[str, Any]:
    difference, low, high = evaluation.paired_bootstrap(correct_a, correct_b)
    return {"difference": difference, "low": low, "high": high, "num_samples": len(correct_a)}


def _mean_difference(fractions_a: Tensor, fractions_b: Tensor) -> dict[str, Any]:
    return evaluation.paired_bootstrap_mean(100 * fractions_a, 100 * fractions_b)


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """Networks from pixels to logits, and the labeled samples of the split; ``subset`` are those that are changed."""

    networks: Mapping[str, nn.Module]
    data: DataModule
    split: Split
    subset: Split
    config: RobustnessConfig
    pairs: Sequence[tuple[str, str]]
    differences: list[dict[str, Any]] = field(default_factory=list)

    def predict_correct(self, split: Split) -> dict[str, Tensor]:
        """For each network, whether it is correct on each sample, ``[n]`` booleans."""
        return {name: _predict(network, split).argmax(dim=1) == split.target for name, network in self.networks.items()}

    def compare(
        self,
        metric: str,
        values: Mapping[str, Any],
        difference: Callable[[Any, Any], dict[str, Any]] = _accuracy_difference,
        *,
        unit: str = "points",
    ) -> None:
        """Add the differences of all pairs in ``metric``, from ``values`` by network."""
        for a, b in self.pairs:
            row = {"model": a, "reference": b, "metric": metric, "unit": unit}
            self.differences.append({**row, **difference(values[a], values[b])})


def _check_attacks(run: _Evaluation) -> _Metrics:
    config = run.config
    correct = {
        name: evaluation.adversarial_accuracy(
            network, run.subset, attacks=config.attacks, eps=config.eps, seed=config.seed
        )
        for name, network in run.networks.items()
    }
    attacks = (*config.attacks, "worst_case")
    settings = {"eps": config.eps, "num_samples": len(run.subset)}
    for attack in attacks:
        run.compare(attack, _pick(correct, attack))
    return {
        name: {**settings, **{attack: _accuracy(masks[attack]) for attack in attacks}}
        for name, masks in correct.items()
    }


def _check_corruptions(run: _Evaluation) -> _Metrics:
    correct = evaluation.corruption_accuracy(run.networks, run.subset, seed=run.config.seed)
    # For each sample, the fraction of the 75 corrupted versions with a correct prediction.
    fractions = {name: torch.cat(list(masks.values())).double().mean(dim=0) for name, masks in correct.items()}
    shape, note = run.data.input_shape, evaluation.CORRUPTION_NOTE
    if len(shape) == 3 and min(shape[1:]) < 32:
        note += f"; lengths are those for 32×32 pixels, and weigh more on {shape[1]}×{shape[2]}"
    run.compare("corruptions", fractions, _mean_difference)
    for corruption in evaluation.CORRUPTIONS:
        masks = _pick(correct, corruption)
        run.compare(corruption, {name: mask.double().mean(dim=0) for name, mask in masks.items()}, _mean_difference)
    return {
        name: {
            "mean": float(fractions[name].mean()),
            "num_samples": len(run.subset),
            "note": note,
            "by_corruption": {corruption: mask.double().mean(dim=1).tolist() for corruption, mask in masks.items()},
        }
        for name, masks in correct.items()
    }


def _check_noise(run: _Evaluation) -> _Metrics:
    correct = evaluation.noise_accuracy(run.networks, run.subset, seed=run.config.seed)
    for index, sigma in enumerate(evaluation.NOISE_SIGMAS):
        run.compare(f"noise {sigma:g}", _pick(correct, index))
    settings = {"sigmas": list(evaluation.NOISE_SIGMAS), "num_samples": len(run.subset)}
    return {name: {**settings, "accuracy": masks.double().mean(dim=1).tolist()} for name, masks in correct.items()}


def _check_shift(run: _Evaluation) -> _Metrics:
    shifted, reference = run.config.shifted, run.config.reference
    assert shifted is not None
    correct = run.predict_correct(shifted)
    run.compare("shift", correct)
    if reference is not None:
        return {
            name: {"is_paired": True, **evaluation.shift_accuracy(network, reference, shifted)}
            for name, network in run.networks.items()
        }
    clean = run.predict_correct(run.split)
    return {
        name: {
            "is_paired": False,
            "reference_accuracy": _accuracy(clean[name]),
            "shifted_accuracy": _accuracy(correct[name]),
            "flip_rate": None,
            **evaluation.unpaired_bootstrap(correct[name], clean[name]),
        }
        for name in run.networks
    }


def _check_ood(run: _Evaluation) -> _Metrics:
    config = run.config
    if config.ood is None:
        # Noise in 0..1 is out of distribution for images; for other inputs that is unknown.
        evaluation.require_pixels(run.subset.read(torch.arange(len(run.subset))))
        generator = torch.Generator().manual_seed(config.seed)
        noise = torch.rand(len(run.subset), *run.data.input_shape, generator=generator)
        split = Split.from_images(InMemory(noise), torch.full((len(noise),), UNLABELED))
    else:
        split = _select_samples(config.ood, config)
    logits = {name: (_predict(net, run.subset), _predict(net, split)) for name, net in run.networks.items()}
    for score, function in OOD_SCORES.items():
        scores = {name: (function(id_logits), function(ood_logits)) for name, (id_logits, ood_logits) in logits.items()}
        run.compare(f"auroc {score}", scores, evaluation.auroc_difference, unit="1")
    dataset = "uniform noise" if config.ood is None else "a folder"
    return {name: {"dataset": dataset, **evaluation.ood_metrics(*pair)} for name, pair in logits.items()}


def _check_calibration(run: _Evaluation) -> _Metrics:
    """Where the split overlaps the validation split, a temperature is fitted on one half and evaluated on the other."""
    split, fit_split = run.split, run.data.validation.select_labeled()
    overlaps = bool(torch.isin(split.sample_ids, fit_split.sample_ids).any())
    if overlaps:
        fit_half, test_half = evaluation.split_halves(len(split), seed=run.config.seed)
        fit_split, split = split.subset(fit_half), split.subset(test_half)
    metrics, logits = _Metrics(), dict[str, dict[str, Tensor]]()
    for name, network in run.networks.items():
        before = _predict(network, split).double()
        fit_logits = _predict(network, fit_split)
        metrics[name] = evaluation.temperature_scaling_metrics((fit_logits, fit_split.target), (before, split.target))
        metrics[name]["fit_split"] = "half of validation" if overlaps else "validation"
        logits[name] = {"before": before, "after": before / metrics[name]["temperature"]}
    for stage in ("before", "after"):
        scaled = _pick(logits, stage)
        rows = {name: _confidence_and_correct(values, split.target) for name, values in scaled.items()}
        run.compare(f"ece {stage}", rows, _ece_difference, unit="1")
        nll = {name: F.cross_entropy(values, split.target, reduction="none") for name, values in scaled.items()}
        run.compare(f"nll {stage}", nll, evaluation.paired_bootstrap_mean, unit="1")
    return metrics


def _confidence_and_correct(logits: Tensor, target: Tensor) -> Tensor:
    """Confidence of each row, and whether it was correct, ``[n, 2]`` float64."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return torch.stack([confidence, (predicted == target).double()], dim=1)


def _ece_difference(rows_a: Tensor, rows_b: Tensor) -> dict[str, Any]:
    return evaluation.paired_bootstrap_statistic(
        lambda rows: evaluation.calibration_error(rows[:, 0], rows[:, 1] > 0), rows_a, rows_b, n_resamples=1000
    )


def _predict(network: nn.Module, split: Split) -> Tensor:
    """The logits of ``network`` for all of ``split``, ``[n, classes]`` float32 on the CPU."""
    batches = torch.split(torch.arange(len(split)), 256)
    return torch.cat([evaluation.predict_logits(network, split.read(indices)) for indices in batches])


def _select_samples(split: Split, config: RobustnessConfig) -> Split:
    """At most ``config.num_samples`` samples of ``split``, chosen by seed, in their order."""
    if config.num_samples is None or len(split) <= config.num_samples:
        return split
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(config.seed))
    return split.subset(order[: config.num_samples].sort().values)


def _accuracy(correct: Tensor) -> float:
    return float(correct.double().mean())


def _pick(values: Mapping[str, Any], key: Any) -> dict[str, Any]:
    """The value of ``key`` for each network."""
    return {name: by_key[key] for name, by_key in values.items()}


_CHECK_FUNCTIONS: Mapping[str, Callable[[_Evaluation], _Metrics]] = {
    "attacks": _check_attacks,
    "corruptions": _check_corruptions,
    "noise": _check_noise,
    "shift": _check_shift,
    "ood": _check_ood,
    "calibration": _check_calibration,
}
