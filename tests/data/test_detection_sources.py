"""Boxes in the formats of Pascal VOC and COCO: read, checked, resized and moved with their images."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck import LimbeckError
from limbeck.data import (
    Augmentation,
    CocoDetection,
    VOCDetection,
    affine,
    color_jitter,
    horizontal_flip,
    iterate_batches,
    mixup,
    random_crop,
    random_resized_crop,
    scale_jitter,
    torchvision,
)
from limbeck.data.check_source import check_source
from limbeck.data.image_preprocessing import ImagePreprocessing
from limbeck.data.sources.voc_detection import read_voc_annotation
from limbeck.testing import check_data_source

SIZE = (24, 32)
CELL, DISC = (8, 6, 20, 15), (2, 16, 10, 22)
REAL = Path(os.environ.get("LIMBECK_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))


def draw(path, boxes, size=SIZE, **options):
    """An image that is white in ``boxes``."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[0, 0] = [byte % 60 for byte in hashlib.sha256(path.name.encode()).digest()[:3]]  # no two are equal
    for left, top, right, bottom in boxes:
        pixels[top:bottom, left:right] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def voc_xml(objects, size=SIZE):
    """An annotation with ``objects`` of (class name, xyxy from 0, difficult)."""
    texts = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}"
        f"</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox><part><name>x</name><bndbox/></part></object>"
        for name, (left, top, right, bottom), difficult in objects
    ]
    stated = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"<annotation>{stated}{''.join(texts)}</annotation>"


OBJECTS = [[("cell", CELL, 0)], [("disc", DISC, 0), ("cell", CELL, 1)], []]
"""Of three images: the second has a difficult box, the third none."""


def write_voc(root, sets=(("train", 6), ("val", 3), ("test", 3))):
    number = 0
    for name, count in sets:
        ids = [f"{number + i:03d}" for i in range(count)]
        for i, stem in enumerate(ids):
            objects = OBJECTS[i % 3]
            draw(root / "JPEGImages" / f"{stem}.png", [box for _, box, difficult in objects if not difficult])
            (root / "Annotations").mkdir(exist_ok=True)
            (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(objects))
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(ids) + "\n")
        number += count
    return root


