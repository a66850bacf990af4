"""The held-out test split is opened once, logs it on disk, and no image of it is read before."""

from __future__ import annotations

import json

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.data import Augmentation, HeldOutTest, Split, from_tensors, horizontal_flip
from limbeck.data.split import InMemory


def part(many=6):
    return Split.from_images(InMemory(torch.rand(many, 1, 2, 2)), torch.arange(many) % 2)


class Untouchable:
    """Images whose read fails."""

    def __init__(self, many):
        self.many = many

    def __len__(self):
        return self.many

    def read(self, indices):
        raise AssertionError("the test images were read")

    def fingerprint(self):
        return "untouchable"


def test_it_opens_once():
    whole = part()
    held_out = HeldOutTest(whole)
    assert held_out.num_reads == 0
    assert held_out.unlock("weights a") is whole
    assert held_out.num_reads == 1
    held_out.close()
    with pytest.raises(LimbeckError, match=r"was already read, on 20\d\d-.* choosing between models"):
        held_out.unlock("weights b")
    with pytest.raises(LimbeckError, match="was already read"):
        held_out.unlock("weights a")
    assert held_out.num_reads == 1


def test_the_log_is_written_before_the_images_are_returned(tmp_path, monkeypatch):
    ledger = tmp_path / "run" / "test.json"
    held_out = HeldOutTest(part(), ledger)
    monkeypatch.setattr("limbeck.data.held_out.write_text", lambda *_: (_ for _ in ()).throw(LimbeckError("full")))
    with pytest.raises(LimbeckError, match="full"):
        held_out.unlock("weights")
    monkeypatch.undo()
    HeldOutTest(part(), ledger).unlock("weights")
    written = json.loads(ledger.read_text())
    assert (written["num_reads"], written["reason"], written["is_closed"]) == (1, "weights", False)
    assert written["opened_at"].endswith("+00:00")


def test_a_log_of_the_first_form_beside_it_counts(tmp_path):
    (tmp_path / "sealed.json").write_text(
        json.dumps({"reads": 1, "opened": "2026-01-01T00:00:00+00:00", "by": "weights a", "finished": False})
    )
    held_out = HeldOutTest(part(), tmp_path / "test_access.json")
    assert held_out.num_reads == 1
    with pytest.raises(LimbeckError, match="was already read, on 2026-01-01"):
        held_out.unlock("weights b")
    held_out.unlock("weights a")
    held_out.close()
    assert json.loads((tmp_path / "test_access.json").read_text())["is_closed"] is True
    with pytest.raises(LimbeckError, match="was already read"):
        HeldOutTest(part(), tmp_path / "test_access.json").unlock("weights a")


def test_the_ledger_outlives_the_object(tmp_path):
    ledger = tmp_path / "test.json"
    first = HeldOutTest(part(), ledger)
    first.unlock("weights")
    first.close()
    second = HeldOutTest(part(), ledger)
    assert second.num_reads == 1
    assert second.read_log() == first.read_log()
    with pytest.raises(LimbeckError, match="was already read"):
        second.unlock("weights")


def test_a_read_that_was_cut_off_opens_again_for_the_same_weights_only(tmp_path):
    ledger = tmp_path / "test.json"
    HeldOutTest(part(), ledger).unlock("weights a")
    with pytest.raises(LimbeckError, match="was already read"):
        HeldOutTest(part(), ledger).unlock("weights b")
    again = HeldOutTest(part(), ledger)
    assert len(again.unlock("weights a")) == 6
    again.close()
    with pytest.raises(LimbeckError, match="was already read"):
        HeldOutTest(part(), ledger).unlock("weights a")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "3",
        "{}",
        '{"num_reads": 1}',
        '{"is_closed": false, "num_reads": 0}',
        "\x00\xff",
        '{"is_closed": false, "num_reads": "x", "opened_at": "", "reason": ""}',
    ],
)
def test_a_damaged_ledger_opens_nothing_and_says_so_in_one_sentence(tmp_path, text):
    ledger = tmp_path / "test.json"
    ledger.write_text(text)
    held_out = HeldOutTest(Split(Untouchable(3), torch.arange(3), torch.zeros(3), torch.arange(3)), ledger)
    for call in (lambda: held_out.unlock("weights"), lambda: held_out.num_reads, held_out.close):
        with pytest.raises(LimbeckError, match=r"test\.json is damaged, so it is unknown whether") as raised:
            call()
        assert "\n" not in str(raised.value)
    assert ledger.read_text() == text


