"""Answers kept beside a record: read as they were written, and anything else refused in a sentence."""

from __future__ import annotations

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import load_predictions, save_predictions


def test_answers_come_back_as_they_were_written(tmp_path):
    logits = {"alone": torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), "big.one": torch.eye(2)[[1, 1, 0]]}
    target = torch.tensor([0, 0, -100])
    found = load_predictions(save_predictions(tmp_path / "a.safetensors", logits, target, fingerprint="abc"))
    assert found.target.tolist() == [0, 0, -100]
    assert found.predicted["alone"].tolist() == [0, 1, 0]
    assert found.confidence["alone"][0].item() == pytest.approx(0.880797, abs=1e-6)
    assert found.correct("alone").tolist() == [True, False]
    assert found.correct("big.one").tolist() == [False, False]
    assert (found.split, found.fingerprint) == ("test", "abc")


def test_what_is_no_file_of_answers_is_refused(tmp_path):
    with pytest.raises(LimbeckError, match="holds no readable predictions"):
        load_predictions(tmp_path / "absent.safetensors")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(LimbeckError, match="holds no readable predictions"):
        load_predictions(tmp_path / "junk")


def test_logits_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(LimbeckError, match="3 class indices"):
        save_predictions(tmp_path / "a", {"alone": torch.zeros(3, 2)}, torch.zeros(2).long())
    assert not (tmp_path / "a").exists()
