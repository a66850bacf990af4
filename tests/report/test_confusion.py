"""Confusion matrices are counted from the saved predictions of a run."""

from __future__ import annotations

import pytest
import torch

from limbeck.evaluation.evaluate import SplitScores
from limbeck.evaluation.saved_predictions import save_predictions
from limbeck.report import write_report
from limbeck.report.confusion import load_confusion
from limbeck.report.record_io import parse_record

TARGET = torch.tensor([0, 0, 0, 1, 1, 2, -100])


def scores(predicted, num_classes):
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), num_classes).float()
    return SplitScores(
        statistics=torch.zeros(len(TARGET), 1).double(), sample_ids=torch.arange(len(TARGET)), metrics={},
        num_samples=6, per_class=[], details={}, logits=logits, target=TARGET,
    )  # fmt: skip


@pytest.fixture
def load(record, tmp_path):
    """The confusion matrix of a run with so many classes."""

    def loaded(num_classes):
        record["data"]["classes"] = [f"c{i}" for i in range(num_classes)]
        models = {"distilled": [0, 1, 1, 1, 2, 0, 0], "baseline": [1, 1, 1, 1, 1, 1, 1]}
        save_predictions(
            tmp_path / "predictions.safetensors",
            {name: scores(predicted, num_classes) for name, predicted in models.items()}, primary_metric="accuracy",
        )  # fmt: skip
        return load_confusion(tmp_path, parse_record(record))

    return loaded


def test_the_matrix_counts_labeled_samples_by_class_and_prediction(load):
    confusion = load(3)
    assert confusion.counts == [[1, 2, 0], [0, 1, 1], [1, 0, 0]]
    assert (confusion.num_samples, confusion.models) == (6, ["distilled", "baseline"])


@pytest.mark.parametrize("num_classes", [3, 50_000])
def test_the_most_frequent_confusions_come_first_with_those_of_other_models(load, num_classes):
    # 50,000 classes have 2.5 billion pairs.
    confusion = load(num_classes)
    assert [tuple(row) for row in confusion.confusions] == [
        ("c0", "c1", 3, {"distilled": 2, "baseline": 3}),
        ("c1", "c2", 2, {"distilled": 1, "baseline": 0}),
        ("c2", "c0", 1, {"distilled": 1, "baseline": 0}),
    ]
    assert bool(confusion.counts) == (num_classes == 3)


def test_a_run_without_saved_predictions_has_none(record, tmp_path):
    assert load_confusion(tmp_path, parse_record(record)) is None


def test_the_page_shows_equal_columns_and_says_what_the_colors_mean(load, record, write):
    load(3)
    page = write_report(write(record)).read_text(encoding="utf-8")
    assert '<table class="confusion" style="--name-length: 2ch">' in page
    text = " ".join(page.split())
    assert (
        "a row for each class, a column for each predicted class. Correct predictions are blue, confusions red" in text
    )
    assert '<th scope="col">Predicted as</th>' in page


def record_of_pixels(record, counts):
    """The record with a confusion matrix of each network, that of the distilled student last."""
    record["data"]["classes"] = ["sky", "road"]
    for name, model in record["models"].items():
        matrix = counts if name == "distilled" else [[700, 300], [0, 10]]
        model["test"]["details"] = {"confusion_matrix": {"unit": "pixels", "counts": matrix}}
    return record


def test_a_matrix_of_the_record_is_shown_in_percent_of_the_pixels_of_a_class(record, write):
    folder = write(record_of_pixels(record, [[990, 10], [4, 6]]))
    confusion = load_confusion(folder, parse_record(record))
    assert (confusion.counts, confusion.num_samples, confusion.unit) == ([[990, 10], [4, 6]], 1010, "pixels")
    assert confusion.confusions[0] == ("sky", "road", 1000, {"distilled": 10, "teacher": 300, "baseline": 300})
    page = " ".join(write_report(folder).read_text(encoding="utf-8").split())
    assert 'title="sky predicted as road: 10 of 1,000 (1.0 %)">1.0</td>' in page
    assert "<td>1,000</td>" in page
    assert 'title="road predicted as road: 6 of 10 (60.0 %)">60.0</td>' in page
    assert "n = 1,010 pixels, in percent of the pixels of the class: a row for each class" in page
    assert "Number of pixels of the class with that prediction" in page


@pytest.mark.parametrize(
    "counts",
    [
        None,
        3,
        [[1, 2]],
        [[1, 2], [3]],
        [[1, 2], [3, -1]],
        [[1, 2], [3, "x"]],
        [[1, 2], [3, 2**63]],
        [[1, 2], [3, 10**400]],
    ],
)
def test_an_edited_matrix_is_not_shown(record, counts, tmp_path):
    assert load_confusion(tmp_path, parse_record(record_of_pixels(record, counts))) is None
