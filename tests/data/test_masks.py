"""Images with masks: read from folders, moved together by augmentation, hidden where an image has no label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck import LimbeckError
from limbeck.data import (
    Augmentation,
    SegmentationFolder,
    affine,
    color_jitter,
    horizontal_flip,
    iterate_batches,
    mixup,
    rand_augment,
    random_crop,
    random_resized_crop,
)

CLASSES = ("sky", "road", "car")


def write_folders(root, *, images="{}", masks="{}annot", size=(12, 16), splits=(("train", 6), ("val", 3), ("test", 4))):
    """Images whose first channel is 80 times the class of each pixel; 9 is void, with a first channel of 255."""
    rng = np.random.default_rng(0)
    for split, count in splits:
        for pattern in (images, masks):
            (root / pattern.format(split)).mkdir(parents=True)
        for i in range(count):
            mask = rng.integers(0, 3, (size[0] // 4, size[1] // 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
            mask[:4, :4] = 9
            pixels = np.stack([np.where(mask == 9, 255, 80 * mask), mask * 0 + i, mask * 0], 2).astype(np.uint8)
            Image.fromarray(pixels).save(root / images.format(split) / f"{i:03d}.png")
            Image.fromarray(mask).save(root / masks.format(split) / f"{i:03d}.png")
    return root


def load(root, **options):
    return SegmentationFolder(root=str(root), classes=CLASSES, ignore_index=9, normalize="none", **options).load()


def masks_of(images):
    """The masks that the first channels of images say."""
    values = (images[:, 0] * 255).round().long()
    return torch.where(values == 255, -100, values // 80)


@pytest.mark.parametrize(("images", "masks"), [("{}", "{}annot"), ("images/{}", "annotations/{}")])
@pytest.mark.parametrize("cache_mb", [0, 100])
def test_masks_belong_to_their_images(tmp_path, images, masks, cache_mb):
    data = load(write_folders(tmp_path, images=images, masks=masks), cache_mb=cache_mb)
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 3, 4)
    assert data.class_names == CLASSES
    for split in (data.train, data.validation, data.test.unlock("test")):
        (batch,) = iterate_batches(split, data.normalization)
        assert torch.equal(batch["target"], masks_of(batch["input"]))
        assert (batch["target"][:, :4, :4] == -100).all()
    batch = data.batches(batch_size=4).batch(3)
    assert torch.equal(batch["target"], masks_of(batch["input"]))


@pytest.mark.parametrize(
    "transform",
    [horizontal_flip(), random_crop(3), random_crop(3, "reflect"), affine(0.0, (1.0, 1.0), 0.25)],
)
def test_masks_move_with_their_images(tmp_path, transform):
    data = load(write_folders(tmp_path), augment=Augmentation((transform,)))
    stream = data.batches(batch_size=6)
    moved = 0
    for step in range(4):
        batch = stream.batch(step)
        image, mask = batch["input"], batch["target"]
        # A pixel from outside is black and has no class; the other pixels say their class.
        is_exact = ((image[:, 0] * 255 / 80 - (image[:, 0] * 255 / 80).round()).abs() < 1e-3) & (image[:, 0] < 0.99)
        has_class = mask >= 0
        assert torch.equal(mask[is_exact & has_class], (image[:, 0] * 255 / 80).round().long()[is_exact & has_class])
        assert has_class.float().mean() > 0.4
        plain = data.train.read_target(torch.tensor([int(i) for i in batch["sample_id"]]))
        moved += int((plain != mask).any())
    assert moved


def test_colors_leave_masks_as_they_are(tmp_path):
    batch = load(write_folders(tmp_path), augment=Augmentation((color_jitter(),))).batches(batch_size=6).batch(0)
    plain = load(tmp_path).train
    assert torch.equal(batch["target"], plain.read_target(batch["sample_id"]))


def test_nearest_masks_follow_bilinear_images(tmp_path):
    """Rotated and cropped masks differ from the rounded images at the borders of classes only."""
    transforms = (affine(20.0, (0.8, 1.2), 0.1), random_resized_crop((0.4, 0.9)))
    data = load(write_folders(tmp_path, size=(48, 64)), augment=Augmentation(transforms))
    batch = data.batches(batch_size=6).batch(0)
    values, mask = batch["input"][:, 0] * 255 / 80, batch["target"]
    has_class = mask >= 0
    assert ((values - mask).abs()[has_class] < 0.5).float().mean() > 0.8


def test_images_without_a_label_have_no_class(tmp_path):
    data = load(write_folders(tmp_path), num_labeled=2)
    assert data.num_labeled == 2
    targets = data.train.read_target(torch.arange(6))
    assert (targets >= 0).flatten(1).any(dim=1).sum() == 2
    labeled = data.batches(batch_size=2, subset="labeled").batch(0)
    assert (labeled["target"] >= 0).flatten(1).any(dim=1).all()


def test_images_and_masks_are_resized(tmp_path):
    data = load(write_folders(tmp_path), size=(6, 8))
    assert data.input_shape == (3, 6, 8)
    target = data.validation.read_target(torch.arange(3))
    assert target.shape == (3, 6, 8)
    assert set(target.unique().tolist()) == {-100, 0, 1, 2}


def test_the_fingerprint_covers_masks(tmp_path):
    before = load(write_folders(tmp_path)).fingerprint()
    path = tmp_path / "trainannot" / "001.png"
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(path)
    assert load(tmp_path).fingerprint() != before


@pytest.mark.parametrize("transform", [mixup(), rand_augment()])
def test_a_transform_that_leaves_masks_behind_is_refused(tmp_path, transform):
    with pytest.raises(LimbeckError, match="cannot transform masks together with images"):
        load(write_folders(tmp_path), augment=Augmentation((transform,)))


def test_wrong_folders_are_refused(tmp_path):
    write_folders(tmp_path)
    with pytest.raises(LimbeckError, match="values below 3, the number of classes, or ignore_index 255, got 9 in"):
        SegmentationFolder(root=str(tmp_path), classes=CLASSES).load()
    (tmp_path / "trainannot" / "002.png").unlink()
    with pytest.raises(LimbeckError, match=r"must have a mask of its name in .*, got 1 without, such as 002\.png"):
        load(tmp_path)
    Image.new("RGB", (16, 12)).save(tmp_path / "trainannot" / "002.png")
    with pytest.raises(LimbeckError, match="one channel whose values are class indices, got mode RGB"):
        load(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LimbeckError, match="there must be folders train and trainannot"):
        load(tmp_path / "empty")