def write_coco(root, sets=(("train2017", 6), ("val2017", 3))):
    for name, count in sets:
        images, annotations = [], []
        for i in range(count):
            objects = OBJECTS[i % 3]
            draw(root / name / f"{name}_{i}.png", [box for _, box, crowd in objects if not crowd])
            images.append({"id": 10 * i, "file_name": f"{name}_{i}.png", "height": SIZE[0], "width": SIZE[1]})
            annotations += [
                {
                    "id": len(annotations),
                    "image_id": 10 * i,
                    "category_id": {"cell": 7, "disc": 3}[label],
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": crowd,
                }
                for label, (left, top, right, bottom), crowd in objects
            ]
        categories = [{"id": 7, "name": "cell"}, {"id": 3, "name": "disc"}]
        (root / "annotations").mkdir(exist_ok=True, parents=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return write_voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"))


def one_voc(root, objects, size=SIZE, stated=None, xml=None, **options):
    """A flat folder of one image three times."""
    for i in range(3):
        draw(root / f"{i}.png", [box for _, box, _ in objects if max(box) <= max(size)], size, **options)
        (root / f"{i}.xml").write_text(voc_xml(objects, stated or size) if xml is None else xml)
    return root


def read(split):
    return split.read_fields(torch.arange(len(split)))


@pytest.mark.parametrize("cache_mb", [0, 100])
def test_voc_sets_and_boxes(voc, cache_mb):
    data = VOCDetection(root=str(voc), cache_mb=cache_mb).load()
    assert (len(data.train), len(data.validation), len(data.test), data.class_names) == (6, 3, 3, ("cell", "disc"))
    batch = read(data.train)
    assert batch["num_boxes"].tolist() == [1, 1, 0, 1, 1, 0]  # images without boxes are kept
    assert batch["boxes"][:2, 0].tolist() == [list(CELL), list(DISC)]
    assert batch["labels"][:3].tolist() == [[0, -100], [1, 0], [-100, -100]]
    assert batch["ignored"][:3].tolist() == [[0, 0], [0, 1], [0, 0]]  # difficult
    assert [path.name for path in data.train.paths] == [f"{i:03d}.png" for i in range(6)]


def test_coco_sets_and_boxes(coco):
    data = CocoDetection(root=str(coco)).load()
    assert (len(data.train), len(data.validation), len(data.test)) == (5, 3, 1)
    assert data.class_names == ("disc", "cell")  # by id
    batch = read(data.validation)
    assert batch["num_boxes"].tolist() == [1, 1, 0]
    assert batch["boxes"][:2, 0].tolist() == [list(CELL), list(DISC)]
    assert batch["labels"].tolist() == [[1, -100], [0, 1], [-100, -100]]
    assert batch["ignored"].tolist() == [[0, 0], [0, 2], [0, 0]]  # a crowd


def test_difficult_and_crowd_boxes_can_be_kept_or_dropped(voc, coco):
    for source in (VOCDetection(root=str(voc), difficult="drop"), CocoDetection(root=str(coco), iscrowd="drop")):
        assert source.load().train.read_fields(torch.tensor([1])).keys() == {"input", "boxes", "labels", "num_boxes"}
    for source in (VOCDetection(root=str(voc), difficult="keep"), CocoDetection(root=str(coco), iscrowd="keep")):
        data = source.load()
        assert read(data.validation)["num_boxes"].tolist() == [1, 2, 0]
        assert read(data.validation)["boxes"][1].tolist() == [list(DISC), list(CELL)]


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_classes_are_a_selection_in_order(voc, coco, kind):
    source, root = {"voc": (VOCDetection, voc), "coco": (CocoDetection, coco)}[kind]
    data = source(root=str(root), classes=("disc",)).load()
    assert data.class_names == ("disc",)
    assert read(data.validation)["num_boxes"].tolist() == [0, 1, 0]
    with pytest.raises(LimbeckError, match=r"classes: the training annotations have no class 'disk'; they have: disc"):
        source(root=str(root), classes=("disk",)).load()


def test_sets_by_name_and_fraction(voc, coco, tmp_path):
    data = VOCDetection(root=str(voc), val_split=0.5, test_split="val").load()
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 3, 3)
    data = CocoDetection(root=str(coco), val_split=0.5, test_split="val2017").load()
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 3, 3)
    for source, root, name in ((VOCDetection, voc, "test"), (CocoDetection, coco, "val2017")):
        with pytest.raises(LimbeckError, match=rf"val_split: there is no set 'nowhere'; available: .*{name}"):
            source(root=str(root), val_split="nowhere").load()
    with pytest.raises(LimbeckError, match=r"an image must be in one split, got .* in validation and test"):
        VOCDetection(root=str(voc), val_split="test", test_split="test").load()


def test_flat_folders(tmp_path):
    data = VOCDetection(root=str(one_voc(tmp_path / "flat", OBJECTS[0])), val_split=0.34, test_split=0.34).load()
    assert (len(data.train), len(data.validation), len(data.test)) == (1, 1, 1)
    for name in ("train", "valid"):
        one_voc(tmp_path / "sets" / name, OBJECTS[0])
        write_coco(tmp_path / "coco", ((name, 3),))
        (tmp_path / "coco" / "annotations" / f"instances_{name}.json").rename(
            tmp_path / "coco" / name / "_annotations.coco.json"
        )
    for source in (VOCDetection(root=str(tmp_path / "sets")), CocoDetection(root=str(tmp_path / "coco"))):
        data = source.load()
        assert (len(data.train), len(data.validation), len(data.test)) == (2, 3, 1)
    one_set = CocoDetection(
        root=str(tmp_path / "coco"), annotations="train/_annotations.coco.json", images="train", val_split=0.34,
        test_split=0.34,
    )  # fmt: skip
    assert len(one_set.load().train) == 1
    with pytest.raises(LimbeckError, match="annotations and images must be set together"):
        CocoDetection(root=str(tmp_path / "coco"), images="train").load()


