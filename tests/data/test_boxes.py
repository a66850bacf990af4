"""Boxes and masks move with their images, also by torchvision; data sets of any items are batched by collate_fn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from limbeck import LimbeckError
from limbeck.data import (
    Augmentation,
    Split,
    affine,
    color_jitter,
    from_datasets,
    horizontal_flip,
    mixup,
    rand_augment,
    random_crop,
    random_resized_crop,
    scale_jitter,
    torchvision,
)
from limbeck.data.box_store import BoxStore
from limbeck.data.counter_rng import CounterRNG
from limbeck.data.image_store import InMemory
from limbeck.data.module import make_splits
from limbeck.data.pair_batches import pair_batches
from limbeck.testing import check_data_source

SIZE = (24, 32)
BOXES = [torch.tensor([[8, 6, 20, 15]]), torch.tensor([[2, 3, 9, 21]]), torch.tensor([[14, 2, 30, 9]])]


def draw(boxes):
    """Images that are white in their boxes."""
    images = torch.zeros(len(boxes), 1, *SIZE)
    for image, (left, top, right, bottom) in zip(images, torch.cat(boxes).tolist(), strict=True):
        image[:, top:bottom, left:right] = 1
    return images


def make_data(transforms=(), boxes=BOXES, num_views=0):
    labels = [torch.arange(len(image_boxes)) for image_boxes in boxes]
    split = Split.from_boxes(InMemory(draw([image_boxes[:1] for image_boxes in boxes])), BoxStore(boxes, labels))
    augmentation = Augmentation(transforms, num_views)
    return make_splits(
        "cells", ("a", "b"), split, seed=0, validation=split, test=split, augment=augmentation, normalize="none"
    )  # fmt: skip


TRANSFORMS = {
    "flip": horizontal_flip(),
    "crop": random_crop(5),
    "resized": random_resized_crop((0.4, 0.8)),
    "scaled": scale_jitter((0.4, 1.6)),
    "affine": affine(40.0, (0.7, 1.2), 0.15),
    "jitter": color_jitter(),
    "v2_flip": torchvision("RandomVerticalFlip"),
    "v2_affine": torchvision("RandomAffine", degrees=30, translate=[0.1, 0.1], fill=0.2),
    "v2_crop": torchvision("RandomResizedCrop", size=list(SIZE), scale=[0.4, 0.8]),
    "v2_blur": torchvision("GaussianNoise", sigma=0.01),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_boxes_move_with_their_images(name):
    stream, moved = make_data((TRANSFORMS[name],)).batches(batch_size=3), 0
    for step in range(8):
        batch = stream.batch(step)
        for image, boxes, count, sample in zip(
            batch["input"][:, 0], batch["boxes"], batch["num_boxes"].tolist(), batch["sample_id"].tolist(), strict=True
        ):
            if not count:  # below one pixel of width or height
                assert min(int((image > 0.5).any(dim=axis).sum()) for axis in (0, 1)) <= 1
                continue
            left, top, right, bottom = boxes[0].tolist()
            # The bounding box of a rotated rectangle that is cut off is larger than what is seen of it.
            if "affine" in name and not (0 < left < right < SIZE[1] and 0 < top < bottom < SIZE[0]):
                continue
            rows, columns = (image > 0.5 * image.max()).nonzero(as_tuple=True)
            seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            # The border of a scaled rectangle is gray, and the corners of a rotated one are thin.
            torch.testing.assert_close(boxes[0], seen.float(), atol=1.6, rtol=0)
            moved += not torch.equal(boxes[0], BOXES[sample][0].float())
    assert (moved > 0) == (name not in ("jitter", "v2_blur"))


def test_boxes_that_leave_the_image_are_dropped_and_the_rest_comes_first():
    class Right:
        """Moves images by 20 pixels."""

        def __call__(self, images, rng):
            return images

        def transform_boxes(self, boxes, size, rng):
            return boxes + torch.tensor([20, 0, 20, 0])

    boxes = [torch.tensor([[14, 2, 30, 9], [2, 3, 11, 21]]), torch.zeros(0, 4), torch.tensor([[0, 0, 4, 4]])]
    plain = make_data(boxes=[BOXES[0], *boxes[1:]][:1] * 3).batches(batch_size=3).batch(0)
    assert plain["num_boxes"].tolist() == [1, 1, 1]
    labels = [torch.tensor([0, 1]), torch.zeros(0), torch.tensor([1])]
    split = Split.from_boxes(InMemory(torch.zeros(3, 1, *SIZE)), BoxStore(boxes, labels))
    data = make_splits(
        "x", "ab", split, seed=0, validation=split, test=split, augment=Augmentation((Right(),)), normalize="none"
    )  # fmt: skip
    batch = data.batches(batch_size=3).batch(0)
    order = batch["sample_id"].argsort()
    assert batch["num_boxes"][order].tolist() == [1, 0, 1]
    assert batch["labels"][order].tolist() == [[1], [-100], [1]]
    assert batch["boxes"][order].tolist() == [[[22, 3, 31, 21]], [[0, 0, 0, 0]], [[20, 0, 24, 4]]]
    hidden = Split.from_boxes(split.images, split.boxes).read_fields(torch.arange(3))
    assert hidden["num_boxes"].tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("name", "options"),
    [("RandomHorizontalFlip", {}), ("RandomCrop", {"size": list(SIZE), "padding": 4, "fill": 0.9}),
     ("RandomAffine", {"degrees": 40, "interpolation": "nearest", "fill": 0.9}), ("ColorJitter", {"brightness": 0.0})],
)  # fmt: skip
def test_masks_move_with_their_images_by_torchvision(name, options):
    classes = torch.randint(0, 3, (6, 6, 8), generator=torch.Generator().manual_seed(0))
    classes = classes.repeat_interleave(4, 1).repeat_interleave(4, 2)
    dataset = [(mask[None] / 10.0, tv_tensors.Mask(mask)) for mask in classes]
    data = from_datasets(dataset, dataset, dataset, augment=Augmentation((torchvision(name, **options),)))
    assert data.class_names == ("0", "1", "2")
    outside = 0
    for step in range(4):
        batch = data.batches(batch_size=6).batch(step)
        expected = (batch["input"][:, 0] * 10).round().long()
        assert torch.equal(batch["target"], expected.masked_fill(expected == 9, -100))
        outside += int((expected == 9).sum())
    assert (outside > 0) == ("fill" in options)


@pytest.mark.parametrize("transform", [rand_augment(), mixup(), lambda images, rng: images])
def test_transforms_of_images_only_are_refused(transform):
    with pytest.raises(LimbeckError, match="cannot transform boxes together with images"):
        make_data((transform,))


def test_boxes_of_any_format_are_read_and_wrong_ones_refused():
    boxes = tv_tensors.BoundingBoxes([[4, 6, 4, 2]], format="CXCYWH", canvas_size=SIZE)
    assert BoxStore([boxes], [torch.tensor([1])]).read(torch.tensor([0]))["boxes"].tolist() == [[[2, 5, 6, 7]]]
    with pytest.raises(LimbeckError, match=r"left < right and top < bottom, got \[4.0, 6.0, 4.0, 2.0\] for image 0"):
        BoxStore([torch.tensor([[4, 6, 4, 2]])], [torch.tensor([1])])
    with pytest.raises(LimbeckError, match=r"boxes must be \[k, 4\] and labels \[k\], got \[1, 4\] and \[2\]"):
        BoxStore([BOXES[0]], [torch.tensor([1, 0])])


class Cells(torch.utils.data.Dataset):
    """Images with boxes as torchvision's detection data sets; noisy ones change each time they are read."""

    def __init__(self, noise=0.0):
        self.noise = noise

    def __len__(self):
        return 10

    def __getitem__(self, index):
        box = BOXES[index % 3]
        image = draw([box])[0] * 0.5 + self.noise * (torch.rand(1, *SIZE) + float(np.random.rand()))
        boxes = tv_tensors.BoundingBoxes(box, format="XYXY", canvas_size=SIZE)
        return image, {"boxes": boxes, "labels": torch.tensor([index % 2])}


