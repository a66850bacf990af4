"""Training images without a label from a folder, for every source of images; they are in training only."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.core.errors import LimbeckError
from limbeck.data import (
    CIFAR10,
    Augmentation,
    Digits,
    FashionMNIST,
    ImageFolder,
    InMemory,
    SegmentationFolder,
    Split,
    from_tensors,
    horizontal_flip,
)
from limbeck.data.sources.lookup import DataNotFoundError, no_downloads
from limbeck.data.split import UNLABELED, stratified_split

SHAPES = {"a.png": (9, 9), "deep/b.jpg": (12, 20), "deep/deeper/c.PNG": (7, 7)}


def write(path, height=8, width=8, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlabeled")
    for seed, (name, shape) in enumerate(SHAPES.items()):
        write(folder / name, *shape, seed=500 + seed)
    (folder / "deep" / "notes.txt").write_text("no image")
    return folder


def write_classes(root, classes="ab", count=10, offset=0):
    for label, name in enumerate(classes):
        for i in range(count):
            write(root / name / f"{i}.png", seed=offset + 1000 * label + i)
    return root


def write_masks(root):
    for i in range(12):
        write(root / "train" / f"{i}.png", seed=i)
        (root / "trainannot").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), i % 2, np.uint8)).save(root / "trainannot" / f"{i}.png")
    return root


def make_source(kind, root, unlabeled):
    if kind == "Digits":
        return Digits(unlabeled=unlabeled)
    if kind == "ImageFolder":
        return ImageFolder(root=str(write_classes(root)), unlabeled=unlabeled)
    if kind == "CIFAR10":
        for split in ("train", "test"):
            write_classes(root / split, "abcdefghij", 3, offset=0 if split == "train" else 50)
        return CIFAR10(root=str(root), val_split=0.4, unlabeled=unlabeled)
    return SegmentationFolder(root=str(write_masks(root)), classes=("x", "y"), unlabeled=unlabeled)


@pytest.mark.parametrize("kind", ["Digits", "ImageFolder", "CIFAR10", "SegmentationFolder"])
def test_unlabeled_images_are_in_training_only(kind, tmp_path, unlabeled):
    source = make_source(kind, tmp_path / "data", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = source.load(seed=0)
        data = type(source)(**{n: getattr(source, n) for n in source.__dataclass_fields__}
                            | {"unlabeled": str(unlabeled)}).load(seed=0)  # fmt: skip
    num_labeled = len(before.train)
    assert len(data.train) == num_labeled + 3
    assert data.train.target[num_labeled:].tolist() == [UNLABELED] * 3
    assert torch.equal(data.train.read(torch.arange(num_labeled)), before.train.read(torch.arange(num_labeled)))
    assert data.train.read(torch.arange(len(data.train))).shape[1:] == before.input_shape
    assert (len(data.validation), len(data.test)) == (len(before.validation), len(before.test))
    assert data.normalization == before.normalization
    assert data.num_labeled == num_labeled
    splits = [data.train, data.validation, data.test.unlock("test")]
    ids = torch.cat([split.sample_ids for split in splits])
    assert len(ids.unique()) == len(ids)
    assert data.fingerprint() != before.fingerprint()
    batch = data.batches(batch_size=num_labeled + 3).batch(0)
    is_unlabeled = batch["target"].flatten(1).eq(UNLABELED).all(1) if batch["target"].ndim > 1 else batch["target"] < 0
    assert int(is_unlabeled.sum()) == 3


def test_fashion_mnist_takes_unlabeled_images(tmp_path, unlabeled):
    for name, count in (("train", 30), ("t10k", 10)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = b"\0\0\x08\x03" + np.array([count, 28, 28], ">u4").tobytes()
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + np.array([count], ">u4").tobytes() + labels.tobytes()
        )
    data = FashionMNIST(root=str(tmp_path), val_split=0.4, unlabeled=str(unlabeled)).load()
    assert (len(data.train), data.num_labeled, data.input_shape) == (21, 18, (1, 28, 28))


def test_unlabeled_images_are_augmented_and_pixels_are_those_of_the_files(tmp_path, unlabeled):
    write_classes(tmp_path)
    for cache_mb in (1024, 0):
        data = ImageFolder(
            root=str(tmp_path), unlabeled=str(unlabeled), cache_mb=cache_mb, normalize="none",
            augment=Augmentation((horizontal_flip(),)),
        ).load()  # fmt: skip
        expected = np.asarray(Image.open(unlabeled / "deep/deeper/c.PNG").resize((8, 8), Image.Resampling.BILINEAR))
        image = data.train.read(torch.tensor([len(data.train) - 1]))[0]
        assert torch.allclose(image, torch.from_numpy(expected.copy()).permute(2, 0, 1) / 255)
        batch = data.batches(batch_size=len(data.train)).batch(0)
        assert batch["input"].shape[0] == len(data.train)


def test_a_folder_in_root_is_not_a_class(tmp_path):
    write_classes(tmp_path)
    write(tmp_path / "unlabeled" / "x" / "1.png", seed=900)
    with pytest.raises(LimbeckError, match=r"unlabeled would be a class named 'unlabeled': set data\.unlabeled"):
        ImageFolder(root=str(tmp_path)).load()
    data = ImageFolder(root=str(tmp_path), unlabeled="unlabeled").load()
    assert (data.class_names, len(data.train) - data.num_labeled) == (("a", "b"), 1)
    named = ImageFolder(root=str(tmp_path), classes=("a", "unlabeled"))
    with pytest.warns(UserWarning, match="no .* image is of the class 'unlabeled'"):
        assert named.load().class_names == ("a", "unlabeled")


def test_loose_images_and_folders_of_no_split_are_reported(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test", offset=100)
    write(tmp_path / "train" / "loose.png", seed=700)
    write(tmp_path / "extra" / "1.png", seed=701)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ImageFolder(root=str(tmp_path)).load()
    texts = [str(warning.message) for warning in caught]
    assert any("1 images in" in text and "loose.png" in text and "are in no class folder" in text for text in texts)
    assert any("extra are in no split and are not used: set data.unlabeled" in text for text in texts)
    assert len(texts) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / "train" / "loose.png").unlink()
        assert len(ImageFolder(root=str(tmp_path), unlabeled="extra").load().train) == 17


def test_labeled_images_are_refused_and_copies_of_test_images_are_a_warning(tmp_path, unlabeled):
    write_classes(tmp_path / "data" / "train")
    write_classes(tmp_path / "data" / "test", offset=100)
    for folder in ("train", "test", "test/a", "."):
        with pytest.raises(LimbeckError, match=r"must have no labeled image, got .* of the (training|test)"):
            ImageFolder(root=str(tmp_path / "data"), unlabeled=folder).load()
    copy = tmp_path / "more" / "copy.png"
    copy.parent.mkdir()
    copy.write_bytes((tmp_path / "data" / "test" / "b" / "3.png").read_bytes())
    with pytest.warns(UserWarning, match=r"copy\.png is the same image as .*3\.png"):
        ImageFolder(root=str(tmp_path / "data"), unlabeled=str(copy.parent)).load()


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_missing_or_empty_folder_is_one_sentence(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(LimbeckError, match=r"data\.unlabeled must"):
        Digits(unlabeled=str(tmp_path / name)).load()


def test_samples_without_a_label_stay_in_training():
    target = torch.arange(60) % 3
    target[::2] = UNLABELED
    data = from_tensors(torch.rand(60, 1, 4, 4), target)
    assert (len(data.train), data.num_labeled) == (49, 19)
    for split in (data.validation, data.test.unlock("test")):
        assert (split.target != UNLABELED).all()


def test_samples_without_a_label_of_a_held_out_group_are_in_no_split():
    target = torch.arange(40) % 2
    target[30:] = UNLABELED
    split = Split.from_images(InMemory(torch.zeros(40, 1)), target, groups=torch.arange(40) % 5)
    with pytest.warns(UserWarning, match="2 samples without a label are not used: their groups"):
        remainder, fraction = stratified_split(split, 0.2, seed=0)
    assert set(remainder.groups.tolist()).isdisjoint(fraction.groups.tolist())
    assert (fraction.target != UNLABELED).all()
    assert len(remainder) + len(fraction) == 38


def test_missing_data_are_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    with no_downloads(), pytest.raises(DataNotFoundError, match="CIFAR10 was not found"):
        CIFAR10(root=str(tmp_path)).load()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        ImageFolder(root=str(tmp_path / "nowhere")).load()
