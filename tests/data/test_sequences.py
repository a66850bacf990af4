"""Sequences are padded by batch, split like images, and transformed only by what knows sequences."""

from __future__ import annotations

import pytest
import torch

from limbeck import LimbeckError
from limbeck.data import Augmentation, horizontal_flip, iterate_batches
from limbeck.data.module import make_splits
from limbeck.data.normalization import FrameNormalization
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.split import UNLABELED, InMemory, Split

FRAMES = [torch.arange(float(n))[:, None].expand(n, 2) for n in (3, 5, 2, 4)]
TOKENS = [torch.tensor(tokens) for tokens in ([1, 2], [3], [2, 2, 1], [1])]
STORE = SequenceStore({"input": FRAMES, "target": TOKENS})


def make_data(**options):
    split = Split.from_sequences(STORE, torch.tensor([0, 1, 0, 1]))
    return make_splits("toy", ["-", "a", "b", "c"], split, seed=0, validation=0.25, test=0.25, **options)


def test_a_batch_is_padded_to_its_longest_sample():
    batch = STORE.read_fields(torch.tensor([0, 2]))
    assert batch["input"].shape == (2, 3, 2)
    assert batch["input_length"].tolist() == [3, 2]
    assert batch["input"][1, 2].tolist() == [0.0, 0.0]
    assert batch["target"].tolist() == [[1, 2, 0], [2, 2, 1]]
    assert batch["target_length"].tolist() == [2, 3]


def test_samples_without_a_label_have_the_target_length_minus_one():
    split = Split.from_sequences(STORE, torch.tensor([0, UNLABELED, 1, 1]))
    assert split.read_fields(torch.arange(4))["target_length"].tolist() == [2, -1, 3, 1]
    assert len(split.select_labeled()) == 3
    assert not split.has_class_targets


def test_training_and_validation_batches_have_the_same_fields():
    data = make_data(normalize=FrameNormalization((1.0, 0.0), (2.0, 1.0)), facts={"mels": 2})
    training, validation = data.batches(batch_size=2).batch(0), next(data.validation_batches())
    assert training.keys() - {"view"} == validation.keys()
    raw = next(iterate_batches(data.validation, None))
    torch.testing.assert_close(validation["input"][..., 0], (raw["input"][..., 0] - 1) / 2)
    assert data.facts == {"mels": 2}
    assert len(data.fingerprint()) == 64


def test_the_fingerprint_follows_every_field():
    changed = SequenceStore({"input": FRAMES, "target": [*TOKENS[:3], torch.tensor([2])]})
    padded = SequenceStore({"input": FRAMES, "target": TOKENS}, pad_values={"input": 1.0})
    assert len({STORE.fingerprint(), changed.fingerprint(), padded.fingerprint()}) == 3


class Louder:
    """Doubles the frames."""

    def transform_sequences(self, inputs, lengths, rng):
        return 2 * inputs

    def __repr__(self):
        return "Louder()"


def test_only_transforms_of_sequences_are_taken():
    data = make_data(augment=Augmentation((Louder(),), num_views=1))
    batch = data.batches(batch_size=2).batch(0)
    plain = data.train.read_fields(torch.tensor([data.train.sample_ids.tolist().index(i) for i in batch["sample_id"]]))
    torch.testing.assert_close(batch["input"], 2 * plain["input"])
    with pytest.raises(LimbeckError, match="transforms images, and the samples are sequences"):
        make_data(augment=Augmentation((horizontal_flip(),)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fields": {}}, "equally many sequences"),
     ({"fields": {"input": FRAMES, "target": TOKENS[:2]}}, "equally many sequences"),
     ({"fields": {"input": [torch.zeros(2), torch.zeros(2).long()]}}, "of one type and shape"),
     ({"fields": {"input": FRAMES}, "masks": {"inputs": "mask"}}, "no field is named 'inputs'")],
)  # fmt: skip
def test_fields_that_do_not_match_are_refused(options, message):
    with pytest.raises(LimbeckError, match=message):
        SequenceStore(**options)


def test_values_are_targets_as_they_are():
    values = torch.tensor([0.5, float("nan"), 2.25])
    split = Split.from_values(InMemory(torch.rand(3, 1, 2, 2)), values)
    assert split.read_fields(torch.tensor([0, 2]))["target"].tolist() == [0.5, 2.25]
    assert split.read_target(torch.tensor([1])).isnan().all()
    assert len(split.select_labeled()) == 2
    multi_hot = Split.from_values(InMemory(torch.rand(2, 1, 2, 2)), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert multi_hot.read_target(torch.tensor([0])).tolist() == [[1.0, 1.0]]