@pytest.mark.parametrize(
    ("size", "new_size"), [((24, 32), (12, 16)), ((24, 32), (32, 32)), ((24, 32), (48, 20)), ((30, 10), (12, 12))]
)
def test_boxes_are_resized_with_the_image_and_padding_is_gray(tmp_path, size, new_size):
    box = (2, 6, 8, 18)
    root = one_voc(tmp_path, [("cell", box, 0)], size)
    for cache_mb in (0, 10):
        data = VOCDetection(root=str(root), size=new_size, cache_mb=cache_mb, val_split=0.34, test_split=0.34).load()
        batch = read(data.train)
        image, moved = batch["input"][0, 0], batch["boxes"][0, 0]
        scale = min(new_size[0] / size[0], new_size[1] / size[1])
        torch.testing.assert_close(moved, scale * torch.tensor(box, dtype=torch.float), atol=0.6, rtol=0)
        rows, columns = (image > 0.7).nonzero(as_tuple=True)
        seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        torch.testing.assert_close(moved, seen.float(), atol=0.8, rtol=0)
        padding = torch.cat([image[round(size[0] * scale) :].flatten(), image[:, round(size[1] * scale) :].flatten()])
        assert (padding == 128 / 255).all()
        assert ImagePreprocessing.from_data(data) is None
    assert data.input_shape == (3, *new_size)


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (9, 5, 5, 9), (40, 5, 44, 9), (-9, 5, -2, 9), (float("nan"), 2, 5, 9)]
)  # fmt: skip
@pytest.mark.parametrize("source", ["voc", "coco"])
def test_invalid_boxes_are_refused_with_the_file_or_dropped(tmp_path, box, source):
    if source == "voc":
        root = one_voc(tmp_path, [("cell", CELL, 0)])
        text = voc_xml([("cell", CELL, 0), ("disc", [x - 1 for x in box[:2]] + list(box[2:]), 0)])
        (root / "1.xml").write_text(text)
        data, file = VOCDetection(root=str(root), val_split=0.34, test_split=0.34), "1.xml"
    else:
        root = write_coco(tmp_path)
        path = root / "annotations" / "instances_train2017.json"
        content = json.loads(path.read_text())
        bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        content["annotations"].append({"image_id": 20, "category_id": 3, "bbox": bbox})
        path.write_text(json.dumps(content))
        data, file = CocoDetection(root=str(root)), "instances_train2017.json"
    with pytest.raises(LimbeckError, match=rf"a box must have left < right.*in .*{file} \(.*\.png, 32x24\): correct"):
        data.load()
    fields = {name: getattr(data, name) for name in data.__dataclass_fields__}
    with pytest.warns(UserWarning, match="1 invalid box is dropped: "):
        loaded = type(data)(**{**fields, "invalid_boxes": "drop"}).load()
    splits = (loaded.train, loaded.validation, loaded.test.unlock("test"))
    assert sum(int(read(split)["num_boxes"].sum()) for split in splits) == (3 if source == "voc" else 6)


def test_boxes_beyond_the_image_are_clipped(tmp_path):
    root = one_voc(tmp_path, [("cell", (-1, 4, 33, 24), 0)])
    data = VOCDetection(root=str(root), val_split=0.34, test_split=0.34)
    assert read(data.load().train)["boxes"].tolist() == [[[0, 4, 32, 24]]]  # one pixel is no warning
    one_voc(tmp_path, [("cell", (20, 4, 60, 24), 0)])
    with pytest.warns(UserWarning, match=r"boxes of 3 images reach beyond the image and are clipped, such as in .*xml"):
        assert read(data.load().train)["boxes"].tolist() == [[[20, 4, 32, 24]]]


def test_boxes_are_those_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored pixels are turned left
    stored, upright = (16, 24), (24, 16)
    root = one_voc(tmp_path, [("cell", (1, 2, 9, 21), 0)], stored, upright, exif=exif)
    data = VOCDetection(root=str(root), val_split=0.34, test_split=0.34).load()
    assert data.input_shape == (3, *upright)
    assert read(data.train)["boxes"].tolist() == [[[1, 2, 9, 21]]]
    one_voc(tmp_path, [("cell", (1, 2, 9, 14), 0)], stored, stored, exif=exif)
    with pytest.raises(LimbeckError, match=r"upright image .*0\.png, 16x24, got 24x16: remove the EXIF orientation"):
        VOCDetection(root=str(root)).load()
    one_voc(tmp_path, [("cell", CELL, 0)], SIZE, (30, 30))
    with pytest.raises(LimbeckError, match=r"must state the size .* 32x24, got 30x30: annotate this image again"):
        VOCDetection(root=str(root)).load()


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation><object>", "cannot be read as XML .no element found"),
        ("", "cannot be read as XML"),
        (BOMB, "document types and entities are not allowed"),
        ('<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>', "document types and entities"),
        ("<html/>", "must have the root <annotation>, got <html>"),
        ("<annotation><object><name>a</name></object></annotation>", "<object> has no <bndbox/xmin>"),
        ("<annotation><object><bndbox/></object></annotation>", "<object> has no <name>"),
        (voc_xml([("a", CELL, 0)]).replace("<xmin>9", "<xmin>nine"), "<bndbox/xmin> must be a number, got 'nine'"),
        (voc_xml([]).replace("<width>32", "<width>wide"), "<width> must be a number, got 'wide'"),
        (voc_xml([]).replace("<width>32", "<width>inf"), "must be of Pascal VOC"),
        ('<?xml version="1.0" encoding="none"?><annotation/>', "cannot be read as XML"),
    ],
)
def test_damaged_xml_is_one_sentence_with_the_file(tmp_path, xml, message):
    root = one_voc(tmp_path, OBJECTS[0])
    (root / "1.xml").write_text(xml)
    with pytest.raises(LimbeckError, match=rf"{root}/1\.xml .*{message}") as caught:
        VOCDetection(root=str(root)).load()
    assert "\n" not in str(caught.value)
    (problem,) = check_source(VOCDetection(root=str(root))).problems
    assert (problem.kind, problem.path) == ("unreadable", str(root / "1.xml"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "latin-1"])
