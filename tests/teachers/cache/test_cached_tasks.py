"""Cached outputs of any task equal those of the teacher, however samples are batched and padded."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

import limbeck
from limbeck.losses import CTCLoss, KDLoss
from limbeck.models import (
    conv_ctc,
    seq2seq_transformer,
    speech_text_encoder,
    speech_text_translator,
    text_encoder,
    unet,
)
from limbeck.tasks import (
    Segmentation,
    SpeechCTC,
    SpeechTextAlignment,
    SpeechTextTranslation,
    TextClassification,
    Translation,
)
from limbeck.teachers import CacheConfig, CachedTeacher, FrozenTeacher

FULL = CacheConfig(dtype="float32")
NUM_SAMPLES = 12


class Samples:
    """Samples of different length, padded to the longest of a batch."""

    num_views = 1

    def __init__(self, collate):
        self.split, self.collate = SimpleNamespace(sample_ids=torch.arange(100, 100 + NUM_SAMPLES)), collate

    def fingerprint(self):
        return "samples"

    def load(self, sample_indices, views):
        indices = sample_indices.tolist()
        return {**self.collate(indices), "sample_id": self.split.sample_ids[sample_indices], "view": views}

    def batch(self, *indices):
        return self.load(torch.tensor(indices), torch.zeros(len(indices), dtype=torch.long))


def seeded(index):
    return torch.Generator().manual_seed(index)


def speech(indices):
    lengths = torch.tensor([3 + 5 * index for index in indices])
    frames = [torch.randn(3 + 5 * index, 4, generator=seeded(index)) for index in indices]
    tokens = torch.tensor([[1, 2]]).repeat(len(indices), 1)
    return {
        "input": pad_sequence(frames, batch_first=True), "input_length": lengths, "target": tokens,
        "target_length": torch.full((len(indices),), 2),
    }  # fmt: skip


def text(indices):
    tokens = [torch.randint(1, 50, (2 + 3 * index,), generator=seeded(index)) for index in indices]
    ids = pad_sequence(tokens, batch_first=True, padding_value=49)
    lengths = torch.tensor([len(row) for row in tokens])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "target": torch.tensor(indices) % 3}


def sentences(indices):
    """Sources and targets, of which some batches pad both to the same length."""
    targets = [torch.randint(2, 50, (1 + 2 * index % 7,), generator=seeded(index)) for index in indices]
    return {**text(indices), "target": pad_sequence(targets, batch_first=True, padding_value=-100)}


def clips_with_texts(indices):
    clips = speech(indices)
    return {**text(indices), "input": clips["input"], "input_length": clips["input_length"]}


def translated_clips(indices):
    return {**clips_with_texts(indices), "target": sentences(indices)["target"]}


def images(indices):
    pixels = torch.stack([torch.rand(3, 16, 16, generator=seeded(index)) for index in indices])
    return {"input": pixels, "target": torch.zeros(len(indices), 16, 16, dtype=torch.long)}


def nested(indices):
    batch = images(indices)
    views = (batch["input"], [batch["input"].mean((1, 2, 3))])
    return {"inputs": {"views": views}, "name": [f"{index}.png" for index in indices]}


class TwoInputs:
    """A task whose batches are nested, with a network of two inputs."""

    def outputs(self, network, batch):
        return limbeck.core.outputs.Outputs(embedding=network(*self.model_inputs(batch).args))

    def target(self, batch):
        assert len(batch["name"]) == len(batch["sample_id"])

    def model_inputs(self, batch):
        pixels, (mean,) = batch["inputs"]["views"]
        return limbeck.core.task.ModelInputs((pixels, mean))

    def encode_outputs(self, outputs, batch):
        self.target(batch)
        return {"embedding": outputs.embedding}

    def decode_outputs(self, stored, batch):
        return limbeck.core.outputs.Outputs(embedding=stored["embedding"])

    def __repr__(self):
        return "TwoInputs()"


class TwoInputNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 16 * 16, 5)

    def forward(self, pixels, mean):
        return self.fc(pixels.flatten(1)) * mean[:, None]


CASES = {
    "speech": (speech, SpeechCTC(classes=5, frame_stride=3), lambda: conv_ctc(width=8, depth=1, classes=5, mels=4)),
    "text": (
        text,
        TextClassification(classes=3),
        lambda: text_encoder(width=8, depth=1, num_heads=2, classes=3, vocab_size=50),
    ),
    "translation": (
        sentences,
        Translation(vocab_size=50),
        lambda: seq2seq_transformer(width=8, depth=1, num_heads=2, vocab_size=50),
    ),
    "alignment": (
        clips_with_texts,
        SpeechTextAlignment(classes=3),
        lambda: speech_text_encoder(
            embedding_dim=4, speech_width=8, speech_depth=1, text_width=8, num_heads=2, mels=4, vocab_size=50
        ),
    ),
    "speech translation": (
        translated_clips,
        SpeechTextTranslation(vocab_size=50),
        lambda: speech_text_translator(
            side="speech", width=8, depth=1, decoder_depth=1, num_heads=2, speech_width=8, mels=4, vocab_size=50
        ),
    ),
    "segmentation": (images, Segmentation(classes=3), lambda: unet(classes=3, channels=3, width=4)),
    "nested": (nested, TwoInputs(), TwoInputNetwork),
}


def make_network(build):
    torch.manual_seed(0)
    return build().eval()


def assert_equal(a, b):
    tensors = [(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True)]
    tensors += [(a.by_sample[name], y) for name, y in b.by_sample.items() if name.endswith("_embedding")]
    assert tensors
    for x, y in tensors:
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    assert (a.row_to_sample is None) == (b.row_to_sample is None)
    if a.row_to_sample is not None:
        assert torch.equal(a.row_to_sample, b.row_to_sample)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_computed_once_and_equal_those_of_the_teacher_in_every_batch(tmp_path, name):
    collate, task, build = CASES[name]
    data, teacher, messages = Samples(collate), FrozenTeacher(make_network(build)), []
    cached = CachedTeacher(teacher, data, root=tmp_path, config=FULL, log=messages.append)
    for indices in ((3, 0, 7), (0, 11), (7, 2, 3, 1), (0,)):
        batch = data.batch(*indices)
        assert_equal(cached.predict(batch, task), teacher.predict(batch, task))
    assert (cached.misses, cached.hits) == (6, 4)
    assert not messages
    for _ in cached.populate(task, batch_size=5):
        pass
    (message,) = messages
    assert f"{NUM_SAMPLES} outputs of " in message
    messages.clear()
    again = CachedTeacher(make_network(build), data, root=tmp_path, config=FULL, log=messages.append)
    batch = data.batch(*range(NUM_SAMPLES))
    assert_equal(again.predict(batch, task), teacher.predict(batch, task))
    assert (again.misses, again.hits, again.stats()["is_complete"]) == (0, NUM_SAMPLES, True)
    assert not messages


@pytest.mark.parametrize(
    ("config", "pixel_bytes"),
    [(FULL, 3 * 4), (CacheConfig(), 3 * 2), (CacheConfig(top_k=2), 2 * 3 + 4), (CacheConfig(pool_factor=2), 3 * 2)],
)
def test_the_size_of_dense_outputs_is_told_before_filling(tmp_path, config, pixel_bytes):
    collate, _, build = CASES["segmentation"]
    task, messages = Segmentation(classes=3, stride=2), list[str]()
    data = Samples(collate)
    cached = CachedTeacher(make_network(build), data, root=tmp_path, config=config, log=messages.append)
    filling = cached.populate(task, batch_size=NUM_SAMPLES)
    next(filling)
    (message,) = messages
    list(filling)
    num_bytes = cached.stats()["bytes"]
    assert message == (
        f"cache of 'teacher': {NUM_SAMPLES} outputs of {num_bytes // NUM_SAMPLES:,} bytes take "
        f"{num_bytes / 1e6:,.1f} MB in {tmp_path}"
    )
    rows, columns = (side // 2 // config.pool_factor for side in data.batch(0)["input"].shape[2:])
    assert num_bytes == NUM_SAMPLES * (rows * columns * pixel_bytes + 8)


def test_a_cache_larger_than_the_disk_is_told_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    collate, task, build = CASES["segmentation"]
    messages = list[str]()
    CachedTeacher(make_network(build), Samples(collate), root=tmp_path / "new", log=messages.append).check(task)
    assert "where only 0.0 MB are free: set cache.top_k, cache.pool_factor or a larger stride" in messages[0]


def test_stored_maps_do_not_depend_on_the_masks_of_the_batch(tmp_path):
    collate, task, build = CASES["segmentation"]
    data, network = Samples(collate), make_network(build)
    cached = CachedTeacher(network, data, root=tmp_path, config=FULL)
    batch = data.batch(0, 1)
    cached.predict(batch, task)
    batch["target"][:, :7] = -100
    assert_equal(cached.predict(batch, task), FrozenTeacher(network).predict(batch, task))
    assert cached.misses == 2


def test_a_student_of_another_frame_rate_learns_from_cached_outputs(tmp_path):
    collate, task, build = CASES["speech"]
    data = Samples(collate)
    losses = []
    for teacher in (make_network(build), CachedTeacher(make_network(build), data, root=tmp_path, config=FULL)):
        torch.manual_seed(1)
        student = conv_ctc(width=4, depth=1, classes=5, mels=4, stride=4)
        objective = {"kd": KDLoss(temperature=2.0), "ctc": CTCLoss()}
        distiller = limbeck.Distiller(student, {"big": teacher}, objective=objective, task=task)
        total = distiller(data.batch(4, 2, 9)).total
        total.backward()
        losses.append((total.item(), float(student.classifier.weight.grad.abs().sum())))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_teacher_that_does_not_ignore_padding_is_refused(tmp_path):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.fc = nn.Embedding(50, 8), nn.Linear(8, 3)

        def forward(self, input_ids, attention_mask):
            return self.fc(self.embedding(input_ids).mean(dim=1))

    with pytest.raises(
        limbeck.LimbeckError, match=r"on the other samples of its batch.*let the network ignore padding"
    ):
        CachedTeacher(Mean(), Samples(text), root=tmp_path).check(TextClassification(classes=3))


def test_damaged_rows_are_computed_again(tmp_path):
    collate, task, build = CASES["speech"]
    data, messages = Samples(collate), []
    cached = CachedTeacher(make_network(build), data, root=tmp_path, config=FULL)
    for _ in cached.populate(task):
        pass
    shard = next(path for path in tmp_path.glob("*/rows-16/*.bin"))
    raw = bytearray(shard.read_bytes())
    raw[next(i for i, byte in enumerate(raw) if byte)] ^= 1
    shard.write_bytes(raw)
    again = CachedTeacher(make_network(build), data, root=tmp_path, config=FULL, log=messages.append)
    batch = data.batch(*range(NUM_SAMPLES))
    assert_equal(again.predict(batch, task), FrozenTeacher(make_network(build)).predict(batch, task))
    assert (again.repaired, again.misses, len(messages)) == (1, 1, 1)
    assert "is damaged: 1 outputs are computed again" in messages[0]


def test_features_of_clips_of_several_lengths_are_stored(tmp_path):
    collate, task, build = CASES["speech"]
    teacher, data = FrozenTeacher(make_network(build), {"mid": "stem"}), Samples(collate)
    cached = CachedTeacher(teacher, data, root=tmp_path, config=FULL)
    for indices in ((0, 3), (1, 2), (0, 2)):
        batch = data.batch(*indices)
        live, mask = teacher.predict(batch, task).feature("mid"), task.input_mask(batch)
        expected = live.where(mask[:, :: -(-mask.shape[1] // live.shape[1]), None], 0.0)
        torch.testing.assert_close(cached.predict(batch, task).feature("mid"), expected, atol=1e-3, rtol=1e-3)
    assert (cached.hits, cached.misses) == (2, 4)
