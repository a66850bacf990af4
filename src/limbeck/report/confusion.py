"""Confusion matrices of a run: from its saved predictions, or from its record where a sample has several classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from limbeck.report.record import Record

if TYPE_CHECKING:
    from torch import Tensor

_MAX_CLASSES = 20
_MAX_CONFUSIONS = 12
_Counts = Counter[tuple[int, int]]
"""Number of samples or pixels by (target, prediction); a matrix of thousands of classes would not fit into memory."""


class Confusion(NamedTuple):
    """Samples (or pixels) of the class ``target`` with the prediction ``predicted``.

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
        unit: what is counted: ``samples``, or ``pixels`` of which a row is shown in percent.
    """

    class_names: Sequence[str]
    counts: Sequence[Sequence[int]]
    confusions: Sequence[Confusion]
    models: Sequence[str]
    num_samples: int
    unit: str = "samples"


def load_confusion(run_dir: Path, record: Record) -> ConfusionMatrix | None:
    """The confusion matrix of a run; ``None`` where neither its predictions nor its record have one.

    Raises:
        LimbeckError: the file of predictions cannot be read.
    """
    class_names = record.data.classes
    student = next(name for name, model in record.models.items() if model is record.distilled)
    counts, unit = _load_counts(run_dir / "predictions.safetensors", len(class_names)), "samples"
    if student not in counts:
        counts, unit = _recorded_counts(record, len(class_names)), "pixels"
    if student not in counts:
        return None
    models = [student, *(name for name, _ in record.ordered_models() if name in counts and name != student)]
    counts = {name: counts[name] for name in models}
    shown = range(len(class_names) if len(class_names) <= _MAX_CLASSES else 0)
    return ConfusionMatrix(
        class_names, [[counts[student][i, j] for j in shown] for i in shown],
        _most_frequent(counts, student, class_names), models, counts[student].total(), unit,
    )  # fmt: skip


def _load_counts(path: Path, num_classes: int) -> dict[str, _Counts]:
    """The pairs of each model by name, from saved predictions of one class for each sample."""
    if not path.exists() or not num_classes:
        return {}
    from limbeck.evaluation import load_predictions

    predictions = load_predictions(path)
    if predictions.target is None:
        return {}
    target = predictions.target
    return {name: _count(target, classes, num_classes=num_classes) for name, classes in predictions.predicted.items()}


def _recorded_counts(record: Record, num_classes: int) -> dict[str, _Counts]:
    """The pairs of each model by name, from the ``confusion_matrix`` of its metrics."""
    matrices: dict[str, Any] = {}
    for name, model in record.ordered_models():
        details = getattr(record.get_metrics(model), "details", {}).get("confusion_matrix")
        matrices[name] = details.get("counts") if isinstance(details, dict) else None
    return {
        name: Counter({(i, j): count for i, row in enumerate(matrix) for j, count in enumerate(row) if count})
        for name, matrix in matrices.items()
        if _is_matrix(matrix, num_classes)
    }


def _is_matrix(matrix: Any, num_classes: int) -> bool:
    """Whether this is a list of ``num_classes`` lists of as many int64 counts; a record may have been edited."""

    def is_row(row: Any) -> bool:
        return _is_list(row, num_classes) and all(type(count) is int and 0 <= count < 2**63 for count in row)

    return num_classes > 0 and _is_list(matrix, num_classes) and all(map(is_row, matrix))


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


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
