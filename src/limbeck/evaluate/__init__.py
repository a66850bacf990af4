"""How good, how like its teacher, how much better, and at what cost: the figures of a record."""

from limbeck.evaluate.agreement import agreement, disagreements
from limbeck.evaluate.difference import gap_recovered, over_seeds, paired_bootstrap
from limbeck.evaluate.efficiency import cost, flops, latency, parameters, weights_bytes
from limbeck.evaluate.machine import machine, versions
from limbeck.evaluate.quality import predictions, quality

__all__ = [
    "agreement", "cost", "disagreements", "flops", "gap_recovered", "latency", "machine", "over_seeds",
    "paired_bootstrap", "parameters", "predictions", "quality", "versions", "weights_bytes",
]  # fmt: skip
