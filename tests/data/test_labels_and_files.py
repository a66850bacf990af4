"""Labels of any usual form are converted or refused when data is built; image files are read as they look."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck import LimbeckError
from limbeck.data import from_datasets, from_tensors
from limbeck.data.image_files import ImageFiles
from limbeck.data.labels import to_class_indices
from limbeck.data.sources import ImageFolder
from limbeck.tasks import Classification


@pytest.mark.parametrize(
    "target",
    [torch.tensor([1, 0, 2]), torch.tensor([1, 0, 2], dtype=torch.int32), np.array([1, 0, 2]), [1, 0, 2],
     torch.tensor([1.0, 0.0, 2.0]), np.eye(3)[[1, 0, 2]], torch.eye(3)[[1, 0, 2]], np.array([1, 0, 2], dtype=np.uint8)],
)  # fmt: skip
def test_usual_labels_become_class_indices(target):
    indices, names = to_class_indices(target)
    assert indices.tolist() == [1, 0, 2]
    assert indices.dtype == torch.int64
    assert names is None


def test_booleans_and_names_are_classes():
    assert to_class_indices(np.array([True, False]))[0].tolist() == [1, 0]
    indices, names = to_class_indices(["dog", "cat", "dog"])
    assert (indices.tolist(), names) == ([1, 0, 1], ("cat", "dog"))
    assert to_class_indices(np.array(["b", "a"]), ["b", "a"])[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("target", "message"),
    [([0.5, 1.0], "whole numbers, got fractions"), ([float("nan")], "fractions or NaN"),
     ([[1, 1, 0]], r"one-hot, got \[1, 1, 0\] in row 0"), ([[0.4, 0.6]], "one-hot"), ([[0, 0]], "one-hot"),
     (torch.zeros(2, 2, 2), r"one-hot \[n, classes\]")],
)  # fmt: skip
def test_labels_that_are_no_class_are_refused(target, message):
    with pytest.raises(LimbeckError, match=message):
        to_class_indices(target)


def test_an_unknown_name_is_refused():
    with pytest.raises(LimbeckError, match="'bee' is none of the classes ant, cat"):
        to_class_indices(["bee"], ["ant", "cat"])


def test_data_takes_labels_of_any_form():
    inputs, names = torch.rand(40, 1, 4, 4), ["ant", "bee"] * 20
    data = from_tensors(inputs, names)
    assert data.class_names == ("ant", "bee")
    assert set(data.train.target.tolist()) == {0, 1}
    with pytest.raises(LimbeckError, match="fractions"):
        from_tensors(inputs, np.arange(40) % 2 + 0.5)
    with pytest.raises(LimbeckError, match="fractions"):
        from_datasets([(x, 0.5) for x in inputs])
    assert from_datasets([(x, np.int64(i % 2)) for i, x in enumerate(inputs)]).class_names == ("0", "1")


def test_probabilities_must_sum_to_one():
    task = Classification(3)
    for rows in ([[0.2, 0.3, 0.5]], [[0.0, 0.0, 0.0]]):
        assert task.target({"input": 0, "target": torch.tensor(rows)}) is not None
    with pytest.raises(LimbeckError, match="must sum to 1, or to 0 for no label, got 2"):
        task.target({"input": 0, "target": torch.tensor([[1.0, 0.0, 1.0]])})


class Noisy(torch.utils.data.Dataset):
    """Images with random noise from the global generator."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.rand(1, 2, 2), index % 2


class Still(Noisy):
    def __getitem__(self, index):
        return torch.full((1, 2, 2), float(index) / 12), index % 2


def test_a_random_data_set_needs_splits_of_its_own():
    with pytest.raises(LimbeckError, match="give `validation` and `test` with a fixed transform"):
        from_datasets(Noisy())
    with pytest.raises(LimbeckError, match="give `validation` and `test`"):
        from_datasets(Noisy(), Still())
    assert len(from_datasets(Noisy(), Still(), Still()).train) == 12


def test_random_items_depend_on_seed_and_step_only():
    def batch(seed, step):
        return from_datasets(Noisy(), Still(), Still(), seed=seed).batches(batch_size=4).batch(step)["input"]

    torch.manual_seed(5)
    first = batch(0, 3)
    sampler = from_datasets(Noisy(), Still(), Still(), seed=0).batches(batch_size=4)
    state = torch.get_rng_state()
    assert torch.equal(sampler.batch(3)["input"], first)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(batch(0, 3), first)
    assert not torch.equal(batch(0, 4), first)
    assert not torch.equal(batch(1, 3), first)


def test_images_are_upright_and_transparent_pixels_white(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = ImageFiles((tmp_path / "turned.png",), None, 3).read(torch.tensor([0]))[0]
    assert image.shape == (3, 8, 4)
    assert image[:, 0, 3].tolist() == [1.0, 1.0, 1.0]
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(tmp_path / "clear.png")
    assert ImageFiles((tmp_path / "clear.png",), None, 1).read(torch.tensor([0])).min() == 1.0


def write_images(folder, counts, *, offset=0):
    random = np.random.default_rng(offset)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(random.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / name / f"{i}.png")


def test_hidden_files_are_ignored_and_small_classes_and_twins_are_warned_of(tmp_path):
    write_images(tmp_path / "train", {"ant": 8, "bee": 8})
    write_images(tmp_path / "test", {"ant": 2, "bee": 2}, offset=1)
    (tmp_path / "train" / "ant" / "._0.png").write_bytes(b"no image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = ImageFolder(root=str(tmp_path), channels=1).load(seed=0)
    assert len(data.train) + len(data.validation) == 16
    twin = tmp_path / "test" / "bee" / "9.png"
    twin.write_bytes((tmp_path / "train" / "bee" / "3.png").read_bytes())
    with pytest.warns(UserWarning, match=r"9\.png is the same image as .*3\.png"):
        ImageFolder(root=str(tmp_path), channels=1).load(seed=0)
    twin.unlink()
    write_images(tmp_path / "train", {"cat": 1}, offset=2)
    with pytest.warns(UserWarning, match="no (training|validation) image is of the class 'cat'"):
        ImageFolder(root=str(tmp_path), channels=1).load(seed=0)
