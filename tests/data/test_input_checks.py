"""What a user's tensors, data sets and loaders may not contain: each is one sentence with the sample's number."""

from __future__ import annotations

import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder as TorchvisionImageFolder
from torchvision.transforms import ToTensor

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.data import (
    Augmentation,
    InMemory,
    SequenceStore,
    Split,
    from_datasets,
    from_loaders,
    from_tensors,
    make_splits,
)
from limbeck.data.audio_files import read_wav
from limbeck.data.image_files import ImageFiles, open_image
from limbeck.data.mask_store import open_mask
from limbeck.data.sources.fashion_mnist import _read_idx
from limbeck.data.transforms import horizontal_flip
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.tasks import Classification, TextClassification
from limbeck.teachers.masked import load_sample_mask
from limbeck.training import TrainingConfig

IMAGES, LABELS = torch.rand(40, 1, 8, 8), torch.arange(40) % 2


def with_value(value, index=7):
    images = IMAGES.clone()
    images[index, 0, 3, 3] = value
    return images


def fit(data, *, network=None, teacher=None, objective=None, lr=0.01, **settings):
    torch.manual_seed(0)
    network = network or nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    distiller = limbeck.Distiller(
        network, teacher, objective=objective or {"target": CrossEntropyLoss()}, task=Classification(2)
    )
    config = TrainingConfig(optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=lr), batch_size=8)
    return limbeck.fit(distiller, data, epochs=1, training=config, callbacks=[], **settings)


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_an_input_that_is_not_finite_is_named(value, kind):
    images = with_value(value)
    with pytest.raises(LimbeckError, match=rf"must be finite, got {kind} in sample 7 \(training split of arrays"):
        from_tensors(images, LABELS)
    with pytest.raises(LimbeckError, match=rf"got {kind} in sample 7 of the data set \(TensorDataset\)"):
        from_datasets(TensorDataset(images, LABELS), TensorDataset(images, LABELS), TensorDataset(images, LABELS))
    with pytest.raises(LimbeckError, match=rf"got {kind} in sequence 1 of frames"):
        SequenceStore({"frames": [torch.zeros(3, 2), torch.full((2, 2), value)]})


def test_an_input_that_is_not_finite_in_a_loader_is_named():
    good, bad = (DataLoader(TensorDataset(x, LABELS), batch_size=8) for x in (IMAGES, with_value(torch.nan, 13)))
    with pytest.raises(LimbeckError, match="got NaN in sample 5 of batch 1 of the training loader"):
        fit(from_loaders(bad, good))
    with pytest.raises(LimbeckError, match="got NaN in sample 5 of batch 1 of the validation loader"):
        fit(from_loaders(good, bad))


def test_large_finite_inputs_are_not_refused():
    images = torch.full((40, 1, 8, 8), -1e38)
    assert len(from_tensors(images, LABELS, normalize="none").train)


