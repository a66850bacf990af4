"""Any folder of images: the split of each folder, image decoding, and the errors for bad files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.core.errors import LimbeckError
from limbeck.data import ImageFolder, Normalization


def pixels(seed, height=8, width=8):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(folder, many, *, height=8, width=8, seed=0, kind="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(many):
        Image.fromarray(pixels(seed + i, height, width)).save(folder / f"{i:03d}.{kind}")


def plain(root, many=20, classes="ab", **how):
    for label, name in enumerate(classes):
        write(root / name, many, seed=1000 * label, **how)
    return root


def parted(root, **parts):
    for number, (part, many) in enumerate(parts.items()):
        for label, name in enumerate("ab"):
            write(root / part / name, many, seed=10_000 * number + 1000 * label)
    return root


def everything(piece):
    return piece.read(torch.arange(len(piece)))


def sizes(data):
    return len(data.train), len(data.validation), len(data.test)


def greys(piece):
    """The images of a part, as bytes that can be put in a set."""
    return {image.numpy().tobytes() for image in everything(piece)}


def disjoint(data):
    parts = [data.train, data.validation, data.test.unlock("weights")]
    pixels, numbers = set().union(*map(greys, parts)), torch.cat([part.sample_ids for part in parts])
    return len(pixels) == len(numbers.unique()) == sum(map(len, parts))


# Which part is which


def test_plain_class_folders_are_cut_by_seed(tmp_path):
    data = ImageFolder(root=str(plain(tmp_path / "pets"))).load(seed=1)
    assert (data.name, data.class_names, data.input_shape, sizes(data)) == ("pets", ("a", "b"), (3, 8, 8), (26, 6, 8))
    assert disjoint(data)
    assert data.normalization == Normalization.imagenet(3)
    other = ImageFolder(root=str(tmp_path / "pets")).load(seed=2)
    assert set(other.train.sample_ids.tolist()) != set(data.train.sample_ids.tolist())


def test_shares_are_kept(tmp_path):
    data = ImageFolder(root=str(plain(tmp_path)), val_split=0.5, test_split=0.5, num_samples=7, num_labeled=4).load()
    assert (sizes(data), data.num_labeled) == ((7, 10, 20), 4)


@pytest.mark.parametrize("validation", ["val", "validation", "valid"])
def test_train_validation_and_test_folders_are_used_as_such(tmp_path, validation):
    data = ImageFolder(root=str(parted(tmp_path, train=10, **{validation: 3}, test=4))).load()
    assert sizes(data) == (20, 6, 8)
    assert disjoint(data)
    assert data.train.sample_ids.tolist() == list(range(20))
    expected = [Image.open(p) for c in "ab" for p in sorted((tmp_path / validation / c).iterdir())]
    assert np.array_equal(
        (everything(data.validation) * 255).round().byte().permute(0, 2, 3, 1),
        np.stack(list(map(np.asarray, expected))),
    )


def test_a_part_without_a_folder_is_cut_off_the_training_part(tmp_path):
    data = ImageFolder(root=str(parted(tmp_path, train=10, test=4))).load()
    assert sizes(data) == (16, 4, 8)
    assert disjoint(data)
    data = ImageFolder(root=str(parted(tmp_path / "b", train=10, val=4)), test_split=0.1).load()
    assert sizes(data) == (18, 8, 2)
    assert disjoint(data)


def test_a_folder_named_as_the_test_part_is_not_the_validation_part_as_well(tmp_path):
    # Tiny-ImageNet: the published figures are those of its folder val.
    data = ImageFolder(root=str(parted(tmp_path, train=10, val=4)), test_split="val").load()
    assert sizes(data) == (16, 4, 8)
    assert disjoint(data)
    assert len(data.test) == len(list((tmp_path / "val").rglob("*.png")))


def test_a_folder_named_as_the_validation_part_is_not_the_test_part_as_well(tmp_path):
    data = ImageFolder(root=str(parted(tmp_path, train=10, test=4)), val_split="test").load()
    assert sizes(data) == (16, 8, 4)
    assert disjoint(data)


def test_a_val_split_ignores_the_folder_of_that_name(tmp_path):
    data = ImageFolder(root=str(parted(tmp_path, train=10, val=4, test=3)), val_split=0.1).load()
    assert sizes(data) == (18, 2, 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_split": "val", "test_split": "val"}, "`test_split: val` is the validation folder"),
        ({"val_split": "val", "test_split": "val/"}, "is the validation folder"),
        ({"val_split": "train"}, "`val_split: train` is the train folder"),
        ({"test_split": "train"}, "`test_split: train` is the train folder"),
    ],
)
def test_one_folder_cannot_be_two_parts(tmp_path, settings, message):
    parted(tmp_path, train=5, val=2)
    with pytest.raises(LimbeckError, match=message):
        ImageFolder(root=str(tmp_path), **settings).load()


def test_a_link_to_a_folder_is_that_folder(tmp_path):
    parted(tmp_path, train=5, val=2)
    (tmp_path / "test").symlink_to(tmp_path / "val")
    with pytest.raises(
        LimbeckError, match="`test_split: test` is the validation folder: a sample belongs to one split only"
    ):
        ImageFolder(root=str(tmp_path)).load()


def test_a_folder_that_is_not_there_is_named_with_those_that_are(tmp_path):
    parted(tmp_path, train=5, val=2)
    with pytest.raises(LimbeckError, match="has no folder 'vall'; it has: val"):
        ImageFolder(root=str(tmp_path), test_split="vall").load()
    with pytest.raises(LimbeckError, match=r"there is no folder .*typo: set data\.root"):
        ImageFolder(root=str(tmp_path / "typo")).load()
    with pytest.raises(LimbeckError, match=r"`test_split: val` needs a train folder, and .* has none"):
        ImageFolder(root=str(plain(tmp_path / "plain")), test_split="val").load()


def test_val_and_test_without_train_are_not_two_classes(tmp_path):
    parted(tmp_path, val=3, test=3)
    with pytest.raises(LimbeckError, match="must have a train folder, got only test, val"):
        ImageFolder(root=str(tmp_path)).load()


# What is in the folders


def test_classes_are_sorted_by_name_and_images_may_be_nested(tmp_path):
    for name in ("cat", "ant", "Bee"):
        write(tmp_path / name / "more", 6)
    write(tmp_path / "cat", 4, seed=50, kind="JPEG")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    data = ImageFolder(root=str(tmp_path), val_split=0.2, test_split=0.2).load()
    assert data.class_names == ("Bee", "ant", "cat")
    target = torch.cat([data.train.target, data.validation.target, data.test.unlock("weights").target])
    assert torch.bincount(target).tolist() == [6, 6, 10]


def test_an_empty_folder_is_one_sentence(tmp_path):
    with pytest.raises(LimbeckError, match="must have one folder per class, got none"):
        ImageFolder(root=str(tmp_path)).load()


def test_a_folder_without_images_is_one_sentence(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("no image")
    with pytest.raises(LimbeckError, match="there is no image in"):
        ImageFolder(root=str(tmp_path)).load()


def test_a_class_without_images_is_named(tmp_path):
    plain(tmp_path)
    (tmp_path / "c").mkdir()
    with pytest.raises(LimbeckError, match=r"the class folder .*c has no image: add images, or remove it"):
        ImageFolder(root=str(tmp_path)).load()


def test_a_class_that_only_training_has_is_fine_and_one_that_only_validation_has_is_not(tmp_path):
    parted(tmp_path, train=10, val=2)
    write(tmp_path / "train" / "c", 10)
    assert torch.bincount(ImageFolder(root=str(tmp_path)).load().validation.target).tolist() == [2, 2]
    write(tmp_path / "val" / "d", 2)
    with pytest.raises(LimbeckError, match="val has classes that the training split does not have: d"):
        ImageFolder(root=str(tmp_path)).load()


# Images


def broken_header(path):
    path.write_bytes(b"no image at all")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def empty(path):
    path.write_bytes(b"")


def too_large(path):
    # The header of an image of 60,000 × 60,000: PIL refuses it as a bomb, with an error of its own kind.
    raw = bytearray(path.read_bytes())
    if path.suffix == ".bmp":
        raw[18:26] = (60_000).to_bytes(4, "little") * 2
    path.write_bytes(raw)


def read_all(source):
    data = source.load()
    for piece in (data.train, data.validation, data.test.unlock("weights")):
        everything(piece)


@pytest.mark.parametrize(
    ("kind", "spoil"),
    [
        ("png", broken_header), ("png", truncated), ("png", empty), ("jpg", broken_header), ("jpg", truncated),
        ("jpg", empty), ("bmp", truncated), ("bmp", too_large), ("gif", truncated), ("webp", truncated),
    ],
)  # fmt: skip
@pytest.mark.parametrize("memory", [1024, 0])
def test_a_corrupt_image_is_one_sentence_that_names_the_file(tmp_path, kind, spoil, memory):
    plain(tmp_path, 10, kind=kind, height=24, width=24)
    spoil(tmp_path / "b" / f"004.{kind}")
    with pytest.raises(LimbeckError, match=rf"image .*/b/004\.{kind} cannot be read \(.*replace or remove it") as error:
        read_all(ImageFolder(root=str(tmp_path), cache_mb=memory))
    assert "\n" not in str(error.value)


def test_a_image_of_16_bits_is_refused_and_not_clipped_to_white(tmp_path):
    plain(tmp_path)
    deep = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(deep).save(tmp_path / "a" / "000.png")
    with pytest.raises(LimbeckError, match=r"a/000\.png must have 8 bits per channel, got mode I;16"):
        ImageFolder(root=str(tmp_path)).load()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA"])
def test_images_of_every_usual_mode_become_colour(tmp_path, mode):
    plain(tmp_path)
    kind = "tif" if mode == "CMYK" else "png"
    Image.fromarray(pixels(7)).convert("RGBA" if mode == "LA" else "RGB").convert(mode).save(
        tmp_path / "a" / f"x.{kind}"
    )
    data = ImageFolder(root=str(tmp_path)).load()
    assert data.input_shape == (3, 8, 8)


def test_different_sizes_without_size_are_one_sentence(tmp_path):
    plain(tmp_path)
    write(tmp_path / "b", 1, height=9)
    with pytest.raises(LimbeckError, match=r"images must have one size, got .*: set `size`"):
        ImageFolder(root=str(tmp_path)).load()


def test_size_scales_the_shorter_side_and_cuts_the_centre_out(tmp_path):
    for name in "ab":
        write(tmp_path / name, 10, height=8, width=8)
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 10:30, 0] = 200  # its middle half is red
    Image.fromarray(wide).save(tmp_path / "a" / "000.png")
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    Image.fromarray(tall).save(tmp_path / "b" / "000.png")
    data = ImageFolder(root=str(tmp_path), size=5, val_split=0.2, test_split=0.2).load()
    assert data.input_shape == (3, 5, 5)
    parts = [data.train, data.validation, data.test.unlock("weights")]
    whole = torch.cat([everything(part) for part in parts])
    whole = whole[torch.cat([part.sample_ids for part in parts]).argsort()]
    # Shrunk by half to 5 × 20, the center 5 × 5 lies wholly in the middle half.
    for number in (0, 10):
        assert torch.equal(whole[number, 0], torch.full((5, 5), 200 / 255))
        assert (whole[number, 1:] == 0).all()
    assert torch.equal(whole[1], from_pil(tmp_path / "a" / "001.png", (5, 5)))


def from_pil(path, size):
    image = Image.open(path).resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float() / 255


def test_size_enlarges_as_well(tmp_path):
    assert ImageFolder(root=str(plain(tmp_path, height=3, width=31)), size=17).load().input_shape == (3, 17, 17)


def test_grey_images_have_one_channel(tmp_path):
    data = ImageFolder(root=str(plain(tmp_path)), channels=1).load()
    assert data.input_shape == (1, 8, 8)
    assert data.normalization == Normalization.imagenet(1)
    number = int(data.train.sample_ids[0])
    colour = np.asarray(Image.open(tmp_path / "ab"[number // 20] / f"{number % 20:03d}.png")).astype(float)
    luma = colour @ [0.299, 0.587, 0.114]  # ITU-R 601
    np.testing.assert_allclose(data.train.read(torch.tensor([0]))[0, 0].numpy() * 255, luma, atol=1)


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": -5}, {"channels": 2}, {"channels": 4}])
def test_impossible_sizes_and_channels_are_refused(tmp_path, settings):
    with pytest.raises(LimbeckError, match=r"size must be from 1 to .* and channels 1 or 3"):
        ImageFolder(root=str(plain(tmp_path)), **settings).load()


# Memory


def test_images_read_from_files_are_the_same_pixels(tmp_path):
    from limbeck.data.split import ImageFiles, InMemory

    plain(tmp_path, kind="jpg", height=12, width=9)
    kept, files = (ImageFolder(root=str(tmp_path), size=6, cache_mb=memory).load(seed=1) for memory in (1, 0))
    assert isinstance(kept.train.images, InMemory)
    assert isinstance(files.train.images, ImageFiles)
    for one, other in ((kept.train, files.train), (kept.validation, files.validation)):
        assert torch.equal(one.sample_ids, other.sample_ids)
        assert torch.equal(everything(one), everything(other))
    for step in (0, 5):
        assert torch.equal(
            kept.batches(batch_size=4).batch(step)["input"], files.batches(batch_size=4).batch(step)["input"]
        )
    assert kept.normalization == files.normalization


def test_the_fingerprint_of_files_sees_other_files_names_sizes_and_settings(tmp_path):
    plain(tmp_path)

    def mark(**settings):
        return ImageFolder(root=str(tmp_path), cache_mb=0, **settings).load().fingerprint()

    result = [mark(), mark(size=4), mark(channels=1)]
    assert mark() == result[0]
    (tmp_path / "a" / "000.png").rename(tmp_path / "a" / "000b.png")
    result.append(mark())
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "001.png")
    result.append(mark())
    assert len(set(result)) == 5


def test_several_corrupt_images_are_named_at_once(tmp_path):
    plain(tmp_path, 10, kind="png", height=8, width=8)
    names = [f"{number:03d}.png" for number in range(1, 9)]
    for name in names:
        empty(tmp_path / "b" / name)
    shown = ", ".join(str(tmp_path / "b" / name) for name in names[1:6])
    with pytest.raises(LimbeckError) as error:
        read_all(ImageFolder(root=str(tmp_path)))
    assert str(error.value).endswith(f"replace or remove it; the same for {shown} and 2 more")
    assert f"the image {tmp_path / 'b' / names[0]} cannot be read" in str(error.value)


def test_a_missing_image_is_one_sentence(tmp_path):
    data = ImageFolder(root=str(plain(tmp_path)), cache_mb=0).load()
    for path in (tmp_path / "a").iterdir():
        path.unlink()
    with pytest.raises(LimbeckError, match=r"the image .*/a/.* cannot be read"):
        everything(data.train)


def test_only_some_class_folders_are_used(tmp_path):
    root = plain(tmp_path, classes="abc")
    data = ImageFolder(root=str(root), classes=("c", "a")).load(seed=0)
    assert data.class_names == ("a", "c")
    assert sum(sizes(data)) == 40
    with pytest.raises(LimbeckError, match=r"classes: .* has no class folder 'd'; it has: a, b, c"):
        ImageFolder(root=str(root), classes=("a", "d")).load(seed=0)
    with pytest.raises(LimbeckError, match="at least two different folders"):
        ImageFolder(root=str(root), classes=("a", "a")).load(seed=0)
