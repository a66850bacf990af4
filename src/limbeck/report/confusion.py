"""Confusion matrices from the saved predictions of a run, for tasks with one class for each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from limbeck.report.record import Record

if TYPE_CHECKING:
    from torch import Tensor

_MAX_CLASSES = 20
_MAX_CONFUSIONS = 12


class Confusion(NamedTuple):
    """A class that is taken for another: the number of samples of the class, and by model how many of them."""

    target: str
    predicted: str
    num_samples: int
    counts: Mapping[str, int]


class ConfusionMatrix(NamedTuple):
    """The predictions of the distilled student by class.

    Attributes:
        class_names: by index.
        counts: ``counts[i][j]`` samples of class i with the prediction j; empty for more than 20 classes.
        confusions: the most frequent ones of the student, with those of the other models.
        models: their names in ``confusions``, the student first.
        num_samples: labeled samples.
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
    counts = {
        name: _count(predictions.target, predictions.predicted[name], num_classes=len(class_names)) for name in models
    }
    return ConfusionMatrix(
        class_names, counts[student].tolist() if len(class_names) <= _MAX_CLASSES else [],
        _most_frequent(counts, student, class_names), models, int(counts[student].sum()),
    )  # fmt: skip


def _count(target: Tensor, predicted: Tensor, *, num_classes: int) -> Tensor:
    """``[classes, classes]`` samples by class and prediction, without those that have no label.

    >>> import torch
    >>> _count(torch.tensor([0, 0, 1, -100]), torch.tensor([0, 1, 1, 1]), num_classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    is_valid = (target >= 0) & (target < num_classes) & (predicted >= 0) & (predicted < num_classes)
    index = target[is_valid].long() * num_classes + predicted[is_valid].long()
    return index.bincount(minlength=num_classes**2).reshape(num_classes, num_classes)


def _most_frequent(counts: Mapping[str, Tensor], student: str, class_names: Sequence[str]) -> list[Confusion]:
    errors = counts[student].clone().fill_diagonal_(0)
    num_classes, order = len(class_names), errors.flatten().argsort(descending=True, stable=True)
    confusions = []
    for index in order[:_MAX_CONFUSIONS].tolist():
        i, j = divmod(index, num_classes)
        if errors[i, j] > 0:
            by_model = {name: int(matrix[i, j]) for name, matrix in counts.items()}
            confusions.append(Confusion(class_names[i], class_names[j], int(counts[student][i].sum()), by_model))
    return confusions
