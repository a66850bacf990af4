"""How good, how like its teacher, how much better, and at what cost: the figures of a record."""

from limbeck.evaluate.agreement import agreement, disagreements
from limbeck.evaluate.answers import Answers, load_answers, save_answers
from limbeck.evaluate.cka import cka_by_layer
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
from limbeck.evaluate.origin import environment, flags, source
from limbeck.evaluate.paired import bootstrap_over_samples, mcnemar
from limbeck.evaluate.quality import predictions, quality
from limbeck.evaluate.seeds import (
    gap_recovered_over_seeds,
    holm,
    mean_over_seeds,
    paired_over_seeds,
    seeds_needed,
)
from limbeck.evaluate.spending import Spending
from limbeck.evaluate.turns import latencies

__all__ = [
    "Answers",
    "Ear",
    "Heard",
    "Spending",
    "agreement",
    "bootstrap_over_samples",
    "cka_by_layer",
    "cost",
    "disagreement",
    "disagreements",
    "double_fault",
    "environment",
    "error_correlation",
    "family",
    "fidelity",
    "flags",
    "flops",
    "gap_recovered",
    "gap_recovered_over_seeds",
    "hear",
    "holm",
    "latencies",
    "latency",
    "likeness",
    "linear_cka",
    "load_answers",
    "machine",
    "mcnemar",
    "mean_over_seeds",
    "over_seeds",
    "paired_bootstrap",
    "paired_over_seeds",
    "pairs",
    "parameters",
    "peak_memory",
    "predictions",
    "quality",
    "save_answers",
    "seeds_needed",
    "sights",
    "source",
    "unbiased_cka",
    "versions",
    "weights_bytes",
]  # fmt: skip
