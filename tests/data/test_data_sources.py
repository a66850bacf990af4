"""Public sources: the counts, shapes and layouts people have, and one sentence where there is nothing to read."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.core.errors import LimbeckError
from limbeck.data import CIFAR10, CIFAR100, Digits, FashionMNIST, Normalization
from limbeck.data.sources import lookup

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
DATA = Path(os.environ.get("LIMBECK_DATA", "nowhere"))
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine with no data set anywhere and no network."""
    import torchvision.datasets as published

    def refuse(*_, **__):
        raise OSError("network is unreachable\nsecond line")

    for name in ("FashionMNIST", "CIFAR10", "CIFAR100"):
        monkeypatch.setattr(published, name, refuse)
    monkeypatch.setattr(lookup, "_DEBIAN_ROOT", tmp_path / "no-debian")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    return monkeypatch


def everything(piece):
    return piece.read(torch.arange(len(piece)))


# Digits


def test_digits_are_1797_images_of_8_by_8():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    data = Digits().load(seed=1)
    assert (len(data.train), len(data.validation), len(data.test)) == (1078, 360, 359)
    assert (data.name, data.input_shape, data.class_names) == ("Digits", (1, 8, 8), tuple("0123456789"))
    number = data.train.sample_ids.numpy()
    np.testing.assert_array_equal(everything(data.train)[:, 0].numpy(), (bunch.images[number] / 16).astype(np.float32))
    np.testing.assert_array_equal(data.train.target.numpy(), bunch.target[number])


def test_digits_are_normalised_by_their_training_part():
    data = Digits().load()
    pixels = everything(data.train).double().numpy()
    assert data.normalization.mean == (pytest.approx(pixels.mean(), abs=1e-6),)
    assert data.normalization.std == (pytest.approx(pixels.std(ddof=1), abs=1e-6),)
    assert Digits(normalize="none").load().normalization == Normalization.none(1)
    assert Digits(normalize="imagenet").load().normalization == Normalization.imagenet(1)


def test_digits_keep_their_settings():
    data = Digits(num_samples=200, num_labeled=30, val_split=0.5, test_split=0.1).load(seed=3)
    assert (len(data.train), data.num_labeled, len(data.validation), len(data.test)) == (200, 30, 808, 180)
    assert torch.bincount(data.train.select_labeled().target).tolist() == [3] * 10


def test_a_misspelt_normalisation_is_refused():
    with pytest.raises(LimbeckError, match="must be data, imagenet, none, got 'dta'"):
        Digits(normalize="dta").load()


# Fashion-MNIST


def write_fashion(folder: Path, *, zipped: bool, many=(40, 10), seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    draw, arrays = np.random.default_rng(seed), {}
    for (images, labels), count in zip((FILES[:2], FILES[2:]), many, strict=True):
        arrays[images] = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[labels] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        raw = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(raw) if zipped else raw)
    return arrays


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fashion_is_read_from_debians_folder(nowhere):
    nowhere.setattr(lookup, "_DEBIAN_ROOT", DEBIAN.parent)
    data = FashionMNIST(num_samples=500, num_labeled=50).load()
    assert (len(data.train), len(data.validation), len(data.test)) == (500, 6000, 10_000)
    assert (data.name, data.input_shape, len(data.class_names), data.num_labeled) == (
        "FashionMNIST",
        (1, 28, 28),
        10,
        50,
    )
    assert torch.bincount(data.validation.target).tolist() == [600] * 10
    whole = everything(data.validation)
    assert whole.double().mean().item() == pytest.approx(0.2860, abs=0.003)  # the published mean and spread
    assert whole.double().std().item() == pytest.approx(0.3530, abs=0.003)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_is_read_from_a_folder_given_and_its_test_part_is_the_official_one(nowhere, tmp_path, zipped, below):
    arrays = write_fashion(tmp_path / "given" / below, zipped=zipped)
    data = FashionMNIST(root=str(tmp_path / "given"), val_split=0.25).load(seed=3)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 10)
    for piece in (data.train, data.validation):
        np.testing.assert_array_equal(
            (everything(piece)[:, 0] * 255).round().byte(), arrays[FILES[0]][piece.sample_ids]
        )
        np.testing.assert_array_equal(piece.target, arrays[FILES[1]][piece.sample_ids])
    test = data.test.unlock("weights")
    np.testing.assert_array_equal((everything(test)[:, 0] * 255).round().byte(), arrays[FILES[2]])
    assert test.sample_ids.tolist() == list(range(40, 50))


def test_a_folder_given_comes_before_the_usual_ones(nowhere, tmp_path):
    write_fashion(tmp_path / "env" / "fashion-mnist", zipped=True, seed=1)
    nowhere.setenv("LIMBECK_DATA", str(tmp_path / "env"))
    arrays = write_fashion(tmp_path / "given", zipped=True, seed=2)
    data = FashionMNIST(root=str(tmp_path / "given"), val_split=0.25).load()
    np.testing.assert_array_equal((data.train.read(torch.tensor([0]))[0, 0] * 255).round().byte(),
                                  arrays[FILES[0]][data.train.sample_ids[0]])  # fmt: skip
    assert len(FashionMNIST(val_split=0.25).load().train) == 30


