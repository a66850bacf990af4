"""The doors for a user's own data: tensors, map-style data sets, loaders; normalization; the fingerprint."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import limbeck.data
from limbeck.core.errors import LimbeckError
from limbeck.data import (
    Augmentation,
    Normalization,
    Split,
    from_datasets,
    from_loaders,
    from_tensors,
    horizontal_flip,
    random_crop,
)
from limbeck.data.split import InMemory

PIXELS = torch.arange(80 * 2 * 3 * 3, dtype=torch.float32).reshape(80, 2, 3, 3) / (80 * 18)
LABELS = torch.arange(80) % 4


class Own(Dataset):
    """A map-style data set of (input, class) with nothing else."""

    def __init__(self, inputs=PIXELS, labels=LABELS):
        self.inputs, self.labels = inputs, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.inputs[i], int(self.labels[i])


def everything(piece):
    return piece.read(torch.arange(len(piece)))


# arrays


def test_arrays_cuts_three_parts_and_names_the_classes():
    data = from_tensors(PIXELS, LABELS, val_split=0.25, test_split=0.1, seed=3)
    assert (len(data.train), len(data.validation), len(data.test)) == (54, 18, 8)
    assert (data.class_names, data.input_shape, data.num_labeled, data.seed) == (("0", "1", "2", "3"), (2, 3, 3), 54, 3)
    assert torch.equal(everything(data.train), PIXELS[data.train.sample_ids])
    assert torch.equal(data.train.target, LABELS[data.train.sample_ids])


def test_arrays_takes_bytes_as_0_to_255():
    inputs = torch.randint(0, 256, (40, 1, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = from_tensors(inputs, torch.arange(40) % 2)
    expected = inputs.numpy()[data.train.sample_ids.numpy()] / np.float32(255)
    np.testing.assert_array_equal(everything(data.train).numpy(), expected)


def test_arrays_takes_features_that_are_no_images():
    data = from_tensors(torch.randn(50, 7) * 30, torch.arange(50) % 2)
    batch = data.batches(batch_size=10).batch(0)
    assert batch["input"].shape == (10, 7)
    whole = torch.cat([b["input"] for b in (data.batches(batch_size=8).batch(i) for i in range(4))]).double()
    assert whole.mean(0).abs().max() < 1e-4
    assert (whole.std(0) - 1).abs().max() < 1e-4


def test_arrays_hides_labels_and_streams_the_labelled():
    data = from_tensors(PIXELS, LABELS, num_labeled=8)
    assert (data.num_labeled, len(data.train)) == (8, 51)
    assert set(data.batches(batch_size=51).batch(0)["target"].tolist()) == {-100, 0, 1, 2, 3}
    labelled = data.batches(batch_size=8, subset="labeled").batch(0)
    assert sorted(labelled["target"].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(LimbeckError, match="`subset` must be all or labeled, got 'labelled'"):
        data.batches(batch_size=8, subset="labelled")


def test_validation_batches_are_in_order_whole_and_without_views():
    data = from_tensors(PIXELS, LABELS, augment=Augmentation((random_crop(1), horizontal_flip())))
    batches = list(data.validation_batches(batch_size=5))
    assert [len(batch["sample_id"]) for batch in batches] == [5, 5, 3]
    assert torch.equal(torch.cat([b["sample_id"] for b in batches]), data.validation.sample_ids)
    expected = data.normalization.apply(PIXELS[data.validation.sample_ids])
    assert torch.equal(torch.cat([b["input"] for b in batches]), expected)
    assert torch.equal(torch.cat([b["target"] for b in batches]), LABELS[data.validation.sample_ids])


@pytest.mark.parametrize(
    ("target", "settings", "message"),
    [
        (LABELS[:-1], {}, r"labels must be \[80\], one class index per image, got \[79\]"),
        (LABELS.reshape(80, 1), {}, r"labels in rows must be one-hot, got \[0\] in row 0"),
        (LABELS, {"class_names": ["a", "b"]}, "labels of arrays must be from 0 to 1, or -100 for none, got 2"),
        (LABELS - 1, {}, "labels of arrays must be .*, got -1"),
        (LABELS, {"normalize": "imagnet"}, "must be data, imagenet, none, got 'imagnet'"),
        (LABELS, {"test_split": 0.0}, "a split must be a fraction between 0 and 1, got 0"),
        (LABELS, {"val_split": 1}, "a split must be a fraction between 0 and 1, got 1"),
        (LABELS, {"num_labeled": 3}, "`num_labeled` .* from 4"),
    ],
)
def test_arrays_refuses_what_cannot_be(target, settings, message):
    with pytest.raises(LimbeckError, match=message):
        from_tensors(PIXELS, target, **settings)


def test_arrays_refuses_no_sample_at_all():
    with pytest.raises(LimbeckError, match="a data set must have samples"):
        from_tensors(torch.rand(0, 1, 2, 2), torch.zeros(0))


def test_arrays_refuses_views_of_pixels_they_would_clip():
    with pytest.raises(LimbeckError, match=r"inputs must be uint8 or in 0\.\.1 .* from 0 to 254\.8"):
        from_tensors(PIXELS * 255, LABELS, augment=Augmentation((horizontal_flip(),)))
    from_tensors(PIXELS, LABELS, augment=Augmentation((horizontal_flip(),)))
    from_tensors((PIXELS * 255).byte(), LABELS, augment=Augmentation((horizontal_flip(),)))


# datasets


def test_datasets_reads_a_users_own():
    data = from_datasets(Own(), class_names=["a", "b", "c", "d"], name="mine")
    assert (len(data.train), len(data.validation), len(data.test)) == (51, 13, 16)
    assert (data.name, data.class_names) == ("mine", ("a", "b", "c", "d"))
    batch = data.batches(batch_size=16).batch(0)
    assert torch.equal(batch["input"], PIXELS[batch["sample_id"]])  # their transforms are theirs: nothing is taken off
    assert torch.equal(batch["target"], LABELS[batch["sample_id"]])


def test_datasets_takes_the_parts_that_are_given():
    test, validation = Own(PIXELS[:10], LABELS[:10]), Own(PIXELS[10:30], LABELS[10:30])
    data = from_datasets(Own(PIXELS[30:], LABELS[30:]), validation, test)
    assert (len(data.train), len(data.validation), len(data.test)) == (50, 20, 10)
    test_split = data.test.unlock("weights")
    assert torch.equal(everything(data.validation), PIXELS[10:30])
    assert torch.equal(everything(test_split), PIXELS[:10])
    # A number names one sample for ever, so no two samples of any parts share one.
    numbers = torch.cat([part.sample_ids for part in (data.train, data.validation, test_split)])
    assert len(numbers.unique()) == 80


def test_datasets_takes_tensor_datasets_and_known_targets():
    class Known(Own):
        def __init__(self):
            super().__init__()
            self.targets, self.num_calls = LABELS.tolist(), 0

        def __getitem__(self, i):
            self.num_calls += 1
            return super().__getitem__(i)

    known = Known()
    assert torch.equal(from_datasets(known).train.target, from_datasets(TensorDataset(PIXELS, LABELS)).train.target)
    # Labels that are known are not looked for image by image; 32 images are read twice to see whether they are random,
    # and one for its layout.
    assert known.num_calls <= 66


def test_datasets_asks_a_target_transform_too():
    class Turned(Own):
        targets = LABELS

        def target_transform(self, label):
            return 3 - int(label)

    data = from_datasets(Turned())
    assert torch.equal(data.train.target, 3 - LABELS[data.train.sample_ids])


def test_datasets_takes_bytes_as_0_to_255():
    data = from_datasets(Own((PIXELS * 255).byte(), LABELS))
    assert everything(data.train).max() <= 1


def test_datasets_says_what_it_cannot_read():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([])

    class ImageDataset(Own):
        def __getitem__(self, i):
            return Image.new("RGB", (4, 4)), int(LABELS[i])

    class Sizes(Own):
        def __getitem__(self, i):
            return torch.zeros(1, 2 + i % 2, 2), int(LABELS[i])

    with pytest.raises(LimbeckError, match="a data set must be map-style"):
        from_datasets(Stream())
    with pytest.raises(LimbeckError, match=r"must be tensors, got a Image in sample 0: .* ToTensor"):
        from_datasets(ImageDataset())
    with pytest.raises(LimbeckError, match="must have one shape"):
        from_datasets(Sizes()).batches(batch_size=40).batch(0)


# loaders


def test_loaders_gives_what_they_give():
    train = DataLoader(TensorDataset(PIXELS, LABELS), batch_size=32)
    data = from_loaders(train, [("a", 1), ("b", 2)])
    stream = data.batches(batch_size=7)
    assert stream.steps_per_epoch == 3
    assert torch.equal(stream.batch(4)[0], PIXELS[32:64])
    assert list(data.validation_batches()) == [("a", 1), ("b", 2)]
    assert list(data.validation_batches()) == [("a", 1), ("b", 2)]
    assert list(from_loaders(train).validation_batches()) == []


def test_loaders_do_not_know_which_images_are_labeled():
    with pytest.raises(LimbeckError, match="must be 'all' with your own loader, got 'labeled'"):
        from_loaders([1]).batches(batch_size=1, subset="labeled")


# Normalization


def test_normalisation_is_measured_by_channel():
    inputs = (
        torch.rand(300, 3, 5, 4, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 0.5, 0.1])[:, None, None]
    )
    normalization = Normalization.from_split(Split.from_images(InMemory(inputs), torch.zeros(300)))
    pixels = inputs.double().numpy()
    np.testing.assert_allclose(normalization.mean, pixels.mean(axis=(0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(normalization.std, pixels.std(axis=(0, 2, 3), ddof=1), atol=1e-6)
    np.testing.assert_allclose(
        normalization.apply(inputs).numpy(),
        (pixels - np.reshape(normalization.mean, (3, 1, 1))) / np.reshape(normalization.std, (3, 1, 1)),
        atol=1e-5,
    )


@pytest.mark.parametrize("many", [99, 100, 101, 150, 199, 200, 1000])
def test_normalisation_is_measured_over_samples_of_the_whole_part(many):
    # Folders are read class by class, so the first samples would be of the first classes only.
    part = Split.from_images(InMemory((torch.arange(many) * 2 >= many).float().reshape(-1, 1, 1, 1)), torch.zeros(many))
    assert Normalization.from_split(part, max_samples=100).mean[0] == pytest.approx(0.5, abs=0.011)


def test_a_constant_channel_is_not_divided_by_zero():
    part = Split.from_images(InMemory(torch.full((10, 1, 2, 2), 0.25)), torch.zeros(10))
    normalization = Normalization.from_split(part)
    assert (normalization.mean, normalization.std) == ((0.25,), (0.001,))
    assert torch.isfinite(normalization.apply(part.read(torch.arange(10)))).all()
    one = Normalization.from_split(Split.from_images(InMemory(torch.ones(1, 3)), torch.zeros(1)))
    assert one.std == (0.001,) * 3


def test_normalisation_of_imagenet_and_none_have_the_images_channels():
    assert Normalization.imagenet(3).mean == (0.485, 0.456, 0.406)
    assert Normalization.imagenet(1).std == (0.226,)
    grey = torch.rand(4, 1, 2, 2)
    assert torch.equal(Normalization.none(1).apply(grey), grey)
    assert from_tensors(PIXELS, LABELS, normalize="imagenet").normalization == Normalization.imagenet(2)


# Fingerprint


def test_the_fingerprint_changes_with_a_pixel_a_label_and_a_split():
    pixel, label, hidden = PIXELS.clone(), LABELS.clone(), from_tensors(PIXELS, LABELS, num_labeled=8)
    pixel[40, 1, 2, 2] += 0.001
    label[[40, 41]] = label[[41, 40]]
    result = [
        from_tensors(PIXELS, LABELS),
        from_tensors(pixel, LABELS),
        from_tensors(PIXELS, label),
        from_tensors(PIXELS, LABELS, seed=1),
        from_tensors(PIXELS, LABELS, val_split=0.25),
        from_tensors(PIXELS, LABELS, test_split=0.25),
        from_tensors(PIXELS, LABELS, class_names=["a", "b", "c", "d"]),
        from_tensors(PIXELS.reshape(80, 2, 9, 1), LABELS),
        hidden,
    ]
    assert len({data.fingerprint() for data in result}) == len(result)


def test_the_fingerprint_does_not_change_with_what_does_not_change_the_data():
    plain = from_tensors(PIXELS, LABELS).fingerprint()
    assert (
        plain
        == from_tensors(
            PIXELS.clone(), LABELS.clone(), augment=Augmentation((horizontal_flip(),)), normalize="none"
        ).fingerprint()
    )
    used = from_tensors(PIXELS, LABELS)
    used.batches(batch_size=4).batch(0)
    used.test.unlock("weights")
    assert used.fingerprint() == plain


@pytest.mark.parametrize("which", ["validation", "test"])
def test_the_fingerprint_sees_parts_that_stand_apart(which):
    def data(**changed):
        pieces = {
            name: Split.from_images(InMemory(PIXELS[:20]), LABELS[:20], first_id=at) for name, at in _APART.items()
        }
        return limbeck.data.module.make_splits(
            "mine", "abcd", pieces["train"], seed=0, validation=changed.get("validation", pieces["validation"]),
            test=changed.get("test", pieces["test"]), num_labeled=None, num_samples=None, augment=Augmentation(),
            normalize="none",
        )  # fmt: skip

    plain, at = data().fingerprint(), _APART[which]
    assert plain == data().fingerprint()
    assert plain != data(**{which: Split.from_images(InMemory(PIXELS[1:21]), LABELS[:20], first_id=at)}).fingerprint()
    assert plain != data(**{which: Split.from_images(InMemory(PIXELS[:20]), LABELS[1:21], first_id=at)}).fingerprint()


_APART = {"train": 0, "validation": 20, "test": 40}


def test_the_fingerprint_does_not_change_with_the_process():
    code = (
        "import torch; from limbeck.data import from_tensors; t = torch.arange(60);"
        "print(from_tensors(t.reshape(60, 1, 1, 1) / 60, t % 3, num_labeled=9, seed=2).fingerprint())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "123"}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    t = torch.arange(60)
    assert output.strip() == from_tensors(t.reshape(60, 1, 1, 1) / 60, t % 3, num_labeled=9, seed=2).fingerprint()
