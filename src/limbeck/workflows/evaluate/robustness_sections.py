"""The sections of an evaluation: for all networks together, the metrics of each and the differences of pairs.

All networks get the very same images: attacked each for itself, corrupted and made noisy once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.data import DataModule, Split
from limbeck.evaluation import (
    CORRUPTION_NOTE,
    CORRUPTIONS,
    DEFAULT_EPS,
    NOISE_SIGMAS,
    adversarial_accuracy,
    auroc_difference,
    calibration_error,
    corruption_accuracy,
    noise_accuracy,
    ood_metrics,
    paired_bootstrap,
    paired_bootstrap_mean,
    paired_bootstrap_statistic,
    predict_logits,
    require_pixels,
    shift_accuracy,
    split_halves,
    temperature_scaling_metrics,
    unpaired_bootstrap,
)
from limbeck.evaluation.robustness.ood import OOD_SCORES
from limbeck.workflows.evaluate.image_folders import uniform_noise

__all__ = [
    "CHECKS",
    "CHECK_FUNCTIONS",
    "EvalTargets",
    "RobustnessConfig",
    "accuracy",
    "accuracy_differences",
    "predict_split",
    "select_samples",
]

CHECKS = ("attacks", "corruptions", "noise", "shift", "ood", "calibration")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessConfig:
    """What is to be measured, and how.

    Attributes:
        checks: out of :data:`CHECKS`.
        attacks: out of ``limbeck.evaluation.ATTACKS``.
        eps: the largest change of a pixel under attack, in 0..1.
        sigmas: of the noise, in units of the pixel.
        shifted: images of the same classes from another domain.
        reference: the same images as ``shifted`` before they were shifted; ``None``: compare with the split itself.
        ood: images of none of the classes; ``None``: uniform noise.
        num_samples: how many images of the split are attacked, corrupted and made noisy, chosen by seed; ``None``: all.
        seed: of all draws.
    """

    checks: tuple[str, ...] = ("attacks", "corruptions", "noise", "ood", "calibration")
    attacks: tuple[str, ...] = ("fgsm", "pgd")
    eps: float = DEFAULT_EPS
    sigmas: tuple[float, ...] = NOISE_SIGMAS
    shifted: Split | None = None
    reference: Split | None = None
    ood: Split | None = None
    num_samples: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.checks:
            if name not in CHECKS:
                raise LimbeckError(f"{name!r} is nothing to measure; there are: {suggest_names(name, CHECKS)}")
        if "shift" in self.checks and self.shifted is None:
            raise LimbeckError("a shift needs shifted images, and none were given")
        if self.num_samples is not None and self.num_samples < 2:
            raise LimbeckError(f"num_samples is how many images to measure on, from 2, not {self.num_samples}")


@final
@dataclass(frozen=True, slots=True)
class EvalTargets:
    """What is measured on.

    Attributes:
        networks: by name, taking pixels in 0..1 and giving logits.
        data: gives the validation split, the classes and the shape.
        split: the whole split.
        subset: the labeled samples of it that are attacked, corrupted and made noisy.
    """

    networks: Mapping[str, nn.Module]
    data: DataModule
    split: Split
    subset: Split


_ModelPairs = Sequence[tuple[str, str]]
_CheckResult = tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]


def predict_split(network: nn.Module, split: Split, *, batch_size: int = 256) -> Tensor:
    """The logits of ``network`` for all of ``split``, ``[n, classes]`` float32 on the CPU."""
    return torch.cat(
        [predict_logits(network, split.read(indices)) for indices in torch.split(torch.arange(len(split)), batch_size)]
    )


def select_samples(split: Split, config: RobustnessConfig) -> Split:
    """As many samples of ``split`` as are configured, chosen by seed, in their order."""
    if config.num_samples is None or len(split) <= config.num_samples:
        return split
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(config.seed))
    return split.subset(order[: config.num_samples].sort().values)


def accuracy_differences(metric: str, correct: Mapping[str, Tensor], pairs: _ModelPairs) -> list[dict[str, Any]]:
    """The differences of ``pairs`` in accuracy, of what is correct by name (``[n]`` booleans), in percentage points."""
    rows = []
    for a, b in pairs:
        difference, low, high = paired_bootstrap(correct[a], correct[b])
        difference_stats = {"difference": difference, "low": low, "high": high, "num_samples": len(correct[a])}
        rows.append(_difference_row(metric, "points", (a, b), difference_stats))
    return rows


def accuracy(correct: Tensor) -> float:
    """How many of ``correct`` (booleans) are true, as a fraction."""
    return float(correct.double().mean())


def _check_attacks(targets: EvalTargets, config: RobustnessConfig, pairs: _ModelPairs) -> _CheckResult:
    correct = {
        name: adversarial_accuracy(network, targets.subset, attacks=config.attacks, eps=config.eps, seed=config.seed)
        for name, network in targets.networks.items()
    }
    metrics = {
        name: {
            "eps": config.eps,
            "num_samples": len(targets.subset),
            **{attack: accuracy(masks[attack]) for attack in (*config.attacks, "worst_case")},
        }
        for name, masks in correct.items()
    }
    differences = [
        line
        for attack in (*config.attacks, "worst_case")
        for line in accuracy_differences(attack, {name: masks[attack] for name, masks in correct.items()}, pairs)
    ]
    return metrics, differences


def _check_corruptions(targets: EvalTargets, config: RobustnessConfig, pairs: _ModelPairs) -> _CheckResult:
    correct = corruption_accuracy(targets.networks, targets.subset, seed=config.seed)
    # For each sample the share of the 75 under which it is right: means over samples are means over corruptions too.
    per_sample = {
        name: torch.cat(list(by_corruption.values())).double().mean(dim=0) for name, by_corruption in correct.items()
    }
    metrics = {
        name: {
            "mean": float(per_sample[name].mean()), "num_samples": len(targets.subset),
            "note": _corruption_note(targets.data.input_shape),
            "by_corruption": {corruption: masks.double().mean(dim=1).tolist() for corruption,
            masks in by_corruption.items()},
        }
        for name, by_corruption in correct.items()
    }  # fmt: skip
    return metrics, _mean_differences("corruptions", per_sample, pairs) + [
        row
        for corruption in CORRUPTIONS
        for row in _mean_differences(
            corruption,
            {name: by_corruption[corruption].double().mean(dim=0) for name, by_corruption in correct.items()},
            pairs,
        )
    ]


def _check_noise(targets: EvalTargets, config: RobustnessConfig, pairs: _ModelPairs) -> _CheckResult:
    correct = noise_accuracy(targets.networks, targets.subset, sigmas=config.sigmas, seed=config.seed)
    metrics = {
        name: {
            "sigmas": list(config.sigmas),
            "accuracy": masks.double().mean(dim=1).tolist(),
            "num_samples": len(targets.subset),
        }
        for name, masks in correct.items()
    }
    return metrics, [
        row
        for sigma_index, sigma in enumerate(config.sigmas)
        for row in accuracy_differences(
            f"noise {sigma:g}", {name: masks[sigma_index] for name, masks in correct.items()}, pairs
        )
    ]


def _check_shift(targets: EvalTargets, config: RobustnessConfig, pairs: _ModelPairs) -> _CheckResult:
    assert config.shifted is not None
    shifted = config.shifted
    correct = {
        name: predict_split(network, shifted).argmax(dim=1) == shifted.target
        for name, network in targets.networks.items()
    }
    differences = accuracy_differences("shift", correct, pairs)
    if config.reference is not None:
        reference = config.reference
        return {
            name: {"is_paired": True, **shift_accuracy(network, reference, shifted)}
            for name, network in targets.networks.items()
        }, differences
    metrics = {}
    for name, network in targets.networks.items():
        clean_correct = (
            predict_split(network, targets.split.select_labeled()).argmax(dim=1)
            == targets.split.select_labeled().target
        )
        metrics[name] = {
            "is_paired": False, "reference_accuracy": accuracy(clean_correct),
            "shifted_accuracy": accuracy(correct[name]), "flip_rate": None,
            **unpaired_bootstrap(correct[name], clean_correct),
        }  # fmt: skip
    return metrics, differences


def _check_ood(targets: EvalTargets, config: RobustnessConfig, pairs: _ModelPairs) -> _CheckResult:
    if config.ood is None:
        # Noise in 0..1 is OOD for images; for other inputs that is unknown.
        require_pixels(targets.subset.read(torch.arange(len(targets.subset))))
    ood_split = (
        uniform_noise(len(targets.subset), targets.data, seed=config.seed)
        if config.ood is None
        else select_samples(config.ood, config)
    )
    logits = {
        name: (predict_split(network, targets.subset), predict_split(network, ood_split))
        for name, network in targets.networks.items()
    }
    ood_source = "uniform noise" if config.ood is None else "a folder"
    metrics = {name: {"dataset": ood_source, **ood_metrics(*logit_pair)} for name, logit_pair in logits.items()}
    differences = []
    for score, score_fn in OOD_SCORES.items():
        scores = {name: (score_fn(id_logits), score_fn(ood_logits)) for name, (id_logits, ood_logits) in logits.items()}
        differences += [
            _difference_row(f"auroc {score}", "1", pair, auroc_difference(scores[pair[0]], scores[pair[1]]))
            for pair in pairs
        ]
    return metrics, differences


def _check_calibration(targets: EvalTargets, config: RobustnessConfig, pairs: _ModelPairs) -> _CheckResult:
    """Samples of the validation split are split in halves; for others, the validation split is what is fitted on."""
    test_split, fit_split = targets.split.select_labeled(), targets.data.validation.select_labeled()
    overlaps = bool(torch.isin(test_split.sample_ids, fit_split.sample_ids).any())
    if overlaps:
        fit_half, test_half = split_halves(len(test_split), seed=config.seed)
        fit_split, test_split = test_split.subset(fit_half), test_split.subset(test_half)
    metrics, scaled_logits = dict[str, dict[str, Any]](), dict[str, dict[str, Tensor]]()
    for name, network in targets.networks.items():
        logits = predict_split(network, test_split).double()
        calibration = temperature_scaling_metrics(
            (predict_split(network, fit_split), fit_split.target), (logits, test_split.target)
        )
        metrics[name] = {**calibration, "fit_split": "half of validation" if overlaps else "validation"}
        scaled_logits[name] = {"before": logits, "after": logits / calibration["temperature"]}
    differences = []
    for stage in ("before", "after"):
        confidence_correct = {
            name: _confidence_and_correct(network_logits[stage], test_split.target)
            for name, network_logits in scaled_logits.items()
        }
        nll = {name: _nll(network_logits[stage], test_split.target) for name, network_logits in scaled_logits.items()}
        for a, b in pairs:
            differences.append(
                _difference_row(
                    f"ece {stage}",
                    "1",
                    (a, b),
                    paired_bootstrap_statistic(_ece, confidence_correct[a], confidence_correct[b], n_resamples=1000),
                )
            )
            differences.append(_difference_row(f"nll {stage}", "1", (a, b), paired_bootstrap_mean(nll[a], nll[b])))
    return metrics, differences


def _corruption_note(shape: Sequence[int]) -> str:
    if len(shape) == 3 and min(shape[1:]) < 32:
        return f"{CORRUPTION_NOTE}; lengths are those for 32×32 pixels, and weigh more on {shape[1]}×{shape[2]}"
    return CORRUPTION_NOTE


def _confidence_and_correct(logits: Tensor, target: Tensor) -> Tensor:
    """Confidence of each row, and whether it was correct, ``[n, 2]`` float64."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return torch.stack([confidence, (predicted == target).double()], dim=1)


def _ece(confidence_correct: Tensor) -> float:
    return calibration_error(confidence_correct[:, 0], confidence_correct[:, 1] > 0)


def _nll(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, target, reduction="none")


def _mean_differences(metric: str, per_sample: Mapping[str, Tensor], pairs: _ModelPairs) -> list[dict[str, Any]]:
    return [
        _difference_row(metric, "points", (a, b), paired_bootstrap_mean(100 * per_sample[a], 100 * per_sample[b]))
        for a, b in pairs
    ]


def _difference_row(
    metric: str, unit: str, pair: tuple[str, str], difference_stats: Mapping[str, Any]
) -> dict[str, Any]:
    return {"model": pair[0], "reference": pair[1], "metric": metric, "unit": unit, **difference_stats}


CHECK_FUNCTIONS: Mapping[str, Callable[[EvalTargets, RobustnessConfig, _ModelPairs], _CheckResult]] = {
    "attacks": _check_attacks, "corruptions": _check_corruptions, "noise": _check_noise, "shift": _check_shift,
    "ood": _check_ood,
    "calibration": _check_calibration,
}  # fmt: skip