def test_xml_of_any_encoding_is_read_without_a_document_type(tmp_path, encoding):
    path, name = tmp_path / "0.xml", "größe"
    declaration = "" if encoding == "utf-8-sig" else f'<?xml version="1.0" encoding="{encoding}"?>'
    path.write_bytes((declaration + voc_xml([(name, CELL, 0)])).encode(encoding))
    image = read_voc_annotation(path, tmp_path / "0.png")
    assert (image.size, image.boxes, image.class_names) == (SIZE, [CELL], [name])
    path.write_bytes((declaration + BOMB).encode(encoding))
    with pytest.raises(
        LimbeckError, match=r"0\.xml cannot be read as XML .document types and entities are not allowed"
    ):
        read_voc_annotation(path, tmp_path / "0.png")


def test_huge_and_deep_xml_is_no_crash(tmp_path):
    path = tmp_path / "0.xml"
    path.write_text(f"<annotation>{'<a>' * 100_000}{'</a>' * 100_000}</annotation>")
    assert read_voc_annotation(path, tmp_path / "0.png").boxes == []
    with path.open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(LimbeckError, match="must have at most 16,777,216 bytes, got 16,777,217"):
        read_voc_annotation(path, tmp_path / "0.png")


IMAGE, CATEGORY = {"id": 1, "file_name": "0.png"}, {"id": 1, "name": "a"}


@pytest.mark.parametrize(
    ("source", "setting", "message"),
    [
        (VOCDetection, {"first_pixel": 2}, "first_pixel must be 0 or 1, got 2"),
        (VOCDetection, {"difficult": "maybe"}, "difficult must be ignore, drop or keep, got 'maybe'"),
        (VOCDetection, {"invalid_boxes": "fix"}, "invalid_boxes must be raise or drop, got 'fix'"),
        (CocoDetection, {"iscrowd": "no"}, "iscrowd must be ignore, drop or keep, got 'no'"),
        (CocoDetection, {"invalid_boxes": "fix"}, "invalid_boxes must be raise or drop, got 'fix'"),
        (CocoDetection, {"size": (3,)}, r"size must be height and width from 1 to 8192, got \(3,\)"),
    ],
)
def test_settings_of_other_values_are_refused(source, setting, message):
    with pytest.raises(LimbeckError, match=message):
        source(**setting).load()


@pytest.mark.parametrize("classes", [None, ("a",)])
def test_training_needs_a_box(tmp_path, classes):
    root = one_voc(tmp_path, [])
    with pytest.raises(LimbeckError, match="the training annotations must have a box, got none: annotate images"):
        VOCDetection(root=str(root), classes=classes).load()


