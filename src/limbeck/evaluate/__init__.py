"""How good, how like its teacher, how much better, and at what cost: the figures of a record."""

from limbeck.evaluate.agreement import agreement, disagreements
from limbeck.evaluate.answers import Answers, load_answers, save_answers
from limbeck.evaluate.attacks import ATTACKS, EPS, apgd, attacked, fgsm, pgd
from limbeck.evaluate.cka import cka_by_layer
from limbeck.evaluate.corruptions import CORRUPTIONS, DEVIATIONS, corrupt, corrupted
from limbeck.evaluate.difference import gap_recovered, over_seeds, paired_bootstrap
from limbeck.evaluate.diversity import (
    disagreement,
    double_fault,
    error_correlation,
    family,
    linear_cka,
    pairs,
    unbiased_cka,
)
from limbeck.evaluate.efficiency import cost, flops, latency, parameters, weights_bytes
from limbeck.evaluate.fidelity import fidelity, likeness, sights
from limbeck.evaluate.hearing import Heard, hear
from limbeck.evaluate.layers import Ear
from limbeck.evaluate.machine import machine, versions
from limbeck.evaluate.memory import peak_memory
from limbeck.evaluate.noise import SIGMAS, noised, noisy
from limbeck.evaluate.origin import environment, flags, source
from limbeck.evaluate.outside import auroc, auroc_difference, energy_score, max_softmax, outside
from limbeck.evaluate.paired import bootstrap_over_samples, mcnemar
from limbeck.evaluate.quality import calibration_error, predictions, quality
from limbeck.evaluate.resampled import mean_difference, paired_difference, unpaired_difference
from limbeck.evaluate.rows import require_pixels, said
from limbeck.evaluate.seeds import gap_recovered_over_seeds, holm, mean_over_seeds, paired_over_seeds, seeds_needed
from limbeck.evaluate.shift import shift
from limbeck.evaluate.spending import Spending
from limbeck.evaluate.temperature import calibrated, ece, fit_temperature, halves
from limbeck.evaluate.turns import latencies

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
