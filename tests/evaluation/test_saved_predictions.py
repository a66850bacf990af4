"""Saved predictions: round trip and refused files."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import evaluate_network, load_predictions, save_predictions
from limbeck.tasks import Classification

TASK = Classification(2)


def test_predictions_round_trip(tmp_path):
    logits = {"baseline": torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), "big.one": torch.eye(2)[[1, 1, 0]]}
    target = torch.tensor([0, 0, -100])
    scores = {name: evaluate_network(nn.Identity(), [(rows, target)], TASK) for name, rows in logits.items()}
    path = save_predictions(tmp_path / "a.safetensors", scores, primary_metric="accuracy", fingerprint="abc")
    predictions = load_predictions(path)
    assert predictions.target.tolist() == [0, 0, -100]
    assert predictions.predicted["baseline"].tolist() == [0, 1, 0]
    assert predictions.confidence["baseline"][0].item() == pytest.approx(0.880797, abs=1e-6)
    for name, correct in (("baseline", [1.0, 0.0]), ("big.one", [0.0, 0.0])):
        assert predictions.statistics[name][:2, 0].tolist() == correct
        assert predictions.statistics[name][2].isnan().all()
    assert (predictions.sample_ids.tolist(), predictions.primary_metric) == ([0, 1, 2], "accuracy")
    assert (predictions.split, predictions.fingerprint) == ("test", "abc")


def test_unreadable_predictions_raise(tmp_path):
    with pytest.raises(LimbeckError, match="holds no readable predictions"):
        load_predictions(tmp_path / "absent.safetensors")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(LimbeckError, match="holds no readable predictions"):
        load_predictions(tmp_path / "junk")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("a.predicted", torch.zeros(2, dtype=torch.long), r"a.predicted of .* must be \[3\] int64, got int64 \[2\]"),
        ("a.predicted", torch.zeros(3), r"a.predicted of .* must be \[3\] int64, got float32 \[3\]"),
        ("a.predicted", torch.tensor(1), r"a.predicted of .* got int64 \[\]"),
        ("a.confidence", torch.zeros(3, 2), r"a.confidence of .* must be \[3\] floats, got float32 \[3, 2\]"),
        ("a.statistics", torch.zeros(3), r"a.statistics of .* must be \[3, k\] floats, got float32 \[3\]"),
        ("sample_id", torch.zeros(2, dtype=torch.long), r"sample_id of .* must be \[3\] int64, got int64 \[2\]"),
    ],
)
def test_tensors_of_another_shape_are_refused(tmp_path, version, name, tensor, message):
    tensors = {
        "a.statistics": torch.zeros(3, 1), "a.predicted": torch.zeros(3, dtype=torch.long),
        "b.statistics": torch.zeros(3, 1), "sample_id": torch.arange(3), "target": torch.zeros(3, dtype=torch.long),
    }  # fmt: skip
    metadata = {"format": f"limbeck predictions {version}"}
    save_file(tensors, tmp_path / "a", metadata=metadata)
    load_predictions(tmp_path / "a")
    save_file({**tensors, name: tensor}, tmp_path / "a", metadata=metadata)
    with pytest.raises(LimbeckError, match=message):
        load_predictions(tmp_path / "a")


def test_a_file_of_version_2_has_statistics_of_correct_predictions(tmp_path):
    tensors = {
        "target": torch.tensor([0, 1, -100]), "baseline.predicted": torch.tensor([0, 0, 0]),
        "baseline.confidence": torch.ones(3),
    }  # fmt: skip
    save_file(tensors, tmp_path / "a", metadata={"format": "limbeck predictions 2", "split": "test"})
    statistics = load_predictions(tmp_path / "a").statistics["baseline"]
    assert statistics[:2].tolist() == [[1.0], [0.0]]
    assert statistics[2].isnan().all()
