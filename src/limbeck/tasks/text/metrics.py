"""The metrics of a text classifier: macro F1 from counts by class, accuracy, likelihood and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, final

import torch
from torch import Tensor

from limbeck.core.metric_spec import MetricSpec
from limbeck.evaluation.class_metrics import (
    ECE,
    MACRO_F1,
    NLL,
    class_counts,
    classification_metrics,
    f1_by_class,
)

METRICS: Final = (MACRO_F1, MetricSpec(name="accuracy", label="Accuracy", phrase="accuracy"), NLL, ECE)


def macro_f1(sums: Tensor) -> Tensor:
    """Mean F1 over the classes in the target or the predictions, as in scikit-learn, ``[...]``.

    >>> macro_f1(torch.tensor([2.0, 0.0, 0.0, 3.0, 1.0, 0.0, 2.0, 2.0, 0.0]))  # F1 of 0.8 and 0; the last has no sample
    tensor(0.4000)
    """
    return f1_by_class(sums).nanmean(dim=-1)


@final
class TextMetrics:
    """:func:`limbeck.evaluation.classification_metrics` over batches, with the F1 of each class.

    Args:
        classes: number of classes.
    """

    def __init__(self, classes: int) -> None:
        self._classes, self._logits, self._targets = classes, list[Tensor](), list[Tensor]()

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add ``logits`` ``[batch, classes]`` and class indices ``[batch]``; −100 is no label."""
        self._logits.append(logits.detach().float().cpu())
        self._targets.append(target.detach().cpu().long())

    def compute(self) -> Mapping[str, Any]:
        """The metrics by name; ``per_class`` is the F1 of each class, ``class_num_samples`` its number of samples."""
        logits, target = torch.cat(self._logits), torch.cat(self._targets)
        names = [str(index) for index in range(self._classes)]
        values = classification_metrics(logits, target, class_names=names)
        counts = class_counts(logits.argmax(dim=1), target, classes=self._classes)
        return {
            **values,
            "per_class": f1_by_class(counts.nansum(dim=0)).tolist(),
            "class_num_samples": [entry["num_samples"] for entry in values["per_class"]],
        }
