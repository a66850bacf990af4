"""Confusion matrices from the saved predictions of a run, for tasks with one class for each sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from limbeck.report.record import Record

if TYPE_CHECKING:
    from torch import Tensor

_MAX_CLASSES = 20
_MAX_CONFUSIONS = 12
_Counts = Counter[tuple[int, int]]
"""Number of samples by (target, prediction); a matrix of thousands of classes would not fit into memory."""


class Confusion(NamedTuple):
    """Samples of the class ``target`` with the prediction ``predicted``.

    Attributes:
        target: name of the class.
        predicted: name of another class.
        num_samples: number of samples of the class ``target``.
        counts: by model, how many of them have the prediction ``predicted``.
    """

    target: str
    predicted: str
    num_samples: int
    counts: Mapping[str, int]


class ConfusionMatrix(NamedTuple):
    """The predictions of the distilled student by class.

    Attributes:
        class_names: by index.
        counts: ``counts[i][j]`` samples of class i with the prediction j; empty for more than 20 classes.
        confusions: the 12 most frequent ones of the student.
        models: names of the models in ``confusions``, the student first.
        num_samples: number of labeled samples.
    """

    class_names: Sequence[str]
    counts: Sequence[Sequence[int]]
    confusions: Sequence[Confusion]
    models: Sequence[str]
    num_samples: int


def load_confusion(run_dir: Path, record: Record) -> ConfusionMatrix | None:
    """The confusion matrix of a run; ``None`` where its predictions were not saved or a sample has not one class.

    Raises:
        LimbeckError: the file cannot be read.
    """
    path, class_names = run_dir / "predictions.safetensors", record.data.classes
    if not path.exists() or not class_names:
        return None
    from limbeck.evaluation import load_predictions

    predictions = load_predictions(path)
    student = next(name for name, model in record.models.items() if model is record.distilled)
    if predictions.target is None or student not in predictions.predicted:
        return None
    models = [
        student,
        *(name for name, _ in record.ordered_models() if name in predictions.predicted and name != student),
    ]
    num_classes = len(class_names)
    counts = {name: _count(predictions.target, predictions.predicted[name], num_classes=num_classes) for name in models}
    shown = range(num_classes if num_classes <= _MAX_CLASSES else 0)
    return ConfusionMatrix(
        class_names, [[counts[student][i, j] for j in shown] for i in shown],
        _most_frequent(counts, student, class_names), models, counts[student].total(),
    )  # fmt: skip


def _count(target: Tensor, predicted: Tensor, *, num_classes: int) -> _Counts:
    """The pairs of ``[n]`` targets and predictions, without those of samples that have no label.

    >>> import torch
    >>> _count(torch.tensor([0, 0, 1, -100]), torch.tensor([0, 1, 1, 1]), num_classes=2)
    Counter({(0, 0): 1, (0, 1): 1, (1, 1): 1})
    """
    classes = range(num_classes)
    pairs = zip(target.tolist(), predicted.tolist(), strict=True)
    return Counter(pair for pair in pairs if pair[0] in classes and pair[1] in classes)


def _most_frequent(counts: Mapping[str, _Counts], student: str, class_names: Sequence[str]) -> list[Confusion]:
    num_samples = Counter[int]()
    for (target, _), count in counts[student].items():
        num_samples[target] += count
    errors = sorted((-count, pair) for pair, count in counts[student].items() if pair[0] != pair[1])
    return [
        Confusion(class_names[i], class_names[j], num_samples[i], {name: pairs[i, j] for name, pairs in counts.items()})
        for _, (i, j) in errors[:_MAX_CONFUSIONS]
    ]
