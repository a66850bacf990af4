"""Saved predictions: round trip and refused files."""

from __future__ import annotations

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import load_predictions, save_predictions


def test_predictions_round_trip(tmp_path):
    logits = {"baseline": torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), "big.one": torch.eye(2)[[1, 1, 0]]}
    target = torch.tensor([0, 0, -100])
    predictions = load_predictions(save_predictions(tmp_path / "a.safetensors", logits, target, fingerprint="abc"))
    assert predictions.target.tolist() == [0, 0, -100]
    assert predictions.predicted["baseline"].tolist() == [0, 1, 0]
    assert predictions.confidence["baseline"][0].item() == pytest.approx(0.880797, abs=1e-6)
    assert predictions.correct("baseline").tolist() == [True, False]
    assert predictions.correct("big.one").tolist() == [False, False]
    assert (predictions.split, predictions.fingerprint) == ("test", "abc")


def test_unreadable_predictions_raise(tmp_path):
    with pytest.raises(LimbeckError, match="holds no readable predictions"):
        load_predictions(tmp_path / "absent.safetensors")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(LimbeckError, match="holds no readable predictions"):
        load_predictions(tmp_path / "junk")


def test_mismatched_logits_raise(tmp_path):
    with pytest.raises(LimbeckError, match="3 class indices"):
        save_predictions(tmp_path / "a", {"baseline": torch.zeros(3, 2)}, torch.zeros(2).long())
    assert not (tmp_path / "a").exists()
