"""The identity of a stream changes with whatever decides its images, and with nothing else."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from limbeck.core.errors import LimbeckError
from limbeck.data import (
    Augmentation,
    ImageFolder,
    Normalization,
    Split,
    color_jitter,
    cutmix,
    default_augmentation,
    from_tensors,
    horizontal_flip,
    mixup,
    rand_augment,
    random_crop,
    torchvision,
)
from limbeck.data import image_store as kinds
from limbeck.data.batch_sampler import BatchSampler
from limbeck.data.split import DatasetAdapter, ImageFiles, InMemory

EVERYTHING = (random_crop(1), horizontal_flip(), color_jitter(), rand_augment(), mixup(p=0.6), cutmix())
PIXELS = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def part(many=24, images=None):
    return Split.from_images(images or InMemory(PIXELS[:many]), torch.arange(many) % 3, first_id=100)


def stream(whole=None, transforms=EVERYTHING, *, batch=6, seed=2, mean=0.0, **views):
    where = {name: views.pop(name) for name in ("rank", "world_size") if name in views}
    normalization = Normalization((mean,) * 3, (1.0,) * 3)
    return BatchSampler(
        whole or part(),
        Augmentation(transforms, **views),
        normalization,
        batch_size=batch,
        seed=seed,
        classes=3,
        **where,
    )


def test_the_identity_changes_with_what_decides_the_images():
    whole, pixel = part(), PIXELS.clone()
    pixel[3, 1, 2, 2] += 0.001
    result = [
        stream(whole),
        stream(part(24, InMemory(pixel))),
        stream(whole.subset(torch.arange(23))),
        stream(whole.subset(torch.arange(23, -1, -1))),
        stream(replace(whole, sample_ids=whole.sample_ids + 1)),
        stream(seed=3),
        stream(mean=0.1),
        stream(num_views=4),
        stream(transforms=()),
        stream(transforms=EVERYTHING[:5]),
        stream(transforms=(random_crop(2), *EVERYTHING[1:])),
        stream(transforms=(*EVERYTHING[:2], color_jitter(0.3), *EVERYTHING[3:])),
        stream(transforms=(*EVERYTHING[:4], mixup(0.3, 0.6), cutmix())),
        stream(transforms=(torchvision("RandomErasing", p=0.5),)),
        stream(transforms=(torchvision("RandomErasing", p=0.4),)),
    ]
    assert len({each.fingerprint() for each in result}) == len(result)
    assert all(len(each.fingerprint()) == 64 for each in result)


def test_the_identity_does_not_change_with_what_decides_no_image():
    plain = stream().fingerprint()
    unlabelled = replace(part(), target=torch.full((24,), -100))
    for other in (
        stream(), stream(batch=8), stream(rank=1, world_size=2), stream(repeats=2), stream(unlabelled),
        stream(part(24, InMemory(PIXELS.clone()))),
    ):  # fmt: skip
        other.batch(0)
        assert other.fingerprint() == plain
    assert stream(transforms=(), seed=1, num_views=3).fingerprint() == stream(transforms=(), seed=2).fingerprint()


def test_the_identity_does_not_change_with_the_process():
    code = (
        "import torch; from limbeck.data import default_augmentation, from_tensors; t = torch.arange(60);"
        "a = default_augmentation(crop=1, num_views=8);"
        "d = from_tensors(t.reshape(60, 1, 1, 1) / 60, t % 3, augment=a, seed=2);"
        "print(d.batches(batch_size=4).fingerprint())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "123"}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    t = torch.arange(60)
    data = from_tensors(t.reshape(60, 1, 1, 1) / 60, t % 3, augment=default_augmentation(crop=1, num_views=8), seed=2)
    assert output.strip() == data.batches(batch_size=9).fingerprint()


@dataclass(frozen=True)
class Dim:
    by: float

    def __call__(self, images, draws):
        return images * (1 - self.by * draws.uniform(1).reshape(-1, 1, 1, 1))


class Silent:
    def __call__(self, images, draws):
        return images


def test_transforms_of_your_own_tell_their_settings_and_their_code(monkeypatch):
    one = stream(transforms=(Dim(0.1),)).fingerprint()
    assert one == stream(transforms=(Dim(0.1),)).fingerprint()
    assert one != stream(transforms=(Dim(0.2),)).fingerprint()
    monkeypatch.setattr("inspect.getsource", lambda kind: "another body")
    assert one != stream(transforms=(Dim(0.1),)).fingerprint()
    for silent in (Silent(), lambda images, draws: images):
        with pytest.raises(LimbeckError, match=r"must contain its settings .* make it a frozen dataclass"):
            stream(transforms=(silent,)).fingerprint()


class Own(Dataset):
    """A map-style data set of a user, steady or flipping by one of the global generators."""

    def __init__(self, inputs=PIXELS, draw=None):
        self.inputs, self.draw = inputs, draw

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, i):
        image = self.inputs[i]
        return image.flip(2) if self.draw is not None and self.draw() < 0.5 else image, i % 3


DRAWS = {"python": random.random, "numpy": lambda: float(np.random.rand()), "torch": lambda: float(torch.rand(()))}


@pytest.mark.parametrize("draw", list(DRAWS.values()), ids=list(DRAWS))
def test_a_data_set_that_changes_its_items_has_no_identity(draw):
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    images = DatasetAdapter(Own(draw=draw))
    assert not images.is_deterministic()
    assert torch.equal(torch.get_rng_state(), before)
    assert (random.random(), np.random.rand()) == (0.8444218515250481, 0.5488135039273248)
    with pytest.raises(LimbeckError, match=r"must be the same each time .* into the augmentation"):
        stream(part(24, images)).fingerprint()
    assert images.fingerprint() == DatasetAdapter(Own(draw=draw)).fingerprint()


def test_a_steady_data_set_is_known_by_every_item():
    images = DatasetAdapter(Own())
    assert images.is_deterministic()
    assert images.fingerprint() == DatasetAdapter(Own(PIXELS.clone())).fingerprint()
    result = {
        images.fingerprint(),
        DatasetAdapter(Own(PIXELS.double())).fingerprint(),
        DatasetAdapter(Own(PIXELS[:-1])).fingerprint(),
    }
    for i in range(24):
        changed = PIXELS.clone()
        changed[i, 0, 0, 0] += 0.001
        result.add(DatasetAdapter(Own(changed)).fingerprint())
    assert len(result) == 27
    assert (
        DatasetAdapter([(torch.tensor(0.5), 1), (torch.tensor(1.5), 0)]).fingerprint()
        != DatasetAdapter([(torch.tensor(0.5), 1), (torch.tensor(1.25), 0)]).fingerprint()
    )


def folder(root, many=6):
    for label in "ab":
        (root / label).mkdir(parents=True)
        for i in range(many):
            colour = (20 * i, 100, 200 if label == "a" else 0)
            Image.new("RGB", (4, 4), colour).save(root / label / f"{i}.bmp")  # every file has the same size
    return root


@pytest.mark.parametrize("small", [2**28, 0])
def test_a_file_that_changed_is_a_new_identity(tmp_path, monkeypatch, small):
    monkeypatch.setattr(kinds, "_MAX_HASHED_BYTES", small)
    folder(tmp_path)

    def ask():
        data = ImageFolder(root=str(tmp_path), cache_mb=0).load()
        assert isinstance(data.train.images, ImageFiles)
        return data.batches(batch_size=2).fingerprint(), data.fingerprint()

    before, path = ask(), tmp_path / "a" / "3.bmp"
    size = path.stat().st_size
    assert ask() == before
    Image.new("RGB", (4, 4), (1, 2, 3)).save(path)
    os.utime(path, ns=(1, 2**60))  # files may be written within one tick of the clock
    assert path.stat().st_size == size
    assert ask()[0] != before[0]
    assert ask()[1] != before[1]


def test_a_small_folder_is_the_same_in_every_copy(tmp_path):
    one, other = (folder(tmp_path / name / "set") for name in ("one", "other"))
    os.utime(other / "a" / "3.bmp", ns=(1, 2**60))
    ask = [ImageFolder(root=str(root), cache_mb=0).load().batches(batch_size=2).fingerprint() for root in (one, other)]
    assert ask[0] == ask[1]


def test_a_data_set_that_tells_its_files_is_known_by_them(tmp_path):
    from torchvision.datasets import ImageFolder as Theirs
    from torchvision.transforms import v2

    folder(tmp_path, many=40)  # of which 32 are looked at
    change = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])

    def ask(change=change):
        return DatasetAdapter(Theirs(str(tmp_path), transform=change)).fingerprint()

    before = ask()
    assert ask() == before
    assert ask(v2.Compose([change, v2.Grayscale(3)])) != before
    for i in range(40):
        path = tmp_path / "b" / f"{i}.bmp"
        kept = path.read_bytes()
        Image.new("RGB", (4, 4), (1, 2, 3)).save(path)
        assert ask() != before
        path.write_bytes(kept)
    assert ask() == before