class Broken(torch.utils.data.Dataset):
    """A data set whose sample 23 raises."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        if index == 23:
            raise ValueError("bad header")
        return IMAGES[index], int(LABELS[index])


def test_a_data_set_that_raises_is_named_with_the_sample():
    message = r"sample 23 of the data set \(Broken\) could not be read \(ValueError: bad header\)"
    with pytest.raises(LimbeckError, match=message):
        from_datasets(Broken())
    with pytest.raises(LimbeckError, match=message):
        from_datasets(Broken(), collate_fn=torch.utils.data.default_collate).train.read(torch.tensor([22, 23]))
    good = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)
    for loaders in ((DataLoader(Broken(), batch_size=8), good), (good, DataLoader(Broken(), batch_size=8))):
        with pytest.raises(LimbeckError, match=message):
            fit(from_loaders(*loaders))


def test_the_search_for_the_sample_of_a_failed_batch_is_limited(monkeypatch):
    monkeypatch.setattr("limbeck.data.loader_adapter._MAX_SEARCH_SECONDS", -1.0)
    indices = []

    class Uneven(torch.utils.data.Dataset):
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            indices.append(index)
            return torch.zeros(1, 4 + index), 0

    with pytest.raises(LimbeckError, match=r"batch 0 of a loader could not be read \(RuntimeError: stack expects"):
        fit(from_loaders(DataLoader(Uneven(), batch_size=8)))
    assert len(indices) == 8


@pytest.mark.parametrize("key", ["input", "pixel_values"])
def test_an_input_of_collate_fn_that_is_not_finite_is_named(key):
    def collate(items):
        images, labels = torch.utils.data.default_collate(items)
        return {key: images, "labels": labels}

    data = from_datasets(TensorDataset(with_value(torch.nan), LABELS), collate_fn=collate)
    with pytest.raises(LimbeckError, match="must be finite, got NaN in sample 7 of the data set"):
        data.train.images.read_batch(torch.tensor([6, 7]))


def test_an_input_that_is_not_finite_is_named_before_its_range():
    with pytest.raises(LimbeckError, match="must be finite, got NaN in sample 7"):
        from_tensors(with_value(torch.nan), LABELS, augment=Augmentation([horizontal_flip()]))
    with pytest.raises(
        LimbeckError, match=r"uint8 or in 0\.\.1 for augmentation, got floats from .* to 1\.5: scale them"
    ):
        from_tensors(with_value(1.5), LABELS, augment=Augmentation([horizontal_flip()]))


def test_a_collate_fn_that_raises_is_named_with_the_samples():
    data = from_datasets(TensorDataset(IMAGES, LABELS), collate_fn=lambda items: {"input": items[0][5]})
    with pytest.raises(LimbeckError, match=r"collate_fn failed on the samples \[0, 1\] \(IndexError"):
        data.train.images.read_batch(torch.tensor([0, 1]))


def test_items_are_mappings_too_and_need_a_target():
    data = from_datasets([{"pixel_values": image, "label": int(y)} for image, y in zip(IMAGES, LABELS, strict=True)])
    assert torch.equal(data.train.read(torch.tensor([0])), IMAGES[data.train.sample_ids[:1]])
    with pytest.raises(LimbeckError, match=r"an item of a data set must be \(input, target\), got no target"):
        from_datasets(list(IMAGES))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.rand(40, 8, 8, 3), r"must be \[n, channels, height, width\], got \[40, 8, 8, 3\]: permute"),
        (torch.zeros(40, 8, 8, dtype=torch.uint8), r"got \[40, 8, 8\]: unsqueeze\(1\)"),
        (
            (85 * torch.arange(40 * 3 * 64) % 256).reshape(40, 3, 8, 8).float(),
            r"float images must be in 0\.\.1, got 0 to 25[0-5]: divide by 255",
        ),
        ((torch.arange(40 * 64) % 17).reshape(40, 1, 8, 8).float(), r"got 0 to 16: divide by 16"),
        (torch.randint(0, 100, (40, 12)), r"floats, or uint8 .* got int64: .* token ids are sequences"),
    ],
)
def test_images_in_another_layout_or_range_and_token_ids_are_refused(inputs, message):
    with pytest.raises(LimbeckError, match=message):
        from_tensors(inputs, LABELS)
    if inputs.ndim > 3:
        with pytest.raises(LimbeckError, match=message.replace("40,", ".*")):
            from_datasets(TensorDataset(inputs, LABELS))
        with pytest.raises(LimbeckError, match=message.replace("40,", ".*")):
            fit(from_loaders(DataLoader(TensorDataset(inputs, LABELS), batch_size=8)))


def test_float_images_with_fractions_above_two_are_a_warning_and_normalized_ones_are_fine():
    with pytest.warns(UserWarning, match=r"float images must be in 0\.\.1, got .* divide by their maximum"):
        from_tensors(torch.rand(40, 3, 8, 8) * 255, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_tensors(torch.randn(40, 3, 8, 8) * 3, LABELS)
        from_tensors(torch.rand(40, 64, 3, 3) * 9, LABELS)


def test_class_names_of_torchvisions_folders_are_kept(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.new("RGB", (4, 4), (i, i, i)).save(tmp_path / name / f"{i}.png")
    folder = TorchvisionImageFolder(tmp_path, ToTensor())
    assert from_datasets(folder).class_names == ("ant", "bee")
    assert from_datasets(torch.utils.data.Subset(folder, range(10))).class_names == ("ant", "bee")
    assert from_datasets(folder, class_names=["x", "y"]).class_names == ("x", "y")
    other = TorchvisionImageFolder(tmp_path, ToTensor())
    other.classes = ["bee", "cat"]
    with pytest.raises(LimbeckError, match="`test` must have the classes of `train`, got bee, cat and ant, bee"):
        from_datasets(folder, folder, other)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([[2.0, -1.0]]), "probabilities must not be negative, got -1"),
        (torch.tensor([[1, 1]]), "must sum to 1, or to 0 for no label, got 2"),
        (torch.tensor([[torch.nan, 1.0]]), "must sum to 1, or to 0 for no label, got nan"),
        (torch.tensor([[1.0]]), r"class indices \[batch\] or probabilities \[batch, 2\], got \[1, 1\]"),
        (torch.tensor([0.5]), "labels must be class indices, got float32"),
        (["cat"], "a target must be a tensor of class indices or probabilities, got a list"),
    ],
)
def test_targets_that_are_no_class_and_no_probabilities_are_refused(target, message):
    with pytest.raises(LimbeckError, match=message):
        Classification(2).target((torch.zeros(1, 1), target))


def test_a_target_of_text_classification_that_is_no_tensor_is_refused():
    with pytest.raises(LimbeckError, match="a target must be a tensor of class indices or probabilities, got a list"):
        TextClassification(classes=2).target((torch.zeros(1, 1), ["cat"]))


def test_one_hot_rows_of_integers_are_a_target():
    assert Classification(2).target((0, torch.tensor([[0, 1]]))).tolist() == [[0, 1]]


def test_names_as_targets_of_a_loader_are_refused():
    items = [(image, "ab"[int(y)]) for image, y in zip(IMAGES, LABELS, strict=True)]
    with pytest.raises(LimbeckError, match=r"target of batch 0 of the training loader must be class indices, .* 'a'"):
        fit(from_loaders(DataLoader(items, batch_size=8)))
    assert from_datasets(items).class_names == ("a", "b")


def test_labels_of_one_class_are_a_warning():
    with pytest.warns(UserWarning, match=r"all 26 labels of the training split of arrays are of one class \(b\)"):
        from_tensors(IMAGES, torch.ones(40, dtype=torch.long), class_names=["a", "b"])
    loader = DataLoader(TensorDataset(IMAGES, torch.ones(40, dtype=torch.long)), batch_size=8)
    with pytest.warns(UserWarning, match="all labels of the training loader are of the class 1"):
        fit(from_loaders(loader))


def test_a_training_without_labels_is_refused_or_a_warning():
    unlabeled = torch.full((40,), -100)
    with pytest.raises(LimbeckError, match="a split by fraction must have labeled samples, got none"):
        from_tensors(IMAGES, unlabeled, class_names=["a", "b"])
    train, labeled = (Split.from_images(InMemory(IMAGES), target) for target in (unlabeled, LABELS))
    data = make_splits("x", "ab", train, seed=0, validation=labeled, test=labeled)
    with pytest.raises(LimbeckError, match="the loss 'target' compares with labels, and no training sample has one"):
        fit(data)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert fit(data, teacher=teacher, objective={"kd": KDLoss()}).steps == 5
    with pytest.raises(LimbeckError, match="the validation split of x must have labeled samples, got 40 without"):
        make_splits("x", "ab", labeled, seed=0, validation=train, test=labeled)
    with pytest.warns(UserWarning, match="no sample of the training loader has a label"):
        fit(from_loaders(DataLoader(TensorDataset(IMAGES, unlabeled), batch_size=8)))


def test_a_loss_that_diverges_is_a_warning():
    data = from_tensors(IMAGES, LABELS)
    with pytest.warns(UserWarning, match=r"distilled: the loss 'target' rose from .* so the training diverges: lower"):
        run = fit(data, lr=1e6)
    assert len(run.warnings) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(data).warnings == []


def test_probabilities_in_place_of_logits_are_refused():
    data = from_tensors(IMAGES, LABELS)
    softmax = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Softmax(dim=1))
    with pytest.raises(LimbeckError, match=r"the student must return logits, got probabilities .* remove its softmax"):
        fit(data, network=softmax)
    with pytest.raises(LimbeckError, match="the teacher 'teacher' must return logits, got probabilities"):
        fit(data, teacher=softmax, objective={"kd": KDLoss()})


# Headers that ask for more than the file has


def test_a_numpy_header_that_asks_for_terabytes_allocates_nothing(tmp_path):
    path = tmp_path / "mask.npy"
    np.save(path, np.zeros(3, bool))
    path.write_bytes(path.read_bytes().replace(b"(3,), }" + b" " * 14, b"(99999999999999,), }" + b" "))
    assert b"99999999999999" in path.read_bytes()
    with pytest.raises(LimbeckError, match="cannot be read as a mask"):
        load_sample_mask(path)


def test_a_wav_header_that_asks_for_gigabytes_allocates_nothing(tmp_path):
    path = tmp_path / "clip.wav"
    header = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16) + b"data" + struct.pack("<I", 2**31)
    path.write_bytes(b"RIFF" + struct.pack("<I", 2**31 + 36) + header + b"\0\0" * 8)
    samples, rate = read_wav(path)
    assert (rate, len(samples) <= 30) == (8000, True)


def test_an_idx_header_that_asks_for_terabytes_allocates_nothing(tmp_path):
    (tmp_path / "images").write_bytes(struct.pack(">HBBIII", 0, 8, 3, 2**31, 2**10, 2**10))
    with pytest.raises(LimbeckError, match=r"is not a complete IDX file .*asks for 2251799813685248 bytes"):
        _read_idx(tmp_path, "images")


def test_an_image_that_becomes_gigabytes_is_refused(tmp_path):
    Image.new("L", (60_000, 1)).save(tmp_path / "line.png")
    with pytest.raises(LimbeckError, match=r"line\.png must have sides of similar length, got 60000x1"):
        ImageFiles((tmp_path / "line.png",), 224, 1).read(torch.tensor([0]))
    Image.new("1", (20_000, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(LimbeckError, match=r"large\.png cannot be read \(Image size \(200000000 pixels\) exceeds"):
        ImageFiles((tmp_path / "large.png",), 8, 1).read(torch.tensor([0]))


@pytest.mark.parametrize("read", [lambda path: open_image(path, 3), open_mask], ids=["image", "mask"])
def test_postscript_is_not_run(tmp_path, read):
    """PIL decodes it by Ghostscript, another program, whatever the name of the file."""
    path = tmp_path / "a.png"
    Image.new("L", (4, 4)).save(path, "EPS")
    with pytest.raises(LimbeckError, match=r"a\.png cannot be read \(it is PostScript\): replace or remove it"):
        read(path)