def test_a_ledger_that_is_a_folder_is_damaged(tmp_path):
    (tmp_path / "test.json").mkdir()
    with pytest.raises(LimbeckError, match="is damaged"):
        HeldOutTest(part(), tmp_path / "test.json").unlock("weights")


def test_nothing_is_finished_that_was_not_opened(tmp_path):
    held_out = HeldOutTest(part(), tmp_path / "test.json")
    with pytest.raises(LimbeckError, match="was not opened"):
        held_out.close()
    assert not (tmp_path / "test.json").exists()
    held_out.unlock("weights")


def test_asking_for_length_history_or_fingerprint_opens_nothing(tmp_path):
    ledger = tmp_path / "test.json"
    untouchable = Split(Untouchable(3), torch.arange(3), torch.zeros(3, dtype=torch.long), torch.arange(3))
    held_out = HeldOutTest(untouchable, ledger)
    assert (len(held_out), held_out.num_reads, held_out.read_log()) == (3, 0, {})
    assert len(held_out.fingerprint()) == 64
    assert not ledger.exists()
    assert held_out.unlock("weights") is untouchable


def test_bound_remembers_in_the_file_it_is_bound_to(tmp_path):
    held_out = HeldOutTest(part())
    bound = held_out.with_log(tmp_path / "test.json")
    bound.unlock("weights")
    bound.close()
    assert (bound.num_reads, held_out.num_reads) == (1, 0)
    with pytest.raises(LimbeckError, match="was already read"):
        held_out.with_log(tmp_path / "test.json").unlock("weights")


def test_the_history_given_away_cannot_be_used_to_break_the_seal():
    held_out = HeldOutTest(part())
    held_out.unlock("weights")
    held_out.close()
    held_out.read_log().clear()
    with pytest.raises(LimbeckError, match="was already read"):
        held_out.unlock("weights")


def test_test_images_reach_only_the_caller_of_unlock():
    # Every sample is one gray of its own, so an image is known wherever it turns up.
    inputs = (torch.arange(200) / 200).reshape(200, 1, 1, 1).expand(200, 1, 4, 4)
    data = from_tensors(
        inputs, torch.arange(200) % 5, augment=Augmentation((horizontal_flip(),)), normalize="none", num_labeled=50
    )
    seen = set()
    for subset in ("all", "labeled"):
        stream = data.batches(batch_size=8, subset=subset)
        for step in range(4 * stream.steps_per_epoch):
            batch = stream.batch(step)
            seen |= {round(grey * 200) for grey in batch["input"][:, 0, 0, 0].tolist()}
            assert set(batch["sample_id"].tolist()) <= set(data.train.sample_ids.tolist())
    seen |= {round(g * 200) for b in data.validation_batches(batch_size=7) for g in b["input"][:, 0, 0, 0].tolist()}
    assert seen == set(data.train.sample_ids.tolist()) | set(data.validation.sample_ids.tolist())
    test = data.test.unlock("weights")
    shut = {round(grey * 200) for grey in test.read(torch.arange(len(test)))[:, 0, 0, 0].tolist()}
    assert len(shut) == 40
    assert seen.isdisjoint(shut)


def test_the_normalisation_is_not_measured_on_the_test_part():
    bright = torch.zeros(100, 1, 2, 2)
    first = from_tensors(bright, torch.arange(100) % 2)
    bright[first.test.unlock("weights").sample_ids] = 1.0
    bright[first.validation.sample_ids] = 1.0
    assert from_tensors(bright, torch.arange(100) % 2).normalization.mean == (0.0,)
