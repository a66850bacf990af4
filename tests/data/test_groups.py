"""A group (a speaker, an identity, a video) is in one split only, in every source that knows groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.test_spoken_digits import write_clips

from limbeck import LimbeckError
from limbeck.data import ImageFolder, SegmentationFolder, Split, from_datasets, from_tensors
from limbeck.data.groups import select_groups
from limbeck.data.module import make_splits
from limbeck.data.sources import SpokenDigits, TextFiles
from limbeck.data.split import InMemory


def splits(data):
    return data.train, data.validation, data.test._split


def assert_disjoint(data, *, fractions=None):
    names = [set(split.groups.tolist()) for split in splits(data)]
    assert len(set.union(*names)) == sum(map(len, names))
    counts = np.array([len(split) for split in splits(data)])
    if fractions is not None:
        np.testing.assert_allclose(counts / counts.sum(), fractions, atol=0.05)


@pytest.mark.parametrize("names", [False, True])
def test_tensors_and_data_sets_are_cut_between_groups(names):
    groups = torch.arange(300) // 6
    given = [f"person {i}" for i in groups.tolist()] if names else groups
    data = from_tensors(torch.rand(300, 1, 2, 2), torch.arange(300) % 3, groups=given, seed=1)
    assert_disjoint(data, fractions=(0.64, 0.16, 0.2))
    for split in splits(data):
        assert (split.target.bincount() / len(split) - 1 / 3).abs().max() < 0.05
    dataset = [(torch.full((1, 2, 2), i / 300), i % 3) for i in range(300)]
    assert_disjoint(from_datasets(dataset, groups=given), fractions=(0.64, 0.16, 0.2))


def test_values_are_cut_between_groups():
    split = Split.from_values(InMemory(torch.rand(40, 3)), torch.rand(40), groups=torch.arange(40) // 4)
    data = make_splits("v", ("value",), split, seed=0, validation=0.2, test=0.2, normalize="none")
    assert_disjoint(data, fractions=(0.6, 0.2, 0.2))


def test_a_large_group_is_taken_where_no_smaller_one_is_left():
    selected = select_groups(torch.zeros(10), torch.tensor([0] * 5 + [1] * 5), 0.1, seed=0, purpose=1)
    assert selected.sum() == 5
    again = select_groups(torch.zeros(10), torch.tensor([0] * 5 + [1] * 5), 0.1, seed=0, purpose=1)
    assert torch.equal(selected, again)
    assert select_groups(torch.zeros(3), torch.arange(3), 0.9, seed=0, purpose=1).sum() == 2


def test_groups_that_cannot_be_kept_whole_are_refused():
    with pytest.raises(LimbeckError, match="must have at least 2 groups, got 1"):
        from_tensors(torch.rand(10, 1, 2, 2), torch.arange(10) % 2, groups=[1] * 10)
    with pytest.raises(LimbeckError, match=r"groups must be \[10\], one for each sample, got \[9\]"):
        from_tensors(torch.rand(10, 1, 2, 2), torch.arange(10) % 2, groups=torch.zeros(9, dtype=torch.long))
    target, images = torch.arange(4) % 2, InMemory(torch.rand(4, 1, 2, 2))
    train, test = (Split.from_images(images, target, groups=groups) for groups in (["a", "b", "c", "d"], list("edfg")))
    with pytest.raises(LimbeckError, match="sample 3 of the training split is of the group of sample 1 of the test"):
        make_splits("x", "ab", train, seed=0, validation=0.25, test=test)


def write_images(folder, names):
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        Image.fromarray(np.full((4, 4), i % 2, np.uint8)).save(folder / name)


def test_folders_read_the_group_from_the_file_name(tmp_path):
    names = [f"p{person:02}_{take}.png" for person in range(10) for take in range(3)]
    for label in ("cat", "dog"):
        write_images(tmp_path / "pets" / label, names)
    assert_disjoint(
        ImageFolder(root=str(tmp_path / "pets"), group_pattern=r"/(p\d+)_").load(), fractions=(0.6, 0.2, 0.2)
    )
    with pytest.raises(
        LimbeckError, match=r"group_pattern: 'x\(\.\)' must match the path of each file, and does not match"
    ):
        ImageFolder(root=str(tmp_path / "pets"), group_pattern="x(.)").load()
    for part in ("train", "trainannot"):
        write_images(tmp_path / "streets" / part, names)
    masks = SegmentationFolder(root=str(tmp_path / "streets"), classes=("a", "b"), group_pattern="[^_]+").load()
    assert_disjoint(masks, fractions=(0.6, 0.2, 0.2))


def test_texts_and_speakers_are_kept_whole(tmp_path):
    rows = [f"{text},{label},u{i % 8}" for i in range(24) for text, label in (("a b", "x"), ("c d", "y"))]
    (tmp_path / "train.csv").write_text("text,label,user\n" + "\n".join(rows))
    (tmp_path / "test.csv").write_text("text,label,user\na b,x,other\nc d,y,other\n")
    assert_disjoint(TextFiles(root=str(tmp_path), group_column="user", val_split=0.25).load())
    with pytest.raises(LimbeckError, match=r"row 1 of .* must have text, label, missing"):
        TextFiles(root=str(tmp_path), group_column="missing").load()
    clips = write_clips(tmp_path / "fsdd", takes=1, speakers=("ann", "bob", "cid"))
    spoken = SpokenDigits(root=str(clips), mels=4, test_by="speakers", test_speakers=("bob",)).load()
    assert_disjoint(spoken)
    assert [len(split) for split in splits(spoken)] == [10, 10, 10]