def test_training_needs_a_box_that_is_not_ignored(tmp_path):
    root = one_voc(tmp_path / "voc", [("cell", CELL, 1)])
    message = r"the training annotations must have a box, got none: annotate .* \(ignored boxes do not count\)$"
    with pytest.raises(LimbeckError, match=message):
        VOCDetection(root=str(root)).load()
    assert len(VOCDetection(root=str(root), difficult="keep", val_split=0.34, test_split=0.34).load().train) == 1
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "annotations": [{**x, "iscrowd": 1} for x in content["annotations"]]}))
    with pytest.raises(LimbeckError, match=message):
        CocoDetection(root=str(root)).load()
    # The boxes that count are of a class that is not selected.
    root = one_voc(tmp_path / "classes", [("cell", CELL, 1), ("disc", DISC, 0)])
    with pytest.raises(LimbeckError, match=message):
        VOCDetection(root=str(root), classes=("cell",)).load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be of COCO .Expecting property name"),
        ("[]", "'images' must be a list of mappings"),
        ("[" * 100_000, "nested too deep"),
        ({"images": [1]}, "'images' must be a list of mappings"),
        ({"images": [IMAGE], "annotations": []}, "'categories' must be a list of mappings"),
        ({"images": [{"id": 1}]}, "'file_name' of an entry must be str, got None"),
        ({"images": [{**IMAGE, "file_name": "../0.png"}]}, "must be a path in the folder of the images"),
        ({"images": [IMAGE, IMAGE]}, "must have different ids of images"),
        ({"images": [IMAGE, {**IMAGE, "id": 2}]}, "must list each image once"),
        ({"categories": [CATEGORY, {**CATEGORY, "name": "b"}]}, "categories must have different ids, got equal ones"),
        ({"images": [{**IMAGE, "file_name": "é" * 200}]}, "must be in .*, got none at"),
        (
            {"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "iscrowd": "0"}]},
            "iscrowd must be 0 or 1, got '0'",
        ),
        ({"images": [{**IMAGE, "file_name": "9.png"}]}, "must be in .*, got none at .*9.png"),
        ({"annotations": [{"image_id": 2, "category_id": 1, "bbox": [0, 0, 1, 1]}]}, "must be of a listed image"),
        ({"annotations": [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 1, 1]}]}, "must be of a listed image"),
        ({"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1]}]}, "bbox must be x, y, width, height"),
        ({"annotations": [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 10**400]}]}, "bbox must be finite"),
        ({"annotations": [{"image_id": 1, "category_id": 1}]}, "bbox must be x, y, width, height, got None"),
    ],
)
def test_damaged_json_is_one_sentence_with_the_file(tmp_path, content, message):
    draw(tmp_path / "images" / "0.png", [])
    complete = {"images": [IMAGE], "annotations": [], "categories": [CATEGORY]}
    if isinstance(content, dict):
        content = json.dumps(content if "images" in content and content["images"] == [1] else {**complete, **content})
    if "categories' must" in message:
        content = json.dumps({"images": [IMAGE], "annotations": []})
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(LimbeckError, match=message) as caught:
        CocoDetection(root=str(tmp_path), annotations="boxes.json", images="images").load()
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "boxes.json") in str(caught.value)


def test_missing_files_are_one_sentence(voc, tmp_path):
    with pytest.raises(FileNotFoundError, match="there must be folders JPEGImages and Annotations, or images beside"):
        VOCDetection(root=str(tmp_path)).load()
    files = r"annotations/instances_train\.json or train/_annotations\.coco\.json or annotations/train\.json"
    with pytest.raises(FileNotFoundError, match=rf"there must be {files} and a folder of its images in"):
        CocoDetection(root=str(tmp_path)).load()
    root = write_voc(tmp_path / "a")
    (root / "Annotations" / "001.xml").unlink()
    with pytest.raises(LimbeckError, match=r"each image must have an annotation .* got none for .*001\.png: add one"):
        VOCDetection(root=str(root)).load()
    with pytest.raises(LimbeckError, match=r"there must be \{x\}\.json and a folder of its images in"):
        CocoDetection(root=str(tmp_path), annotations="{x}.json", images="{set}").load()
    (root / "ImageSets" / "Main" / "other.txt").write_bytes(b"000\xff")
    with pytest.raises(LimbeckError, match=r"other\.txt is not UTF-8 text"):
        VOCDetection(root=str(root)).load()
    (root / "ImageSets" / "Main" / "other.txt").unlink()
    (root / "ImageSets" / "Main" / "train.txt").write_text("000\n../secret 1\n")
    with pytest.raises(LimbeckError, match=r"train\.txt must list images of .*, got '\.\./secret'"):
        VOCDetection(root=str(root)).load()
    one_voc(tmp_path / "b", OBJECTS[0])
    (tmp_path / "b" / "extra.xml").write_text(voc_xml([]))
    with pytest.warns(UserWarning, match=r"1 annotations in .* have no image and are not used, such as extra\.xml"):
        VOCDetection(root=str(tmp_path / "b"), val_split=0.34, test_split=0.34).load()


