"""The sealed test part: opens once, remembers it on disk, and its pictures reach nothing before."""

from __future__ import annotations

import json

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.data import Part, Sealed, Views, arrays, flip
from limbeck.data.split import Stored


def part(many=6):
    return Part.whole(Stored(torch.rand(many, 1, 2, 2)), torch.arange(many) % 2)


class Untouchable:
    """Pictures that nobody may read."""

    def __init__(self, many):
        self.many = many

    def __len__(self):
        return self.many

    def read(self, places):
        raise AssertionError("the sealed pictures were read")

    def fingerprint(self):
        return "untouchable"


def test_it_opens_once():
    whole = part()
    sealed = Sealed(whole)
    assert sealed.reads == 0
    assert sealed.open("weights a") is whole
    assert sealed.reads == 1
    sealed.finish()
    with pytest.raises(LimbeckError, match=r"was read already, on 20\d\d-.* let it choose between models"):
        sealed.open("weights b")
    with pytest.raises(LimbeckError, match="was read already"):
        sealed.open("weights a")
    assert sealed.reads == 1


def test_the_ledger_is_written_before_the_pictures_are_handed_out(tmp_path, monkeypatch):
    ledger = tmp_path / "run" / "test.json"
    sealed = Sealed(part(), ledger)
    monkeypatch.setattr(
        "limbeck.data.held_out.write_atomically", lambda *_: (_ for _ in ()).throw(LimbeckError("full"))
    )
    with pytest.raises(LimbeckError, match="full"):
        sealed.open("weights")
    monkeypatch.undo()
    Sealed(part(), ledger).open("weights")
    written = json.loads(ledger.read_text())
    assert (written["reads"], written["by"], written["finished"]) == (1, "weights", False)
    assert written["opened"].endswith("+00:00")


def test_the_ledger_outlives_the_object(tmp_path):
    ledger = tmp_path / "test.json"
    first = Sealed(part(), ledger)
    first.open("weights")
    first.finish()
    second = Sealed(part(), ledger)
    assert second.reads == 1
    assert second.history() == first.history()
    with pytest.raises(LimbeckError, match="was read already"):
        second.open("weights")


def test_a_read_that_was_cut_off_opens_again_for_the_same_weights_only(tmp_path):
    ledger = tmp_path / "test.json"
    Sealed(part(), ledger).open("weights a")
    with pytest.raises(LimbeckError, match="was read already"):
        Sealed(part(), ledger).open("weights b")
    again = Sealed(part(), ledger)
    assert len(again.open("weights a")) == 6
    again.finish()
    with pytest.raises(LimbeckError, match="was read already"):
        Sealed(part(), ledger).open("weights a")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", "{}", '{"reads": 1}', '{"finished": false, "reads": 0}', "\x00\xff"]
)
def test_a_damaged_ledger_opens_nothing_and_says_so_in_one_sentence(tmp_path, text):
    ledger = tmp_path / "test.json"
    ledger.write_text(text)
    sealed = Sealed(Part(Untouchable(3), torch.arange(3), torch.zeros(3), torch.arange(3)), ledger)
    for ask in (lambda: sealed.open("weights"), lambda: sealed.reads, sealed.finish):
        with pytest.raises(LimbeckError, match=r"test\.json is damaged, so nobody knows whether") as raised:
            ask()
        assert "\n" not in str(raised.value)
    assert ledger.read_text() == text


def test_a_ledger_that_is_a_folder_is_damaged(tmp_path):
    (tmp_path / "test.json").mkdir()
    with pytest.raises(LimbeckError, match="is damaged"):
        Sealed(part(), tmp_path / "test.json").open("weights")


def test_nothing_is_finished_that_was_not_opened(tmp_path):
    sealed = Sealed(part(), tmp_path / "test.json")
    with pytest.raises(LimbeckError, match="was not opened"):
        sealed.finish()
    assert not (tmp_path / "test.json").exists()
    sealed.open("weights")


def test_asking_for_length_history_or_fingerprint_opens_nothing(tmp_path):
    ledger = tmp_path / "test.json"
    untouchable = Part(Untouchable(3), torch.arange(3), torch.zeros(3, dtype=torch.long), torch.arange(3))
    sealed = Sealed(untouchable, ledger)
    assert (len(sealed), sealed.reads, sealed.history()) == (3, 0, {})
    assert len(sealed.fingerprint()) == 64
    assert not ledger.exists()
    assert sealed.open("weights") is untouchable


def test_bound_remembers_in_the_file_it_is_bound_to(tmp_path):
    sealed = Sealed(part())
    bound = sealed.bound(tmp_path / "test.json")
    bound.open("weights")
    bound.finish()
    assert (bound.reads, sealed.reads) == (1, 0)
    with pytest.raises(LimbeckError, match="was read already"):
        sealed.bound(tmp_path / "test.json").open("weights")


def test_the_history_given_away_cannot_be_used_to_break_the_seal():
    sealed = Sealed(part())
    sealed.open("weights")
    sealed.finish()
    sealed.history().clear()
    with pytest.raises(LimbeckError, match="was read already"):
        sealed.open("weights")


def test_the_test_pictures_reach_nothing_but_the_one_who_opens():
    # Every sample is one grey of its own, so a picture is known wherever it turns up.
    inputs = (torch.arange(200) / 200).reshape(200, 1, 1, 1).expand(200, 1, 4, 4)
    data = arrays(inputs, torch.arange(200) % 5, views=Views((flip(),)), normalize="none", labels=50)
    seen = set()
    for pictures in ("all", "labelled"):
        stream = data.stream(batch=8, pictures=pictures)
        for step in range(4 * stream.steps_per_epoch):
            batch = stream.batch(step)
            seen |= {round(grey * 200) for grey in batch["input"][:, 0, 0, 0].tolist()}
            assert set(batch["index"].tolist()) <= set(data.train.number.tolist())
    seen |= {round(g * 200) for b in data.validation_batches(batch=7) for g in b["input"][:, 0, 0, 0].tolist()}
    assert seen == set(data.train.number.tolist()) | set(data.validation.number.tolist())
    test = data.sealed.open("weights")
    shut = {round(grey * 200) for grey in test.read(torch.arange(len(test)))[:, 0, 0, 0].tolist()}
    assert len(shut) == 40
    assert seen.isdisjoint(shut)


def test_the_normalisation_is_not_measured_on_the_test_part():
    bright = torch.zeros(100, 1, 2, 2)
    first = arrays(bright, torch.arange(100) % 2)
    bright[first.sealed.open("weights").number] = 1.0
    bright[first.validation.number] = 1.0
    assert arrays(bright, torch.arange(100) % 2).normalization.mean == (0.0,)
