"""Metrics of networks under attack, corruption, noise and shift, out-of-distribution detection, and calibration.

All networks are measured on the same samples, with intervals of the differences between them. Corruptions and noise
support any task on images by its primary metric, calibration any task of one class for each sample
(:mod:`limbeck.workflows.evaluate.check_support`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck import evaluation
from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.task import EvaluableTask
from limbeck.data import DataModule, Split
from limbeck.data.split import UNLABELED, InMemory
from limbeck.evaluation.checks import require_labeled
from limbeck.evaluation.robustness.ood import OOD_SCORES
from limbeck.workflows.evaluate.check_support import EVALUATION_CHECKS, require_supported, unsupported_checks
from limbeck.workflows.evaluate.compared_networks import ComparedNetworks

__all__ = ["RobustnessConfig", "evaluate_robustness", "evaluate_side_by_side"]

_Metrics: TypeAlias = dict[str, dict[str, Any]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessConfig:
    """What is measured, and how.

    Attributes:
        checks: out of :data:`EVALUATION_CHECKS`.
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
            if name not in EVALUATION_CHECKS:
                raise LimbeckError(f"{name!r} is not a check; available: {suggest_names(name, EVALUATION_CHECKS)}")
        if "shift" in self.checks and self.shifted is None:
            raise LimbeckError("the check shift needs images; give shifted")
        if self.num_samples is not None and self.num_samples < 2:
            raise LimbeckError(f"num_samples must be from 2, got {self.num_samples}")


class _Samples(NamedTuple):
    """The labeled samples of the split, and those of them whose images are changed."""

    split: Split
    subset: Split
    config: RobustnessConfig


