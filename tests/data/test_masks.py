"""Images with masks: read from folders, moved together by augmentation, hidden where an image has no label."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck import LimbeckError
from limbeck.data import (
    Augmentation,
    Cityscapes,
    SegmentationFolder,
    VOCSegmentation,
    affine,
    color_jitter,
    from_datasets,
    horizontal_flip,
    iterate_batches,
    mixup,
    rand_augment,
    random_crop,
    random_resized_crop,
    scale_jitter,
)
from limbeck.data.check_source import check_source
from limbeck.data.mask_store import MaskFiles

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
    transforms = (affine(20.0, (0.8, 1.2), 0.1), random_resized_crop((0.4, 0.9)), scale_jitter((0.7, 1.5)))
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
    with pytest.raises(LimbeckError, match=r"000\.png must have values below 3, the number of classes, .* 255, got 9"):
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


def test_a_class_map_gives_values_their_class(tmp_path):
    data = load(write_folders(tmp_path), class_map={2: 0, 0: 2})
    plain = load(tmp_path)
    expected = plain.train.read_target(torch.arange(6))
    # Value 1 and the void value 9 have no class.
    expected = torch.tensor([2, -100, 0])[expected.clamp(min=0)].masked_fill(expected < 0, -100)
    for settings in ({}, {"cache_mb": 0}):
        data = load(tmp_path, class_map={2: 0, 0: 2}, **settings)
        assert torch.equal(data.train.read_target(torch.arange(6)), expected)
    assert data.fingerprint() != load(tmp_path, cache_mb=0).fingerprint()


def test_many_classes_leave_255_to_a_class(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[7, 9]], np.uint8)).save(path)
    masks = MaskFiles((path,), class_map={7: 255, 8: 0})
    assert masks.read(torch.tensor([0])).tolist() == [[[255, -100]]]


@pytest.mark.parametrize(
    ("class_map", "message"),
    [({7: 3}, r"class indices from 0 to 2, got \{7: 3\}"), ({}, "class_map must map values"),
     ({-1: 0}, "values of pixels, 0 to 65535, got"), ({0.5: 0}, "integers to integers"), ({0: None}, "integers to")],
)  # fmt: skip
def test_class_maps_that_fit_no_masks_are_refused(tmp_path, class_map, message):
    with pytest.raises(LimbeckError, match=message):
        load(write_folders(tmp_path), class_map=class_map)


def test_values_outside_of_a_class_map_have_no_class(tmp_path):
    path = tmp_path / "mask.tif"
    Image.fromarray(np.array([[-1, -5, 2**31 - 1, 2, 1]], np.int32)).save(path)
    masks = MaskFiles((path,), class_map={1: 0, 2: 1})
    assert masks.read(torch.tensor([0])).tolist() == [[[-100, -100, -100, 1, 0]]]


def gray_png(path, rows, bits):
    """A gray PNG of ``bits`` per pixel, which PIL cannot write below 8."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b""
    for row in rows:
        line = "".join(f"{value:0{bits}b}" for value in row)
        line += "0" * (-len(line) % 8)
        lines += b"\0" + int(line, 2).to_bytes(len(line) // 8, "big")
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("size", [None, (4, 6)])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_masks_of_any_depth_keep_their_values(tmp_path, bits, size):
    values = np.array([[0, 1, 1], [1, min(2**bits - 1, 1000), 0]])
    gray_png(path := tmp_path / "mask.png", values.tolist(), bits)
    expected = values if size is None else values.repeat(2, 0).repeat(2, 1)
    masks = MaskFiles((path,), size, ignore_index=-1)
    assert masks.read(torch.tensor([0]))[0].tolist() == expected.tolist()
    assert masks.in_memory().read(torch.tensor([0]))[0].tolist() == expected.tolist()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_palette_and_16_bit_masks_are_indices(tmp_path, suffix):
    values = np.array([[0, 3, 2], [1, 1, 0]], np.uint8)
    palette = Image.fromarray(values, mode="P")
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
    palette.save(tmp_path / f"palette.{suffix}")
    deep = values.astype(np.uint16) * 300
    Image.fromarray(deep).save(tmp_path / f"deep.{suffix}")
    masks = MaskFiles((tmp_path / f"palette.{suffix}", tmp_path / f"deep.{suffix}"))
    assert masks.read(torch.tensor([0, 1])).tolist() == [values.tolist(), deep.tolist()]


@pytest.mark.parametrize("cache_mb", [0, 100])
def test_an_unknown_value_is_refused_with_the_file(tmp_path, cache_mb):
    write_folders(tmp_path)
    Image.fromarray(np.full((12, 16), 1000, np.uint16)).save(tmp_path / "trainannot" / "003.png")
    with pytest.raises(
        LimbeckError, match=r"trainannot/003\.png must have values below 3, .* ignore_index 9, got 1000"
    ):
        load(tmp_path, cache_mb=cache_mb).train.read_target(torch.arange(6))
    source = SegmentationFolder(root=str(tmp_path), classes=CLASSES, ignore_index=9)
    (problem,) = check_source(source).problems
    assert problem.kind == "unreadable"
    assert problem.path == str(tmp_path / "trainannot" / "003.png")


def write_cityscapes(root):
    for split, cities in (("train", ("aachen", "bochum", "bremen")), ("val", ("lindau",))):
        for city in cities:
            for folder in ("leftImg8bit", "gtFine"):
                (root / folder / split / city).mkdir(parents=True)
            for i in range(2):
                name = f"{city}_00000{i}_000019"
                Image.new("RGB", (8, 4), "red").save(
                    root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", compress_level=i
                )
                mask = np.full((4, 8), 7, np.uint8)
                mask[:2], mask[2, 0] = 33, 4  # bicycle, and "static", which is none of the 19 classes
                Image.fromarray(mask).save(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png")
    return root


def test_cityscapes_is_read_by_the_classes_of_the_benchmark(tmp_path):
    source = Cityscapes(root=str(write_cityscapes(tmp_path)), size=None, val_split=0.34)
    data = source.load()
    assert len(data.class_names) == 19
    target = data.train.read_target(torch.tensor([0]))[0]
    assert (int(target[0, 0]), int(target[3, 0]), int(target[2, 0])) == (18, 0, -100)
    # A city is in one split; the test split is lindau.
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 2, 2)
    assert {file.split for file in source.list_files()} == {"training", "test"}
    (tmp_path / "gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(LimbeckError, match=r"must have a mask in gtFine/val, got no file .*lindau_000001"):
        source.load()


def write_voc(root):
    folder = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for split, count in (("train", 5), ("val", 2)):
        names = [f"2007_{split}{i}" for i in range(count)]
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for i, name in enumerate(names):
            size = (20 + i, 16)
            Image.new("RGB", size, (40 * i, 0, 0)).save(folder / "JPEGImages" / f"{name}.jpg")
            mask = np.zeros(size[::-1], np.uint8)
            mask[:8], mask[8] = 20, 255
            palette = Image.fromarray(mask, mode="P")
            palette.putpalette([0, 0, 0] + [3 * value % 256 for value in range(765)])
            palette.save(folder / "SegmentationClass" / f"{name}.png")
    return root


def test_voc_is_read_from_its_lists_and_palettes(tmp_path):
    data = VOCSegmentation(root=str(write_voc(tmp_path)), size=(16, 16)).load()
    assert (len(data.train), len(data.validation), len(data.test)) == (4, 1, 2)
    assert data.train.read_target(torch.tensor([0]))[0, [0, 8, 15], 0].tolist() == [20, -100, 0]
    with pytest.raises(LimbeckError, match="there must be folders JPEGImages"):
        VOCSegmentation(root=str(tmp_path), year="2007").load()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"2007_val0\n2007_val0", "an image must be in one split once, got .*2007_val0.jpg in test and test"),
        (b"2007_train1", "an image must be in one split once, got .*2007_train1.jpg in train and test: correct"),
        (b"../../x", r"val.txt must list names of images, got '\.\./\.\./x': correct it"),
        (b"/etc/x", "val.txt must list names of images, got '/etc/x'"),
        (b"\xff", "val.txt is not UTF-8 text"),
        ("é".encode() * 200, "must have an image and a mask, got no file"),
    ],
)
def test_lists_of_voc_have_each_image_once_in_its_folder(tmp_path, lines, message):
    root = write_voc(tmp_path)
    (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").write_bytes(lines)
    with pytest.raises(LimbeckError, match=message):
        VOCSegmentation(root=str(root), size=(16, 16)).load()


def test_torchvisions_data_sets_have_masks(tmp_path):
    from torchvision.datasets import VOCSegmentation as TorchvisionVOC
    from torchvision.datasets import wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    transforms = v2.Compose([v2.ToImage(), v2.Resize((16, 16)), v2.ToDtype(torch.float32, scale=True)])
    write_voc(tmp_path)
    train, test = (
        wrap_dataset_for_transforms_v2(TorchvisionVOC(str(tmp_path), image_set=split, transforms=transforms))
        for split in ("train", "val")
    )
    data = from_datasets(train, test=test, class_names=VOCSegmentation.classes)
    assert data.train.read_target(torch.tensor([0]))[0, [0, 8, 15], 0].tolist() == [20, -100, 0]
    assert data.input_shape == (3, 16, 16)