TRANSFORMS = (
    horizontal_flip(), random_crop(5), random_resized_crop((0.4, 0.8)), scale_jitter((0.5, 1.5)),
    affine(0.0, (0.5, 1.5), 0.1), color_jitter(),
    torchvision("RandomVerticalFlip"), torchvision("RandomAffine", degrees=0, scale=[0.5, 1.5]),
    torchvision("RandomPhotometricDistort"),
)  # fmt: skip


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: repr(transform).split("(")[0])
def test_augmentation_moves_boxes_with_the_images(voc, transform):
    data = VOCDetection(root=str(voc), augment=Augmentation((transform,)), normalize="none").load()
    stream, checked = data.batches(batch_size=6), 0
    for step in range(4):
        batch = stream.batch(step)
        for image, boxes, count in zip(batch["input"], batch["boxes"], batch["num_boxes"].tolist(), strict=True):
            if not count:
                continue
            gray = image.mean(dim=0)
            left, top, right, bottom = boxes[0].tolist()
            rows, columns = (gray > (gray.min() + gray.max()) / 2).nonzero(as_tuple=True)
            seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            torch.testing.assert_close(torch.tensor([left, top, right, bottom]), seen.float(), atol=1.6, rtol=0)
            checked += 1
    assert checked > 4


def test_boxes_that_leave_the_image_are_dropped_and_mixing_is_refused(voc):
    away = torchvision("RandomAffine", degrees=0, translate=[1.0, 1.0])
    data = VOCDetection(root=str(voc), augment=Augmentation((away,)), difficult="drop").load()
    batch = data.batches(batch_size=6).batch(0)
    assert batch["num_boxes"].sum() < 4
    assert ((batch["boxes"][..., 2:] - batch["boxes"][..., :2]).amin(2) >= 1).sum() == batch["num_boxes"].sum()
    with pytest.raises(LimbeckError, match="cannot transform boxes together with images"):
        VOCDetection(root=str(voc), augment=Augmentation((mixup(),))).load()


def test_contract_and_data_check(voc, coco):
    for source in (VOCDetection(root=str(voc), size=(16, 16)), CocoDetection(root=str(coco), size=(16, 16))):
        check_data_source(source)
    report = check_source(VOCDetection(root=str(voc)))
    assert (report.num_files, report.num_samples) == (24, {"training": 6, "validation": 3, "test": 3})
    assert {problem.kind for problem in report.problems} == {"tiny_class"}
    assert "the class 'disc' has 2 training images with a box, fewer than 10" in report.problems[1].message
    assert check_source(CocoDetection(root=str(coco))).num_files == 11


def test_labels_can_be_hidden(voc):
    data = VOCDetection(root=str(voc), num_labeled=2, num_samples=5).load()
    assert (read(data.train)["num_boxes"] == -1).sum() == 3
    assert next(iterate_batches(data.train, data.normalization))["boxes"].shape[0] == 5


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_unlabeled_images_are_resized_as_the_others(kind, tmp_path):
    write, source = (write_voc, VOCDetection) if kind == "voc" else (write_coco, CocoDetection)
    root = write(tmp_path)
    draw(root / "more" / "deep" / "x.png", [], size=(20, 40))
    source = source(root=str(root), size=(16, 16), unlabeled="more", normalize="none")
    data = source.load()
    fields = read(data.train)
    assert (fields["num_boxes"] == -1).tolist() == [False] * data.num_labeled + [True]
    assert fields["labels"][-1].tolist() == [-100, -100]
    assert fields["input"][-1, 0, 10:, :].unique().tolist() == pytest.approx([128 / 255])  # padded below 8 rows
    assert len(data.validation) == 3
    assert [file.split for file in source.list_files() if file.path.name == "x.png"] == ["unlabeled"]


def test_real_blood_cells():
    if not (REAL / "bccd" / "BCCD" / "Annotations").is_dir():
        pytest.skip("no unpacked BCCD: set LIMBECK_DATA")
    source = VOCDetection(root=str(REAL), name="bccd/BCCD", size=(60, 80), cache_mb=0, normalize="none")
    with pytest.raises(LimbeckError, match=r"got \[181, 329, 181, 329\] in .*BloodImage_00343\.xml"):
        source.load()
    fields = {name: getattr(source, name) for name in source.__dataclass_fields__}
    with pytest.warns(UserWarning, match="1 invalid box is dropped"):
        data = VOCDetection(**{**fields, "invalid_boxes": "drop"}).load()
    assert (len(data.train), len(data.validation), len(data.test)) == (205, 87, 72)
    assert data.class_names == ("Platelets", "RBC", "WBC")
    assert data.train.read(torch.tensor([0])).shape == (1, 3, 60, 80)
