"""How good, how like its teacher, how much better, and at what cost: the figures of a record."""

from limbeck.evaluation.agreement import agreement, disagreements
from limbeck.evaluation.calibration import calibrated, ece, fit_temperature, halves
from limbeck.evaluation.checks import require_pixels, said
from limbeck.evaluation.cka import cka_by_layer
from limbeck.evaluation.classification_metrics import calibration_error, predictions, quality
from limbeck.evaluation.cost import cost, flops, latency, parameters, weights_bytes
from limbeck.evaluation.diversity import (
    disagreement,
    double_fault,
    error_correlation,
    family,
    linear_cka,
    pairs,
    unbiased_cka,
)
from limbeck.evaluation.environment import environment, flags, source
from limbeck.evaluation.fidelity import fidelity, likeness, sights
from limbeck.evaluation.hardware import machine, versions
from limbeck.evaluation.interleaved_latency import latencies
from limbeck.evaluation.layer_similarity import Ear
from limbeck.evaluation.model_outputs import Heard, hear
from limbeck.evaluation.paired_bootstrap import gap_recovered, over_seeds, paired_bootstrap
from limbeck.evaluation.paired_tests import bootstrap_over_samples, mcnemar
from limbeck.evaluation.peak_memory import peak_memory
from limbeck.evaluation.resampling import mean_difference, paired_difference, unpaired_difference
from limbeck.evaluation.resources import Spending
from limbeck.evaluation.robustness.attacks import ATTACKS, EPS, apgd, attacked, fgsm, pgd
from limbeck.evaluation.robustness.corruptions import CORRUPTIONS, DEVIATIONS, corrupt, corrupted
from limbeck.evaluation.robustness.input_noise import SIGMAS, noised, noisy
from limbeck.evaluation.robustness.ood import auroc, auroc_difference, energy_score, max_softmax, outside
from limbeck.evaluation.robustness.shift import shift
from limbeck.evaluation.saved_predictions import Answers, load_answers, save_answers
from limbeck.evaluation.seed_statistics import (
    gap_recovered_over_seeds,
    holm,
    mean_over_seeds,
    paired_over_seeds,
    seeds_needed,
)

__all__ = [
    "ATTACKS",
    "CORRUPTIONS",
    "DEVIATIONS",
    "EPS",
    "SIGMAS",
    "Answers",
    "Ear",
    "Heard",
    "Spending",
    "agreement",
    "apgd",
    "attacked",
    "auroc",
    "auroc_difference",
    "bootstrap_over_samples",
    "calibrated",
    "calibration_error",
    "cka_by_layer",
    "corrupt",
    "corrupted",
    "cost",
    "disagreement",
    "disagreements",
    "double_fault",
    "ece",
    "energy_score",
    "environment",
    "error_correlation",
    "family",
    "fgsm",
    "fidelity",
    "fit_temperature",
    "flags",
    "flops",
    "gap_recovered",
    "gap_recovered_over_seeds",
    "halves",
    "hear",
    "holm",
    "latencies",
    "latency",
    "likeness",
    "linear_cka",
    "load_answers",
    "machine",
    "max_softmax",
    "mcnemar",
    "mean_difference",
    "mean_over_seeds",
    "noised",
    "noisy",
    "outside",
    "over_seeds",
    "paired_bootstrap",
    "paired_difference",
    "paired_over_seeds",
    "pairs",
    "parameters",
    "peak_memory",
    "pgd",
    "predictions",
    "quality",
    "require_pixels",
    "said",
    "save_answers",
    "seeds_needed",
    "shift",
    "sights",
    "source",
    "unbiased_cka",
    "unpaired_difference",
    "versions",
    "weights_bytes",
]  # fmt: skip
