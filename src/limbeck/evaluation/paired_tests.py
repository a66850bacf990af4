"""Two networks on the same test samples: McNemar's exact test, and the gain's interval over samples of several seeds.

Both say what another draw of test samples would change, and not what another training would: that is
:mod:`limbeck.evaluation.seed_statistics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError

__all__ = ["mcnemar_test", "paired_bootstrap_over_seeds"]


def mcnemar_test(correct_a: Tensor, correct_b: Tensor) -> dict[str, Any]:
    """Whether two networks are right equally often, by the samples on which only one of them is right.

    McNemar (1947, https://doi.org/10.1007/BF02295996), exact: where both are equally good, a sample that only one gets
    right falls to either like a coin, so ``p_value`` is the two-sided binomial one; 1 where there is no such sample. For two
    networks that are trained already it is the test to take (Dietterich, 1998,
    https://doi.org/10.1162/089976698300017197).

    Args:
        correct_a: ``[n]`` booleans, whether ours is right on each sample.
        correct_b: ``[n]`` booleans of the other for the same samples in the same order.

    Returns:
        ``only_variant_correct`` and ``only_baseline_correct``, the samples that only one gets right (``correct_a`` is the
        variant), and ``p_value``.

    Raises:
        LimbeckError: no sample, different lengths, or values that are not booleans.

    >>> mcnemar_test(torch.tensor([True] * 7 + [False]), torch.tensor([True] + [False] * 6 + [True]))
    {'only_variant_correct': 6, 'only_baseline_correct': 1, 'p_value': 0.125}
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped,unused-ignore]

    checked_a, checked_b = _check_correctness(correct_a, correct_b)
    only_a, only_b = int((checked_a & ~checked_b).sum()), int((checked_b & ~checked_a).sum())
    num_discordant = only_a + only_b
    p = float(binomtest(only_a, num_discordant, 0.5).pvalue) if num_discordant else 1.0
    return {"only_variant_correct": only_a, "only_baseline_correct": only_b, "p_value": p}


def paired_bootstrap_over_seeds(
    pairs: Sequence[tuple[Tensor, Tensor]], *, shared_samples: bool, n_resamples: int = 2_000, seed: int = 0
) -> dict[str, float]:
    """How many points more of the samples ours gets right, mean over seeds, with the 95 % interval over the samples.

    Efron's bootstrap (1979, https://doi.org/10.1214/aos/1176344552), with percentile intervals. Where all seeds
    answered the same samples, a hard sample is hard for all of them, and
    drawing samples for each seed apart would give an interval that is too narrow.

    Args:
        pairs: for each seed, whether ours and theirs are right, both ``[n]`` booleans in the same order.
        shared_samples: the seeds answered the same samples in the same order, which are drawn once for all; otherwise each
            seed's samples are drawn apart.
        n_resamples: how many times the samples are drawn again.
        seed: of the draws.

    Returns:
        ``mean``, ``low`` and ``high`` in percentage points.

    Raises:
        LimbeckError: no seed or no sample, lengths that do not fit, or values that are not booleans.

    >>> ours, theirs = torch.tensor([True] * 90 + [False] * 10), torch.tensor([True] * 80 + [False] * 20)
    >>> paired_bootstrap_over_seeds([(ours, theirs)] * 3, shared_samples=True)
    {'mean': 10.0, 'low': 4.0, 'high': 16.0}
    """
    import numpy as np

    if n_resamples < 1:
        raise LimbeckError(f"n_resamples is at least 1, not {n_resamples}")
    gains = [_correctness_difference(correct_a, correct_b) for correct_a, correct_b in pairs]
    if not gains:
        raise LimbeckError("a bootstrap over samples takes the answers of at least one seed, not none")
    lengths = {len(gain) for gain in gains}
    if shared_samples and len(lengths) > 1:
        raise LimbeckError(f"seeds that share their samples have equally many, not {sorted(lengths)}")
    groups = [torch.stack(gains).sum(dim=0)] if shared_samples else gains
    rng = np.random.default_rng(seed)
    resampled_means = sum(_resample_means(group, n_resamples, rng) for group in groups) * (100 / len(gains))
    low, high = np.quantile(resampled_means, [0.025, 0.975])
    mean = sum(100 * int(gain.sum()) / len(gain) for gain in gains) / len(gains)
    return {"mean": mean, "low": float(low), "high": float(high)}


def _resample_means(values: Tensor, n_resamples: int, rng: Any) -> Any:
    """``[resamples]`` means of drawing whole numbers again.

    A draw is known by how often it took each value, and of s seeds a sample's value is one of 2 s + 1: the same
    distribution as drawing all samples, in memory that does not grow with them.
    """
    import numpy as np

    unique_values, counts = np.unique(values.numpy(), return_counts=True)
    return rng.multinomial(len(values), counts / len(values), size=n_resamples) @ unique_values / len(values)


def _correctness_difference(correct_a: Tensor, correct_b: Tensor) -> Tensor:
    """``[n]``: 1 where only ours is right, −1 where only theirs is, else 0."""
    correct_a, correct_b = _check_correctness(correct_a, correct_b)
    return correct_a.int() - correct_b.int()


def _check_correctness(correct_a: Tensor, correct_b: Tensor) -> tuple[Tensor, Tensor]:
    if correct_a.dtype != torch.bool or correct_b.dtype != torch.bool:
        raise LimbeckError(f"right and wrong are booleans, not {correct_a.dtype} and {correct_b.dtype}")
    if correct_a.ndim != 1 or correct_a.shape != correct_b.shape or not len(correct_a):
        raise LimbeckError(
            "both networks answer the same samples, at least one, so there are as many answers of each, "
            f"not {list(correct_a.shape)} and {list(correct_b.shape)}"
        )
    return correct_a.detach().cpu(), correct_b.detach().cpu()