def test_the_validation_part_of_fashion_does_not_move_its_test_part(nowhere, tmp_path):
    write_fashion(tmp_path, zipped=False)
    one, two = (FashionMNIST(root=str(tmp_path), val_split=v).load(seed=s) for v, s in ((0.25, 0), (0.5, 1)))
    assert one.test.fingerprint() == two.test.fingerprint()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0, 3, 9, 200, -1])
def test_a_truncated_idx_file_is_one_sentence(nowhere, tmp_path, zipped, keep):
    write_fashion(tmp_path, zipped=zipped)
    path = tmp_path / (FILES[0] + (".gz" if zipped else ""))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(LimbeckError, match=rf"{path.name} is not a complete IDX file .*: download it again") as raised:
        FashionMNIST(root=str(tmp_path)).load()
    assert "\n" not in str(raised.value)


def test_a_damaged_gzip_is_one_sentence(nowhere, tmp_path):
    write_fashion(tmp_path, zipped=True)
    path = tmp_path / f"{FILES[1]}.gz"
    raw = bytearray(path.read_bytes())
    raw[12:20] = b"\xff" * 8
    path.write_bytes(raw)
    with pytest.raises(LimbeckError, match="not a complete IDX file"):
        FashionMNIST(root=str(tmp_path)).load()


def test_a_missing_idx_file_is_one_sentence(nowhere, tmp_path):
    write_fashion(tmp_path, zipped=True)
    (tmp_path / f"{FILES[3]}.gz").unlink()
    with pytest.raises(LimbeckError, match="t10k-labels-idx1-ubyte"):
        FashionMNIST(root=str(tmp_path)).load()


# Nowhere at all


@pytest.mark.parametrize(
    ("source", "name", "otherwise"),
    [
        (FashionMNIST, "Fashion-MNIST", "apt install dataset-fashion-mnist"),
        (CIFAR10, "CIFAR10", "put its folder under data.root"),
        (CIFAR100, "CIFAR100", "put its folder under data.root"),
    ],
)
def test_absent_everywhere_and_no_network_is_one_sentence(nowhere, tmp_path, source, name, otherwise):
    for root in (None, str(tmp_path)):
        with pytest.raises(LimbeckError) as raised:
            source(root=root).load()
        assert str(raised.value) == (
            f"{name} was not found and could not be downloaded (network is unreachable): {otherwise}, or set data.root "
            "or --data-root to its parent folder"
        )


@pytest.mark.parametrize(("error", "message"), [(ConnectionError(), "ConnectionError"), (OSError("\n"), "OSError")])
def test_a_failure_without_a_word_is_named(nowhere, error, message):
    def refuse(*_, **__):
        raise error

    nowhere.setattr("torchvision.datasets.FashionMNIST", refuse)
    with pytest.raises(LimbeckError, match=rf"could not be downloaded \({message}\)"):
        FashionMNIST().load()


@pytest.mark.parametrize("source", [FashionMNIST, CIFAR10, CIFAR100])
def test_a_folder_given_that_is_not_there_is_an_error(nowhere, tmp_path, source):
    with pytest.raises(LimbeckError, match=r"there is no folder .*typo: correct data.root or --data-root"):
        source(root=str(tmp_path / "typo")).load()


def test_a_download_is_read_from_where_torchvision_puts_it(nowhere, tmp_path):
    def fetch(root, *, download):
        assert download
        write_fashion(Path(root) / "FashionMNIST" / "raw", zipped=False)

    nowhere.setattr("torchvision.datasets.FashionMNIST", fetch)
    assert len(FashionMNIST(val_split=0.25).load().train) == 30
    assert (tmp_path / "home/.cache/limbeck/FashionMNIST/raw" / FILES[0]).is_file()
    nowhere.setattr("torchvision.datasets.FashionMNIST", None)  # the second time nothing is fetched
    assert len(FashionMNIST(val_split=0.25).load().train) == 30


# CIFAR


def write_cifar_folder(base: Path, classes: int, *, parts=(("train", 4), ("test", 2))):
    draw = np.random.default_rng(0)
    for part, many in parts:
        for label in range(classes):
            folder = base / part / f"class{label:03d}"
            folder.mkdir(parents=True)
            for i in range(many):
                pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:06d}.png", compress_level=0)


@pytest.mark.parametrize(("source", "classes"), [(CIFAR10, 10), (CIFAR100, 100)])
@pytest.mark.parametrize("below", [".", "named"])
def test_cifar_is_read_from_a_folder_of_images(nowhere, tmp_path, source, classes, below):
    write_cifar_folder(tmp_path / (below if below == "." else f"cifar{classes}"), classes)
    data = source(root=str(tmp_path), val_split=0.25, num_labeled=classes).load()
    assert (len(data.train), len(data.validation), len(data.test)) == (3 * classes, classes, 2 * classes)
    assert (data.input_shape, len(data.class_names), data.num_labeled) == ((3, 32, 32), classes, classes)
    assert min(data.test.unlock("weights").sample_ids) == 4 * classes


