"""Stored outputs are decoded exactly, in half precision, or by the rule of the tail."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import limbeck
from limbeck.core.outputs import Outputs
from limbeck.teachers import CacheConfig
from limbeck.teachers.cache.indexing import checksums_match, input_checksum
from limbeck.teachers.cache.layout import RecordLayout
from limbeck.teachers.cache.store import CRC_BYTES, RecordStore


def round_trip(outputs, **format):
    batch = 4
    layout = RecordLayout.from_outputs(outputs, batch, CacheConfig(**format))
    assert RecordLayout.from_dict(layout.to_dict()) == layout
    raw = layout.pack(outputs, batch)
    assert raw.shape == (batch, layout.num_bytes)
    return layout.unpack(raw), layout


def test_dense_float32_is_exact():
    logits = torch.randn(4, 7) * 100
    assert torch.equal(round_trip(Outputs(logits=logits), dtype="float32")[0].require_logits(), logits)


@settings(max_examples=40, deadline=None)
@given(
    classes=some.integers(1, 40), top=some.integers(1, 45), seed=some.integers(0, 99), scale=some.sampled_from([1, 9])
)
def test_a_spread_tail_keeps_every_probability_it_can(classes, top, seed, scale):
    logits = torch.randn(4, classes, generator=torch.Generator().manual_seed(seed)) * scale
    outputs, _ = round_trip(Outputs(logits=logits), top_k=top, dtype="float32")
    expected = logits.double().softmax(1).numpy()
    decoded = outputs.require_logits().double().softmax(1).numpy()
    for row, actual in zip(expected, decoded, strict=True):
        order = np.argsort(-row, kind="stable")
        kept, rest = order[:top], order[top:]
        assert np.allclose(actual[kept], row[kept], atol=1e-5)
        if len(rest):
            assert np.allclose(actual[rest], row[rest].sum() / len(rest), atol=1e-5)


def test_a_renormalised_tail_has_nothing():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0]]).repeat(4, 1)
    outputs, _ = round_trip(Outputs(logits=logits), top_k=2, tail="renormalized")
    assert outputs.require_logits()[0].tolist() == [3.0, -np.inf, 2.0, -np.inf]


def test_the_temperature_may_change_later():
    logits = torch.randn(4, 10)
    outputs, _ = round_trip(Outputs(logits=logits), top_k=10, dtype="float32")
    assert torch.allclose((outputs.require_logits() / 7).softmax(1), (logits / 7).softmax(1), atol=1e-6)


def test_impossible_classes_stay_impossible():
    logits = torch.randn(4, 6)
    logits[:, 5] = -torch.inf
    for format in ({}, {"top_k": 6}, {"top_k": 3}):
        assert (
            round_trip(Outputs(logits=logits), **format)[0].require_logits().softmax(1)[:, 5] == 0
        ).all() or format == {"top_k": 3}


def test_eight_bits_are_half_a_step_off_at_most():
    features = torch.randn(4, 3, 5, 5)
    outputs, layout = round_trip(Outputs(features={"mid": features}), feature_dtype="int8")
    step = features.flatten(1).abs().amax(1) / 127
    assert ((outputs.feature("mid") - features).flatten(1).abs().amax(1) <= step / 2 + 1e-6).all()
    assert layout.num_bytes == 4 + 3 * 5 * 5
    assert torch.equal(
        round_trip(Outputs(features={"mid": torch.zeros(4, 2)}), feature_dtype="int8")[0].feature("mid"),
        torch.zeros(4, 2),
    )


def test_maps_are_pooled_and_spatial_logits_come_back_at_their_size():
    maps, features = torch.rand(4, 3, 8, 6), torch.rand(4, 2, 8, 6)
    outputs, layout = round_trip(
        Outputs(spatial_logits=maps, features={"mid": features}),
        pool_factor=2,
        dtype="float32",
        feature_dtype="float32",
    )
    assert outputs.spatial_logits.shape == maps.shape
    assert torch.allclose(outputs.feature("mid"), torch.nn.functional.avg_pool2d(features, 2))
    assert layout.num_bytes == 4 * (3 + 2) * 4 * 3
    assert torch.allclose(outputs.spatial_logits.mean((2, 3)), maps.mean((2, 3)), atol=0.05)


def test_several_rows_a_sample_and_absent_samples_come_back():
    sample = torch.arange(4).repeat_interleave(3)
    present = torch.tensor([True, False, True, True])
    logits, boxes, width = torch.randn(12, 5), torch.randn(12, 4), torch.randn(4, 2)
    outputs, _ = round_trip(
        Outputs(
            logits=logits,
            row_to_sample=sample,
            valid=present,
            by_row={"boxes": boxes},
            by_sample={"width": width},
            embedding=width,
        ),
        dtype="float32",
    )
    assert torch.equal(outputs.require_logits(), logits)
    assert torch.equal(outputs.row_to_sample, sample)
    assert torch.equal(outputs.valid, present)
    assert torch.equal(outputs.by_row["boxes"], boxes)
    assert torch.equal(outputs.by_sample["width"], width)
    assert torch.equal(outputs.embedding, width)


def test_unequal_rows_are_refused():
    with pytest.raises(limbeck.LimbeckError, match="equally many rows for each sample"):
        RecordLayout.from_outputs(
            Outputs(logits=torch.zeros(5, 2), row_to_sample=torch.tensor([0, 0, 1, 2, 3])), 4, CacheConfig()
        )


def test_outputs_of_another_shape_are_refused():
    layout = RecordLayout.from_outputs(Outputs(features={"mid": torch.zeros(4, 2)}), 4, CacheConfig())
    with pytest.raises(limbeck.LimbeckError, match="inputs of one size"):
        layout.pack(Outputs(features={"mid": torch.zeros(4, 3)}), 4)


@pytest.mark.parametrize(
    ("logits", "format", "says"),
    [
        (torch.full((4, 2), 1e6), {}, "at most 65504 for float16, got 1e.06"),
        (torch.full((4, 2), torch.nan), {"dtype": "float32"}, "must be finite"),
    ],
)
def test_what_cannot_be_written_is_refused(logits, format, says):
    with pytest.raises(limbeck.LimbeckError, match=says):
        round_trip(Outputs(logits=logits), **format)


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
    layout = RecordLayout.from_outputs(Outputs(logits=torch.randn(4, classes)), 4, CacheConfig(**format))
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


def test_another_view_of_an_image_has_another_checksum():
    images = torch.rand(64, 3, 32, 32)
    assert checksums_match(input_checksum(images), input_checksum(images * (1 + 1e-6))).all()
    for changed in (
        images.flip(3),
        images.roll(1, 2),
        images.roll(1, 0),
        images + 0.05 * (1 + torch.rand(64, 1, 1, 1)),
    ):
        assert not checksums_match(input_checksum(images), input_checksum(changed)).any()


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
    outputs = Outputs(logits=torch.tensor([[3.0, 1.0, 2.0]]))
    raw = RecordLayout.from_outputs(outputs, 1, CacheConfig(top_k=1)).pack(outputs, 1)
    assert raw[0, :2].view(np.float16)[0] == 3.0
    assert raw[0, 2:4].view(np.uint16)[0] == 0
    assert raw[0, 4:].copy().view(np.float32)[0] == pytest.approx(np.log(np.e + np.e**2), rel=1e-6)
