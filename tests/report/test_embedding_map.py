"""The map of embeddings: one series for each class, lines between clips and texts, and nothing for a record without."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.evaluation.embedding_map import embedding_map
from limbeck.report.plots.embedding_map import plot_embedding_map
from limbeck.report.record_sections import SplitMetrics


def make_plot(**details):
    per_class = [{"class": name} for name in ("de", "fr")]
    metrics = SplitMetrics(details=details, per_class=per_class)
    return plot_embedding_map(metrics, title="Student", name="map0")


def test_clips_and_texts_are_on_the_components_of_both():
    rng = np.random.default_rng(0)
    clips, texts = rng.normal(size=(2, 6, 5))
    shown = embedding_map(torch.tensor(clips), torch.tensor([0, 1] * 3), partners=torch.tensor(texts))
    order = [0, 2, 4, 1, 3, 5]
    both = np.concatenate([clips[order], texts[order]])
    centered = both - both.mean(axis=0)
    values, vectors = np.linalg.eigh(centered.T @ centered)
    expected = centered @ vectors[:, ::-1][:, :2]
    points = np.array(shown["points"] + shown["partners"])
    scale = np.sqrt((expected**2).sum(axis=1).mean())
    np.testing.assert_allclose(np.abs(points), np.abs(expected) / scale, atol=1e-3)
    assert shown["explained"] == pytest.approx(values[-2:].sum() / values.sum(), abs=1e-4)
    assert shown["classes"] == [0] * 3 + [1] * 3
    plot = make_plot(embedding_map=shown)
    assert [entry.label for entry in plot.legend] == ["de", "fr"]
    assert "Small: texts" in plot.note
    assert "6 embeddings of 2 classes" in plot.alt_text


def test_a_map_of_one_side_has_no_lines():
    plot = make_plot(embedding_map={"points": [[0.0, 1.0], [1.0, 0]], "classes": [0, 5], "explained": 0.5})
    assert [entry.label for entry in plot.legend] == ["de", "5"]
    assert plot.note == "Two principal components, 50 % of the variance."


@pytest.mark.parametrize(
    "data",
    [
        None, [], {}, {"points": [[0, 1]], "classes": []}, {"points": [[0, "x"]], "classes": [0]},
        {"points": [[0, float("nan")]], "classes": [0]}, {"points": [[0, 1e300]], "classes": [0]},
        {"points": [[0, 1]], "classes": ["a"]}, {"points": 5, "classes": [0]}, {"points": [[0, 1]], "classes": 1},
        {"points": [[0, 1, 2]], "classes": [0]}, {"points": [[0, 1]], "partners": [[0, 1]] * 2, "classes": [0]},
    ],
)  # fmt: skip
def test_without_a_whole_map_there_is_no_plot(data):
    assert make_plot(embedding_map=data) is None
    assert plot_embedding_map(None, title="Student", name="map0") is None


def test_samples_that_are_not_finite_are_left_out():
    embedding = torch.tensor([[1.0, 0.0], [torch.nan, 0.0], [-1.0, 0.0], [0.0, torch.inf]])
    assert embedding_map(embedding, torch.zeros(4, dtype=torch.long))["points"] == [[1.0, 0.0], [-1.0, 0.0]]
    assert embedding_map(embedding[[1, 3]], torch.zeros(2, dtype=torch.long)) == {}
