"""Batches by number of tokens: full, of the same samples for any number of processes, and resumed at any step."""

from __future__ import annotations

import pytest
import torch

import limbeck
from limbeck import LimbeckError
from limbeck.data import Split, from_loaders, from_tensors
from limbeck.data.module import make_splits
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.token_batches import TokenBatches
from limbeck.losses import CrossEntropyLoss
from limbeck.models import text_encoder
from limbeck.tasks import TextClassification
from limbeck.training import TrainingConfig
from limbeck.training.fit import get_batches

LENGTHS = torch.randint(1, 60, (203,), generator=torch.Generator().manual_seed(0))
LIMIT = 150


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_batches_are_full_and_show_every_sample(world_size):
    batches, epochs = TokenBatches(LENGTHS, LIMIT, world_size), []
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        by_rank = [[batches.indices(step, seed=1, rank=rank) for rank in range(world_size)] for step in steps]
        for ranks in by_rank:
            assert len({len(indices) for indices in ranks}) == 1
            assert all(len(indices) * int(LENGTHS[indices].max()) <= LIMIT for indices in ranks)
        shown = torch.cat([indices for ranks in by_rank for indices in ranks])
        assert shown.unique().numel() == len(LENGTHS)
        assert len(shown) - len(LENGTHS) < world_size
        epochs.append({frozenset(torch.cat(ranks).tolist()) for ranks in by_rank})
    # Other samples together each epoch, and little padding.
    assert len(epochs[0] & epochs[1]) < len(epochs[0]) / 2
    assert batches.steps_per_epoch < 1.35 * (int(LENGTHS.sum()) / LIMIT / world_size)


def test_a_batch_is_a_pure_function_of_seed_and_step():
    batches = TokenBatches(LENGTHS, LIMIT)
    forwards = [batches.indices(step, seed=3) for step in range(50)]
    assert all(torch.equal(TokenBatches(LENGTHS, LIMIT).indices(i, seed=3), forwards[i]) for i in (49, 0, 17))
    assert not torch.equal(batches.indices(0, seed=4), forwards[0])


def make_data(num_samples=40):
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(2, 9, (int(n),), generator=generator) for n in LENGTHS[:num_samples] % 7 + 1]
    store = SequenceStore({"input_ids": ids}, masks={"input_ids": "attention_mask"})
    split = Split.from_sequences(store, torch.arange(num_samples) % 2)
    return make_splits("texts", "ab", split, seed=0, validation=0.2, test=0.2)


def train(run_dir, *, stop_at=None, **options):
    def count_calls(*_):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    calls = []
    student = text_encoder(classes=2, vocab_size=9, width=8, depth=1, num_heads=2)
    objective = {"target": CrossEntropyLoss()}
    distiller = limbeck.Distiller(student, objective=objective, task=TextClassification(classes=2))
    distiller.register_forward_pre_hook(count_calls)
    training = TrainingConfig(batch_tokens=14, checkpoint_every_seconds=0)
    return limbeck.training.fit(
        distiller, make_data(), steps=14, training=training, run_dir=run_dir, callbacks=[], **options
    )


def test_a_training_resumed_within_an_epoch_ends_with_the_same_weights(tmp_path):
    data = make_data()
    steps = data.batches(batch_size=1, batch_tokens=14).steps_per_epoch
    assert 7 % steps
    batch = data.batches(batch_size=1, batch_tokens=14).batch(2)
    assert batch["input_ids"].numel() <= 14
    assert batch["view"].eq(0).all()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", stop_at=8)
    resumed, whole = train(tmp_path / "a", resume=True), train(tmp_path / "b")
    for name, value in whole.student.state_dict().items():
        assert torch.equal(resumed.student.state_dict()[name], value)


def test_what_has_no_tokens_is_refused():
    with pytest.raises(LimbeckError, match="batch_tokens must be at least 59, the longest sample, got 58"):
        TokenBatches(LENGTHS, 58)
    images = from_tensors(torch.rand(20, 1, 2, 2), torch.arange(20) % 2)
    with pytest.raises(LimbeckError, match="batch_tokens needs samples that are sequences, got images"):
        images.batches(batch_size=4, batch_tokens=10)
    with pytest.raises(LimbeckError, match=r"training\.batch_tokens needs sequences of limbeck.data, got a LoaderData"):
        get_batches(from_loaders([1]), TrainingConfig(batch_tokens=10))
    with pytest.raises(LimbeckError, match="batch_pairing same_class halves batch_size"):
        TrainingConfig(batch_tokens=10, batch_pairing="same_class")