def collate(items):
    return {"input": [image for image, _ in items], "target": [target for _, target in items]}


def test_a_detection_data_set_is_carried():
    data = from_datasets(Cells(), augment=Augmentation((horizontal_flip(1.0),)))
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 2, 2)
    batch = data.batches(batch_size=6).batch(0)
    assert batch.keys() == {"input", "boxes", "labels", "num_boxes", "sample_id", "view"}
    left = torch.stack([32 - BOXES[i % 3][0, 2] for i in batch["sample_id"].tolist()])
    assert torch.equal(batch["boxes"][:, 0, 0], left.float())
    assert next(data.validation_batches()).keys() == batch.keys() - {"view"}
    assert len(data.fingerprint()) == 64


@dataclass(frozen=True)
class CellSource:
    """A source of boxes, or of items by collate_fn."""

    is_collated: bool = False

    def load(self, *, seed=0):
        boxes = [torch.tensor([[i % 9, 1, 20, 15]]) for i in range(30)]
        images = torch.rand(30, 1, *SIZE, generator=torch.Generator().manual_seed(0))
        if self.is_collated:
            items = [{"input": image, "boxes": box} for image, box in zip(images, boxes, strict=True)]
            return from_datasets(items, seed=seed, collate_fn=torch.utils.data.default_collate)
        labels = [torch.zeros(1)] * 30
        split = Split.from_boxes(InMemory(images), BoxStore(boxes, labels), groups=torch.arange(30) // 3)
        return make_splits("cells", ("cell",), split, seed=seed, validation=0.2, test=0.2, normalize="none")


@pytest.mark.parametrize("is_collated", [False, True])
def test_sources_of_boxes_and_items_pass_the_checks(is_collated):
    assert len(check_data_source(CellSource(is_collated)).test) == 6


def test_items_of_any_kind_are_batched_by_collate_fn():
    data = from_datasets(Cells(0.3), Cells(), Cells(), collate_fn=collate)
    stream = data.batches(batch_size=4)
    first, again = (
        stream.batch(3),
        from_datasets(Cells(0.3), Cells(), Cells(), collate_fn=collate).batches(batch_size=4),
    )
    torch.rand(5)
    assert all(torch.equal(a, b) for a, b in zip(first["input"], again.batch(3)["input"], strict=True))
    assert isinstance(first["target"][0]["boxes"], tv_tensors.BoundingBoxes)
    assert first["sample_id"].shape == (4,)
    assert len(next(data.validation_batches())["target"]) == 10
    assert data.input_shape == (*SIZE,)
    with pytest.raises(LimbeckError, match="collate_fn must return a mapping, got a list"):
        from_datasets(Cells(), collate_fn=list).batches(batch_size=2).batch(0)


def test_random_items_that_would_not_fit_are_refused():
    with pytest.raises(LimbeckError, match="masks and boxes that were read before do not fit"):
        from_datasets(Cells(0.3), Cells(), Cells())
    with pytest.raises(LimbeckError, match="items of `validation` must be the same each time"):
        from_datasets(Cells(), Cells(0.3), collate_fn=collate)
    with pytest.raises(LimbeckError, match="must have boxes and labels, got annotation"):
        from_datasets([(torch.zeros(1, 2, 2), {"annotation": 1})] * 4)


def test_random_items_of_paired_batches_are_the_same_for_a_step():
    class Noisy(Cells):
        targets = tuple(i % 2 for i in range(10))

        def __getitem__(self, index):
            return super().__getitem__(index)[0], index % 2

    def jitter(images, rng):
        return images + torch.rand(1) * np.random.rand()

    stream = from_datasets(Noisy(), augment=Augmentation((jitter,))).batches(batch_size=4)
    assert torch.equal(stream.batch(1)["input"], stream.batch(1)["input"])
    for pairing in ("same_class", "repeat_previous"):
        data = from_datasets(Noisy(0.3), Noisy(), Noisy())
        stream = pair_batches(data.batches(batch_size=4), pairing)
        first = stream.batch(1)["input"]
        assert torch.equal(stream.batch(1)["input"], first)


def test_scaled_images_are_anywhere_in_the_frame_or_cut_anywhere():
    rng = CounterRNG.for_samples(torch.arange(200), torch.zeros(200).long(), seed=0, transform_index=0)
    for scale, low, high in ((0.5, 0.0, 12.0), (2.0, -24.0, 0.0)):
        boxes = scale_jitter((scale, scale)).transform_boxes(torch.tensor([[[0.0, 0, 32, 24]]]), (24, 32), rng)
        assert (boxes[..., 3] - boxes[..., 1]).unique().tolist() == [24 * scale]
        assert (boxes[..., 1].min().item(), boxes[..., 1].max().item()) == (low, high)
    for scale in ((0.0, 1.0), (2.0, 1.0), (1.0, 11.0)):
        with pytest.raises(LimbeckError, match="scale_jitter's scale must be"):
            scale_jitter(scale)