def evaluate_robustness(
    network: nn.Module,
    data: DataModule,
    task: EvaluableTask,
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
        checks: out of :data:`EVALUATION_CHECKS`, in place of ``config.checks``.
        config: what to measure, and how.

    Returns:
        ``num_samples``, ``clean`` (the primary metric), ``clean_interval`` (95 %, over the samples), and one entry for
        each of ``config.checks``, as in ``evaluation.json``.

    Raises:
        LimbeckError: no sample of ``split`` has a label; a check does not support the task; or the inputs are not in
            0..1, and attacks, corruptions, noise, or uniform noise as OOD data are configured.
    """
    config = config if checks is None else replace(config, checks=tuple(checks))
    metrics: dict[str, Any] = evaluate_side_by_side({"": network}, data, task, split, config=config)["models"][""]
    return metrics


def evaluate_side_by_side(
    networks: Mapping[str, nn.Module],
    data: DataModule,
    task: EvaluableTask,
    split: Split,
    *,
    config: RobustnessConfig = RobustnessConfig(),
    pairs: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """:func:`evaluate_robustness` of several networks on the same images, and the differences of ``pairs`` of them.

    Returns:
        ``models``, by name; and ``differences``, a list with ``model``, ``reference``, ``metric``, ``unit``
        (``points`` of a metric in per cent, the unit of another, or ``1``), ``difference``, ``low``, ``high`` (95 %,
        over the samples) and ``num_samples``.
    """
    if config.checks:
        require_supported(config.checks, unsupported_checks(next(iter(networks.values())), data, task), task)
    labeled = require_labeled(split)
    run = ComparedNetworks(networks, task, data, pairs)
    samples = _Samples(labeled, _select_samples(labeled, config), config)
    clean = run.statistics(samples.subset)
    run.compare("clean", clean)
    metrics: _Metrics = {
        name: {
            "num_samples": len(samples.subset),
            "clean": run.value(statistics),
            "clean_interval": evaluation.metric_interval(task, statistics),
        }
        for name, statistics in clean.items()
    }
    for check in (name for name in EVALUATION_CHECKS if name in config.checks):
        for name, model_metrics in _CHECK_FUNCTIONS[check](run, samples).items():
            metrics[name][check] = model_metrics
    return {"models": metrics, "differences": run.differences}


def _check_attacks(run: ComparedNetworks, samples: _Samples) -> _Metrics:
    config = samples.config
    correct = {
        name: evaluation.adversarial_accuracy(
            network, samples.subset, attacks=config.attacks, eps=config.eps, seed=config.seed
        )
        for name, network in run.logits_models().items()
    }
    attacks = (*config.attacks, "worst_case")
    settings = {"eps": config.eps, "num_samples": len(samples.subset)}
    for attack in attacks:
        run.compare_values(attack, _pick(correct, attack))
    return {
        name: {**settings, **{attack: _accuracy(masks[attack]) for attack in attacks}}
        for name, masks in correct.items()
    }


def _check_corruptions(run: ComparedNetworks, samples: _Samples) -> _Metrics:
    statistics = evaluation.corruption_statistics(
        run.image_models(), samples.subset, run.task, seed=samples.config.seed
    )
    shape, note = run.data.input_shape, evaluation.CORRUPTION_NOTE
    if len(shape) == 3 and min(shape[1:]) < 32:
        note += f"; lengths are those for 32×32 pixels, and weigh more on {shape[1]}×{shape[2]}"
    joined = {name: torch.cat(list(rows.values())) for name, rows in statistics.items()}
    means = run.compare_means("corruptions", joined)
    for corruption in evaluation.CORRUPTIONS:
        run.compare_means(corruption, _pick(statistics, corruption))
    return {
        name: {
            "mean": means[name],
            "num_samples": len(samples.subset),
            "note": note,
            "by_corruption": {corruption: [run.value(s) for s in rows] for corruption, rows in by_name.items()},
        }
        for name, by_name in statistics.items()
    }


def _check_noise(run: ComparedNetworks, samples: _Samples) -> _Metrics:
    statistics = evaluation.noise_statistics(run.image_models(), samples.subset, run.task, seed=samples.config.seed)
    for index, sigma in enumerate(evaluation.NOISE_SIGMAS):
        run.compare(f"noise {sigma:g}", _pick(statistics, index))
    settings = {"sigmas": list(evaluation.NOISE_SIGMAS), "num_samples": len(samples.subset)}
    return {name: {**settings, "values": [run.value(s) for s in rows]} for name, rows in statistics.items()}


def _check_shift(run: ComparedNetworks, samples: _Samples) -> _Metrics:
    shifted, reference = samples.config.shifted, samples.config.reference
    assert shifted is not None
    correct = run.predict_correct(shifted)
    run.compare_values("shift", correct)
    if reference is not None:
        return {
            name: {"is_paired": True, **evaluation.shift_accuracy(network, reference, shifted)}
            for name, network in run.logits_models().items()
        }
    clean = run.predict_correct(samples.split)
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


def _check_ood(run: ComparedNetworks, samples: _Samples) -> _Metrics:
    config = samples.config
    if config.ood is None:
        # Noise in 0..1 is out of distribution for images; for other inputs that is unknown.
        evaluation.require_pixels(samples.subset.read(torch.arange(len(samples.subset))))
        generator = torch.Generator().manual_seed(config.seed)
        noise = torch.rand(len(samples.subset), *run.data.input_shape, generator=generator)
        split = Split.from_images(InMemory(noise), torch.full((len(noise),), UNLABELED))
    else:
        split = _select_samples(config.ood, config)
    id_logits, ood_logits = run.logits(samples.subset), run.logits(split)
    logits = {name: (id_logits[name], ood_logits[name]) for name in run.networks}
    for score, function in OOD_SCORES.items():
        scores = {name: (function(inside), function(outside)) for name, (inside, outside) in logits.items()}
        run.compare_values(f"auroc {score}", scores, evaluation.auroc_difference, unit="1")
    dataset = "uniform noise" if config.ood is None else "a folder"
    return {name: {"dataset": dataset, **evaluation.ood_metrics(*pair)} for name, pair in logits.items()}


def _check_calibration(run: ComparedNetworks, samples: _Samples) -> _Metrics:
    """Where the split overlaps the validation split, a temperature is fitted on one half and evaluated on the other."""
    split, fit_split = samples.split, run.data.validation.select_labeled()
    overlaps = bool(torch.isin(split.sample_ids, fit_split.sample_ids).any())
    if overlaps:
        fit_half, test_half = evaluation.split_halves(len(split), seed=samples.config.seed)
        fit_split, split = split.subset(fit_half), split.subset(test_half)
    metrics, logits = _Metrics(), dict[str, dict[str, Tensor]]()
    eval_logits, fit_logits = run.logits(split), run.logits(fit_split)
    for name in run.networks:
        before = eval_logits[name].double()
        fitted = fit_logits[name], fit_split.target
        metrics[name] = evaluation.temperature_scaling_metrics(fitted, (before, split.target))
        metrics[name]["fit_split"] = "half of validation" if overlaps else "validation"
        logits[name] = {"before": before, "after": before / metrics[name]["temperature"]}
    for stage in ("before", "after"):
        scaled = _pick(logits, stage)
        rows = {name: _confidence_and_correct(values, split.target) for name, values in scaled.items()}
        run.compare_values(f"ece {stage}", rows, _ece_difference, unit="1")
        nll = {name: F.cross_entropy(values, split.target, reduction="none") for name, values in scaled.items()}
        run.compare_values(f"nll {stage}", nll, evaluation.paired_bootstrap_mean, unit="1")
    return metrics


def _confidence_and_correct(logits: Tensor, target: Tensor) -> Tensor:
    """Confidence of each row, and whether it was correct, ``[n, 2]`` float64."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return torch.stack([confidence, (predicted == target).double()], dim=1)


def _ece_difference(rows_a: Tensor, rows_b: Tensor) -> dict[str, Any]:
    return evaluation.paired_bootstrap_statistic(
        lambda rows: evaluation.calibration_error(rows[:, 0], rows[:, 1] > 0), rows_a, rows_b, n_resamples=1000
    )


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


_CHECK_FUNCTIONS: Mapping[str, Callable[[ComparedNetworks, _Samples], _Metrics]] = {
    "attacks": _check_attacks,
    "corruptions": _check_corruptions,
    "noise": _check_noise,
    "shift": _check_shift,
    "ood": _check_ood,
    "calibration": _check_calibration,
}
