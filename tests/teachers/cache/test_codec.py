"""Stored outputs are decoded exactly, in half precision, or by the rule of the tail."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import limbeck
from limbeck.core.outputs import Outputs
from limbeck.core.task import ModelInputs
from limbeck.tasks import SpeechCTC
from limbeck.teachers import CacheConfig
from limbeck.teachers.cache.codec import decode_outputs, encode_outputs
from limbeck.teachers.cache.indexing import InputChecksums
from limbeck.teachers.cache.layout import RecordLayout
from limbeck.teachers.cache.output_store import OutputStore
from limbeck.teachers.cache.store import CRC_BYTES, RecordStore


def round_trip(tensors, **format):
    layout = RecordLayout.from_tensors(tensors, CacheConfig(**format))
    assert RecordLayout.from_dict(json.loads(json.dumps(layout.to_dict()))) == layout
    records = layout.pack(tensors)
    assert records.fixed.shape == (4, layout.num_bytes)
    return layout.unpack(records), layout


def through_codec(outputs, task, batch, **format):
    """Outputs as a cache with the codec of ``task`` returns them."""
    return decode_outputs(round_trip(encode_outputs(outputs, batch, task, batch_size=4), **format)[0], batch, task)


def test_dense_float32_is_exact():
    logits = torch.randn(4, 7) * 100
    assert torch.equal(round_trip({"logits": logits}, dtype="float32")[0]["logits"], logits)


@settings(max_examples=40, deadline=None)
@given(
    classes=some.integers(1, 40), top=some.integers(1, 45), seed=some.integers(0, 99), scale=some.sampled_from([1, 9])
)
def test_a_spread_tail_keeps_every_probability_it_can(classes, top, seed, scale):
    logits = torch.randn(4, classes, generator=torch.Generator().manual_seed(seed)) * scale
    outputs, _ = round_trip({"logits": logits}, top_k=top, dtype="float32")
    expected = logits.double().softmax(1).numpy()
    decoded = outputs["logits"].double().softmax(1).numpy()
    for row, actual in zip(expected, decoded, strict=True):
        order = np.argsort(-row, kind="stable")
        kept, rest = order[:top], order[top:]
        assert np.allclose(actual[kept], row[kept], atol=1e-5)
        if len(rest):
            assert np.allclose(actual[rest], row[rest].sum() / len(rest), atol=1e-5)


def test_a_renormalised_tail_has_nothing():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0]]).repeat(4, 1)
    outputs, _ = round_trip({"logits": logits}, top_k=2, tail="renormalized")
    assert outputs["logits"][0].tolist() == [3.0, -np.inf, 2.0, -np.inf]


def test_the_temperature_may_change_later():
    logits = torch.randn(4, 10)
    outputs, _ = round_trip({"logits": logits}, top_k=10, dtype="float32")
    assert torch.allclose((outputs["logits"] / 7).softmax(1), (logits / 7).softmax(1), atol=1e-6)


def test_impossible_classes_stay_impossible():
    logits = torch.randn(4, 6)
    logits[:, 5] = -torch.inf
    for format in ({}, {"top_k": 6}, {"top_k": 3}):
        assert (round_trip({"logits": logits}, **format)[0]["logits"].softmax(1)[:, 5] == 0).all() or format == {
            "top_k": 3
        }


def test_eight_bits_are_half_a_step_off_at_most():
    features = torch.randn(4, 3, 5, 5)
    outputs, layout = round_trip({"features.mid": features}, feature_dtype="int8")
    step = features.flatten(1).abs().amax(1) / 127
    assert ((outputs["features.mid"] - features).flatten(1).abs().amax(1) <= step / 2 + 1e-6).all()
    assert layout.num_bytes == 4 + 3 * 5 * 5
    assert torch.equal(
        round_trip({"features.mid": torch.zeros(4, 2)}, feature_dtype="int8")[0]["features.mid"],
        torch.zeros(4, 2),
    )


def test_maps_are_pooled_and_spatial_logits_come_back_at_their_size():
    maps, features = torch.rand(4, 3, 8, 6), torch.rand(4, 2, 8, 6)
    outputs, layout = round_trip(
        {"spatial_logits": maps, "features.mid": features},
        pool_factor=2,
        dtype="float32",
        feature_dtype="float32",
    )
    assert outputs["spatial_logits"].shape == maps.shape
    assert torch.allclose(outputs["features.mid"], torch.nn.functional.avg_pool2d(features, 2))
    assert layout.num_bytes == 4 * (3 + 2) * 4 * 3
    assert torch.allclose(outputs["spatial_logits"].mean((2, 3)), maps.mean((2, 3)), atol=0.05)


@pytest.mark.parametrize("tail", ["spread", "renormalized"])
def test_the_largest_logits_of_each_pixel_are_stored(tail):
    maps = 3 * torch.randn(4, 7, 4, 5)
    outputs, layout = round_trip({"spatial_logits": maps}, top_k=3, tail=tail)
    decoded = outputs["spatial_logits"]
    assert decoded.shape == maps.shape
    top = torch.zeros_like(maps).scatter_(1, maps.topk(3, dim=1).indices, 1).bool()
    torch.testing.assert_close(decoded[top], maps[top].half().float())
    if tail == "spread":  # the rest of the probability is spread evenly over the other classes
        probability, tails = maps.softmax(1), decoded.softmax(1)
        torch.testing.assert_close((probability * ~top).sum(1), (tails * ~top).sum(1), rtol=0.02, atol=1e-3)
    else:
        assert decoded[~top].isneginf().all()
    # Values of 2 bytes and classes of 1, and 4 bytes for the tail of each pixel.
    assert layout.num_bytes == 20 * (3 * 3 + (4 if tail == "spread" else 0))


def test_pooled_maps_store_their_largest_logits():
    maps = torch.randn(4, 6, 8, 10)
    outputs, _ = round_trip({"spatial_logits": maps}, top_k=6, pool_factor=2, dtype="float32")
    pooled = torch.nn.functional.avg_pool2d(maps, 2)
    expected = torch.nn.functional.interpolate(pooled, size=(8, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(outputs["spatial_logits"], expected)
    with pytest.raises(limbeck.LimbeckError, match=r"cache\.tail must be spread with pool_factor"):
        round_trip({"spatial_logits": maps}, top_k=3, pool_factor=2, tail="renormalized")


def test_rows_of_samples_of_different_length_come_back():
    lengths = torch.tensor([3, 0, 5, 1])
    logits, boxes = torch.randn(4, 6, 7), torch.randint(0, 9, (4, 6, 2))
    tensors = {"length": lengths, "logits": logits, "box": boxes, "flag": torch.tensor([True, False, True, True])}
    decoded, layout = round_trip(tensors, dtype="float32")
    is_row = torch.arange(5) < lengths[:, None]
    assert decoded["logits"].shape == (4, 5, 7)
    assert torch.equal(decoded["logits"], logits[:, :5] * is_row[..., None])
    assert torch.equal(decoded["box"], boxes[:, :5] * is_row[..., None])
    assert torch.equal(decoded["flag"], tensors["flag"])
    records = layout.pack(tensors)
    assert [len(row) for row in records.rows] == [n * (7 * 4 + 2 * 8) for n in (3, 0, 5, 1)]
    shorter = layout.unpack(records.select(np.array([True, True, False, True])))
    assert torch.equal(shorter["logits"], decoded["logits"][[0, 1, 3], :3])


def test_the_largest_logits_of_rows_of_different_number_are_stored():
    lengths, logits = torch.tensor([2, 0, 3, 1]), torch.randn(4, 3, 7)
    decoded, _ = round_trip({"length": lengths, "logits": logits}, dtype="float32", top_k=2)
    top = torch.zeros_like(logits).scatter_(-1, logits.topk(2).indices, 1).bool()
    top &= (torch.arange(3) < lengths[:, None])[..., None]
    assert torch.equal(decoded["logits"][top], logits[top])


def test_tensors_with_another_number_of_rows_are_refused():
    tensors = {"length": torch.tensor([2, 0, 3, 1]), "logits": torch.randn(4, 3, 7), "box": torch.zeros(4, 2)}
    with pytest.raises(limbeck.LimbeckError, match=r"padded along axis 1 to one number of rows.*got \[2, 3\]"):
        round_trip(tensors)


def test_the_codec_of_speech_gives_the_same_rows():
    task = SpeechCTC(classes=5, frame_stride=2)
    batch = {"input": torch.randn(4, 11, 3), "input_length": torch.tensor([11, 4, 7, 1])}
    outputs = task.outputs(Frames(), batch)
    decoded = through_codec(outputs, task, batch, dtype="float32")
    assert torch.allclose(decoded.require_logits(), outputs.require_logits(), atol=1e-6)
    assert torch.equal(decoded.row_to_sample, outputs.row_to_sample)


@pytest.mark.parametrize("task", [SpeechCTC(classes=5, frame_stride=2), limbeck.tasks.TextClassification(classes=5)])
def test_features_of_padded_sequences_are_stored_without_the_padding(task):
    lengths, is_speech = torch.tensor([11, 4, 7, 1]), isinstance(task, SpeechCTC)
    mask = torch.arange(11) < lengths[:, None]
    batch = {"input": torch.randn(4, 11, 3), "input_length": lengths, "input_ids": mask.long(), "attention_mask": mask}
    outputs = task.outputs(Frames(), batch) if is_speech else Outputs(logits=torch.randn(4, 5))
    features = torch.randn(4, 6, 2)  # of every second position, as the logits of speech
    decoded = through_codec(
        replace(outputs, features={"mid": features}), task, batch, dtype="float32", feature_dtype="float32"
    )
    assert torch.equal(decoded.feature("mid"), features.where(mask[:, ::2, None], 0.0))
    assert torch.allclose(decoded.require_logits(), outputs.require_logits(), atol=1e-6)
    layout = RecordLayout.from_tensors(encode_outputs(decoded, batch, task, batch_size=4), CacheConfig())
    shorter = replace(task.outputs(Frames(), cut(batch)) if is_speech else outputs, features={"mid": features[:, :4]})
    layout.pack(encode_outputs(shorter, cut(batch), task, batch_size=4))
    other = "positions of the logits" if is_speech else "those of the input, or every k-th"
    wrong = replace(outputs, features={"mid": torch.randn(4, 11 if is_speech else 12, 2)})
    with pytest.raises(limbeck.LimbeckError, match=other):
        encode_outputs(wrong, batch, task, batch_size=4)


def cut(batch):
    return {name: value[:, :7] if value.ndim > 1 else value.clamp(max=7) for name, value in batch.items()}


class Frames(torch.nn.Module):
    """Logits of every second frame."""

    def forward(self, frames, lengths):
        return torch.nn.functional.pad(frames, (0, 2))[:, ::2]


def test_a_task_with_fixed_rows_features_and_absent_samples_come_back():
    task, present = limbeck.tasks.Classification(5), torch.tensor([True, False, True, True])
    outputs = Outputs(logits=torch.randn(4, 5), features={"mid": torch.randn(4, 2)}, valid=present)
    decoded = through_codec(outputs, task, {"input": torch.zeros(4, 1)}, dtype="float32", feature_dtype="float32")
    assert torch.equal(decoded.require_logits(), outputs.require_logits())
    assert torch.equal(decoded.feature("mid"), outputs.feature("mid"))
    assert torch.equal(decoded.valid, present)


def test_outputs_of_another_shape_or_number_are_refused():
    layout = RecordLayout.from_tensors({"features.mid": torch.zeros(4, 2)}, CacheConfig())
    with pytest.raises(limbeck.LimbeckError, match="inputs of one size"):
        layout.pack({"features.mid": torch.zeros(4, 3)})
    task, batch = limbeck.tasks.Classification(5), {"input": torch.zeros(4, 1)}
    with pytest.raises(limbeck.LimbeckError, match=r"'logits' .* one entry for each of the 4 samples, got .*3, 5"):
        encode_outputs(Outputs(logits=torch.zeros(3, 5)), batch, task, batch_size=4)
    with pytest.raises(limbeck.LimbeckError, match=r"largest of `logits` or .*, and the task stores maps"):
        RecordLayout.from_tensors({"maps": torch.zeros(4, 2)}, CacheConfig(top_k=2))


def test_layouts_of_earlier_versions_are_read():
    field = {"name": "logits", "encoding": "top_k", "shape": [1, 10], "full_size": [], "num_bytes": 24}
    layout = RecordLayout.from_dict({"config": {"top_k": 5}, "fields": [field], "multi_row": False})
    assert layout == RecordLayout.from_tensors({"logits": torch.zeros(4, 10)}, CacheConfig(top_k=5))


@pytest.mark.parametrize(
    ("logits", "format", "says"),
    [
        (torch.full((4, 2), 1e6), {}, "at most 65504 for float16, got 1e.06"),
        (torch.full((4, 2), torch.nan), {"dtype": "float32"}, "must be finite"),
    ],
)
def test_what_cannot_be_written_is_refused(logits, format, says):
    with pytest.raises(limbeck.LimbeckError, match=says):
        round_trip({"logits": logits}, **format)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tail": "spread"}, "without `top_k`"),
        ({"top_k": 0}, "at least 1"),
        ({"top_k": 3, "tail": "none"}, "'spread', 'renormalized'"),
        ({"dtype": "float64"}, "'float16', 'float32'"),
        ({"pool_factor": 0}, "at least 1"),
    ],
)
def test_invalid_configs_are_refused(wrong, says):
    with pytest.raises(limbeck.LimbeckError, match=says):
        CacheConfig(**wrong)


def record_bytes(classes, **format):
    layout = RecordLayout.from_tensors({"logits": torch.randn(4, classes)}, CacheConfig(**format))
    return layout.num_bytes + 4 + CRC_BYTES


def test_the_bytes_of_a_record_are_those_that_are_documented():
    for top in (1, 5, 10):
        assert record_bytes(1000, top_k=top) == 4 * top + 12
        assert record_bytes(1000, top_k=top, tail="renormalized") == 4 * top + 8
        assert record_bytes(1000, top_k=top, dtype="float32") == 6 * top + 12
        assert record_bytes(70_000, top_k=top) == 6 * top + 12
        assert record_bytes(70_000, top_k=top, dtype="float32") == 8 * top + 12
    assert record_bytes(1000) == 2 * 1000 + 8
    assert record_bytes(1000, dtype="float32") == 4 * 1000 + 8


def test_50000_images_in_16_views_take_less_than_45_megabytes(tmp_path):
    size = record_bytes(1000, top_k=10) - CRC_BYTES
    assert RecordStore(tmp_path, record_bytes=size, num_records=50_000 * 16).num_bytes < 45e6


def same(inputs_a, inputs_b, *, a=None, b=None):
    return InputChecksums(inputs_a, a).match(InputChecksums(inputs_b, b).values).tolist()


def test_another_view_of_an_image_has_another_checksum():
    images = torch.rand(64, 3, 32, 32)
    assert all(same(images, images * (1 + 1e-6)))
    for changed in (
        images.flip(3),
        images.roll(1, 2),
        images.roll(1, 0),
        images + 0.05 * (1 + torch.rand(64, 1, 1, 1)),
    ):
        assert not any(same(images, changed))


def test_every_change_of_a_token_is_seen():
    tokens = torch.randint(0, 30_000, (300, 128), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[torch.arange(300), torch.arange(300) % 128] += 1
    assert all(same([tokens], [tokens.clone()]))
    assert not any(same([tokens], [changed]))
    assert not any(same([tokens], [tokens.flip(0)]))
    assert not any(same({"x": torch.rand(300, 2), "t": tokens}, {"x": torch.rand(300, 2), "t": changed}))


def test_checksums_do_not_depend_on_padding():
    tokens, lengths = torch.randint(1, 99, (3, 9)), torch.tensor([9, 4, 1])
    mask = (torch.arange(9) < lengths[:, None]).long()
    batch, short = {"attention_mask": mask}, {"attention_mask": mask[1:, :4]}
    other_padding = tokens.where(mask.bool(), 7)
    assert all(same([tokens, mask], [other_padding, mask], a=batch, b=batch))
    assert all(same([tokens[1:], mask[1:]], [tokens[1:, :4], mask[1:, :4]], a={"attention_mask": mask[1:]}, b=short))
    frames = torch.randn(3, 9, 2)
    a, b = {"input_length": lengths[1:]}, {"input_length": lengths[1:]}
    assert all(same([frames[1:], lengths[1:]], [frames[1:, :4], lengths[1:]], a=a, b=b))
    assert same([frames[1:], lengths[1:]], [frames[1:] + 1, lengths[1:]], a=a, b=b) == [False, False]


def test_each_input_has_its_own_padding():
    tokens, words = torch.randint(1, 99, (2, 9)), torch.randint(1, 99, (2, 5))
    is_token, is_word = torch.arange(9) < torch.tensor([[5], [9]]), torch.arange(5) < torch.tensor([[3], [5]])

    def checksums(num_samples, num_tokens, num_words, *, fill=7):
        inputs = {
            "tokens": tokens.where(is_token, fill)[:num_samples, :num_tokens],
            "words": words.where(is_word, fill)[:num_samples, :num_words],
        }
        batch = {"attention_mask": is_token[:num_samples, :num_tokens]}
        return InputChecksums(ModelInputs((), inputs, {"words": is_word[:num_samples, :num_words]}), batch)

    both = checksums(2, 9, 5)
    for other in (checksums(1, 5, 5), checksums(1, 5, 3), checksums(1, 9, 3), checksums(1, 6, 4, fill=8)):
        assert both.match(other.values.repeat(2, 0)).tolist() == [True, False]
    # Without a mask of its own, padding of the words counts.
    assert same([words[:1, :3]], [words[:1, :5]]) == [False]


def test_inputs_of_any_nesting_have_checksums():
    inputs = ({"image": torch.rand(2, 3), "text": (torch.tensor([[1], [2]]), [torch.tensor([True, False])])}, "a text")
    assert InputChecksums(inputs, {}).kinds == ("float", "int")
    assert all(same(inputs, copy.deepcopy(inputs)))
    with pytest.raises(limbeck.LimbeckError, match="must contain a tensor"):
        InputChecksums(["a text"], {})


def test_rows_are_stored_by_capacity_and_damage_is_found(tmp_path):
    lengths = torch.tensor([3, 0, 17, 8, 300])
    tensors = {"length": lengths, "logits": torch.randn(5, 300, 2)}
    layout = RecordLayout.from_tensors(tensors, CacheConfig(dtype="float32"))
    records = layout.pack(tensors)
    records = records._replace(fixed=np.concatenate([np.ones((5, 4), np.uint8), records.fixed], axis=1))
    store, order = OutputStore(tmp_path, layout, num_records=6), np.array([4, 2, 0, 5, 1])
    store.write(order, records)
    read, is_valid, is_empty = store.read(np.array([1, 3, 4, 5, 0, 2]))
    assert is_valid.tolist() == [True, False, True, True, True, True]
    assert is_empty.tolist() == [False, True, False, False, False, False]
    expected = [records.rows[i].tobytes() if i is not None else b"" for i in (4, None, 0, 3, 2, 1)]
    assert [row.tobytes() for row in read.rows] == expected
    assert {path.name for path in tmp_path.glob("rows-*")} == {"rows-8", "rows-32", "rows-512"}
    assert set(store.written_indices(9).tolist()) == {0, 1, 2, 4, 5}
    assert not store.write_index({})
    store.write(np.array([3]), records.select(np.array([0])))
    assert store.write_index({})
    path = tmp_path / "rows-32" / "shard-00000.bin"
    raw = bytearray(path.read_bytes())
    raw[5] ^= 1
    path.write_bytes(raw)
    assert store.scan_shard(0)[0].tolist() == [0]
    assert store.read(np.array([0]))[1].tolist() == [False]


def test_a_store_survives_any_order_and_finds_every_flipped_byte(tmp_path):
    many, size = 23, 9
    draw = np.random.default_rng(0)
    records = draw.integers(0, 256, (many, size), dtype=np.uint8)
    store = RecordStore(tmp_path, record_bytes=size, num_records=many, shard_bytes=5 * (size + CRC_BYTES))
    assert store.num_shards == 5
    assert store.read(np.arange(many))[2].all()
    for some_places in np.array_split(draw.permutation(many), 4):
        store.write(some_places, records[some_places])
    assert store.write_index({})
    order = draw.permutation(many)
    raw, sound, _ = store.read(order)
    assert sound.all()
    assert np.array_equal(raw, records[order])
    whole = store.shard_path(1).read_bytes()
    for place in range(len(whole)):
        store.shard_path(1).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        fresh = RecordStore(tmp_path, record_bytes=size, num_records=many, shard_bytes=5 * (size + CRC_BYTES))
        damaged, never = fresh.scan_shard(1)
        assert damaged.tolist() == [5 + place // (size + CRC_BYTES)]
        assert not len(never)
        assert fresh.changed_shards() == [1]


def test_a_record_in_another_place_is_no_record(tmp_path):
    store = RecordStore(tmp_path, record_bytes=4, num_records=2)
    store.write(np.array([0]), np.ones((1, 4), np.uint8))
    raw = bytearray(store.shard_path(0).read_bytes())
    raw[8:] = raw[:8]
    store.shard_path(0).write_bytes(raw)
    _, sound, _ = RecordStore(tmp_path, record_bytes=4, num_records=2).read(np.arange(2))
    assert sound.tolist() == [True, False]


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(limbeck.LimbeckError, match=r"shard-00000\.bin could not be written.*free some space"):
        RecordStore(tmp_path, record_bytes=4, num_records=2).write(np.array([0]), np.ones((1, 4), np.uint8))


def test_numbers_are_written_as_documented():
    tensors = {"logits": torch.tensor([[3.0, 1.0, 2.0]])}
    raw = RecordLayout.from_tensors(tensors, CacheConfig(top_k=1)).pack(tensors).fixed
    assert raw[0, :2].view(np.float16)[0] == 3.0
    assert raw[0, 2:4].view(np.uint16)[0] == 0
    assert raw[0, 4:].copy().view(np.float32)[0] == pytest.approx(np.log(np.e + np.e**2), rel=1e-6)