def test_cifar_is_looked_for_in_the_folder_of_the_environment(nowhere, tmp_path):
    write_cifar_folder(tmp_path / "cifar10", 10)
    nowhere.setenv("LIMBECK_DATA", str(tmp_path))
    assert len(CIFAR10(val_split=0.5).load().train) == 20


def test_cifar_refuses_a_folder_of_other_classes(nowhere, tmp_path):
    write_cifar_folder(tmp_path, 7)
    with pytest.raises(LimbeckError, match="must have 10 classes for CIFAR10, got 7"):
        CIFAR10(root=str(tmp_path)).load()


def test_cifar_refuses_to_cut_its_official_test_part_off_the_training_part(nowhere, tmp_path):
    write_cifar_folder(tmp_path, 10, parts=(("train", 4),))
    with pytest.raises(LimbeckError, match="has no folder 'test'"):
        CIFAR10(root=str(tmp_path)).load()


def write_batches(root: Path, source):
    """torchvision's own layout: pickles with ``data`` [n, 3072], color planes first."""
    draw, names = np.random.default_rng(0), {}
    if source is CIFAR10:
        folder, key, meta, many = root / "cifar-10-batches-py", "labels", "batches.meta", 10
        files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        names = {"label_names": [f"name{i}" for i in range(10)]}
    else:
        folder, key, meta, many = root / "cifar-100-python", "fine_labels", "meta", 100
        files, names = ["train", "test"], {"fine_label_names": [f"name{i}" for i in range(100)]}
    folder.mkdir(parents=True)
    batches = {}
    for file in files:
        pixels = draw.integers(0, 256, (2 * many, 3072), dtype=np.uint8)
        batches[file] = {"data": pixels, key: [i % many for i in range(2 * many)]}
        (folder / file).write_bytes(pickle.dumps(batches[file]))
    (folder / meta).write_bytes(pickle.dumps(names))
    return batches


@pytest.mark.parametrize("source", [CIFAR10, CIFAR100])
def test_cifar_is_read_from_torchvisions_layout(tmp_path, monkeypatch, source):
    batches = write_batches(tmp_path, source)
    # torchvision compares each file with the published one's checksum, and these are not the published ones.
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, _: os.path.isfile(path))  # noqa: PTH113
    data = source(root=str(tmp_path), val_split=0.5).load()
    classes = len(data.class_names)
    *train, test = batches.values()
    assert (data.name, data.input_shape, data.class_names[3]) == (source.__name__, (3, 32, 32), "name3")
    assert len(data.train) == len(data.validation) == sum(len(batch["data"]) for batch in train) // 2
    pixels = np.concatenate([batch["data"] for batch in train]).reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal((everything(data.train) * 255).round().byte(), pixels[data.train.sample_ids])
    np.testing.assert_array_equal(data.train.target, data.train.sample_ids % (2 * classes) % classes)
    test_split = data.test.unlock("weights")
    np.testing.assert_array_equal((everything(test_split) * 255).round().byte(), test["data"].reshape(-1, 3, 32, 32))
    assert test_split.sample_ids.tolist() == list(range(len(pixels), len(pixels) + 2 * classes))


def real_cifar(many: int) -> dict[str, list[bytes]]:
    """A few real images of each class, as the JPEG files they are."""
    place = DATA / "cifar10" / "train"
    if place.is_dir():
        return {c.name: [p.read_bytes() for p in sorted(c.iterdir())[:many]] for c in sorted(place.iterdir())}
    if not (SHARED / "cifar10" / "test_jpg.npz").is_file():
        pytest.skip("no real CIFAR-10: neither in LIMBECK_DATA/cifar10 nor packed in ../shared/data/cifar10")
    names = (SHARED / "cifar10" / "classes.txt").read_text().splitlines()
    with np.load(SHARED / "cifar10" / "test_jpg.npz") as pack:
        pixels, starts, labels = pack["data"], pack["off"], pack["y"]
    chosen = {name: np.flatnonzero(labels == label)[:many] for label, name in enumerate(names)}
    return {name: [pixels[starts[i] : starts[i + 1]].tobytes() for i in which] for name, which in chosen.items()}


def test_real_cifar_images_are_read_in_their_public_layout(nowhere, tmp_path):
    result = real_cifar(8)
    for name, images in result.items():
        for i, raw in enumerate(images):
            folder = tmp_path / "cifar10" / ("test" if i % 2 else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{i:06d}.jpg").write_bytes(raw)
    data = CIFAR10(root=str(tmp_path), val_split=0.25, normalize="data").load()
    assert data.class_names == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    assert (len(data.train), len(data.validation), len(data.test), data.input_shape) == (30, 10, 40, (3, 32, 32))
    for place in (0, 17):
        number, label = int(data.train.sample_ids[place]), int(data.train.target[place])
        raw = result[data.class_names[label]][2 * (number % 4)]
        expected = np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")).transpose(2, 0, 1) / np.float32(255)
        np.testing.assert_array_equal(data.train.read(torch.tensor([place]))[0].numpy(), expected)
    assert 0.3 < np.mean(data.normalization.mean) < 0.6  # the published means are 0.491, 0.482, 0.447
