"""All that is wrong with a data source, at once."""

from __future__ import annotations

import json
import struct
from collections import Counter

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from limbeck.cli import main
from limbeck.data import ImageFolder, InMemory, SegmentationFolder, Split, make_splits
from limbeck.data.check_source import check_source
from limbeck.data.sources import SpokenDigits


def write(path, height=8, width=8, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_classes(root, classes="ab", count=12, offset=0):
    for label, name in enumerate(classes):
        for i in range(count):
            write(root / name / f"{i}.png", seed=offset + 1000 * label + i)


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Two unreadable files, a duplicate in two splits, an odd size, a tiny class, and a loose image."""
    root = tmp_path_factory.mktemp("bad")
    for number, split in enumerate(("train", "val", "test")):
        write_classes(root / split, offset=100 * number)
    (root / "train" / "a" / "cut.png").write_bytes((root / "train" / "a" / "0.png").read_bytes()[:60])
    (root / "test" / "b" / "empty.jpg").write_bytes(b"")
    (root / "test" / "a" / "twin.png").write_bytes((root / "train" / "a" / "3.png").read_bytes())
    write(root / "train" / "b" / "wide.png", 8, 90, seed=77)
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        for i in range(count):
            write(root / split / "rare" / f"{i}.png", seed=hash((split, i)) % 1000 + 5000)
    write(root / "train" / "loose.png", seed=4)
    return root


def kinds(report):
    return Counter(problem.kind for problem in report.problems)


def test_everything_is_found_at_once(bad):
    report = check_source(ImageFolder(root=str(bad), size=8))
    assert report.num_files == 6 * 12 + 4 + 4
    assert kinds(report) == {"unreadable": 2, "duplicate": 1, "odd_size": 1, "tiny_class": 1, "warning": 1}
    by_kind = {problem.kind: problem for problem in report.problems}
    assert {p.path.rsplit("/", 1)[1] for p in report.problems if p.kind == "unreadable"} == {"cut.png", "empty.jpg"}
    assert by_kind["duplicate"].message.endswith("train/a/3.png (training): remove one of them")
    assert (by_kind["duplicate"].split, by_kind["duplicate"].class_name) == ("test", "a")
    assert by_kind["odd_size"].path.endswith("wide.png")
    assert (by_kind["tiny_class"].class_name, by_kind["tiny_class"].split) == ("rare", "training")
    assert "loose.png" in by_kind["warning"].message


def test_without_size_each_file_of_another_size_is_listed(bad):
    report = check_source(ImageFolder(root=str(bad)))
    (odd,) = [problem for problem in report.problems if problem.kind == "odd_size"]
    assert odd.message.endswith("wide.png is 90x8, and most images are 8x8: set data.size")


def test_good_data_have_no_problem(tmp_path):
    write_classes(tmp_path, count=20)
    report = check_source(ImageFolder(root=str(tmp_path), size=8))
    assert (report.problems, report.num_samples) == ((), {"training": 26, "validation": 6, "test": 8})


def test_equal_files_of_a_folder_that_is_split_at_random_are_listed(tmp_path):
    write_classes(tmp_path, count=20)
    (tmp_path / "b" / "copy.png").write_bytes((tmp_path / "a" / "1.png").read_bytes())
    (problem,) = check_source(ImageFolder(root=str(tmp_path), size=8)).problems
    assert problem.kind == "duplicate"
    assert "in the classes 'a' and 'b'" in problem.message


def test_a_missing_folder_is_a_problem(tmp_path):
    (problem,) = check_source(ImageFolder(root=str(tmp_path / "nowhere"))).problems
    assert problem.kind == "error"
    assert "there is no folder" in problem.message


def test_masks_are_checked(tmp_path):
    for i in range(10):
        write(tmp_path / "train" / f"{i}.png", seed=i)
        (tmp_path / "trainannot").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8 + 2 * (i == 2)), i % 2, np.uint8)).save(tmp_path / "trainannot" / f"{i}.png")
    (tmp_path / "trainannot" / "4.png").write_bytes(b"no mask")
    write(tmp_path / "trainannot" / "5.png")
    source = SegmentationFolder(root=str(tmp_path), classes=("x", "y"))
    report = check_source(source)
    assert kinds(report) == {"unreadable": 2, "odd_size": 1}
    assert any("2.png is 10x8, and its image 8x8" in problem.message for problem in report.problems)


def test_clips_are_checked(tmp_path):
    header = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16) + b"data" + struct.pack("<I", 1600)
    for take in range(8):
        samples = np.random.default_rng(take).integers(-99, 99, 800).astype("<i2").tobytes()
        (tmp_path / f"1_ann_{take}.wav").write_bytes(b"RIFF" + struct.pack("<I", 1636) + header + samples)
    (tmp_path / "1_ann_3.wav").write_bytes(b"RIFF")
    (tmp_path / "1_ann_6.wav").write_bytes(b"")
    report = check_source(SpokenDigits(root=str(tmp_path)))
    assert kinds(report)["unreadable"] == 2


class Arrays:
    """A source without files: sample 35 is sample 2, and one class has few samples."""

    def load(self, *, seed=0):
        images = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        images[35] = images[2]
        target = (torch.arange(60) % 20 == 0).long()
        parts = [Split.from_images(InMemory(images), target).subset(torch.arange(i, i + 20)) for i in (0, 20, 40)]
        return make_splits("arrays", "ab", parts[0], seed=seed, validation=parts[1], test=parts[2])


def test_sources_without_files_are_checked_by_sample():
    report = check_source(Arrays())
    assert [problem.message for problem in report.problems] == [
        "the class 'b' has 1 labeled training samples, fewer than 10: add some",
        "sample 35 (validation) is the same as sample 2 (training): remove one of them",
    ]


def recipe(root, path):
    document = {
        "task": "Classification", "data": {"use": "ImageFolder", "root": str(root), "size": 8}, "student": "small_cnn",
        "stages": [{"name": "a", "steps": 1, "objective": {"target": "CrossEntropyLoss"}}],
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    return str(path)


def test_the_command_lists_all_and_exits_with_1(bad, tmp_path, capsys):
    path = recipe(bad, tmp_path / "recipe.yaml")
    assert main(["data", "check", path]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ImageFolder: 80 files"
    assert lines[-1] == "6 problems (1 warning, 2 unreadable, 1 odd size, 1 tiny class, 1 duplicate)"
    assert sum(line.startswith("unreadable: the image ") for line in lines) == 2
    assert main(["data", "check", path, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["num_files"], len(report["problems"])) == (False, 80, 6)
    write_classes(tmp_path / "good", count=20)
    assert main(["data", "check", path, "--data-root", str(tmp_path / "good")]) == 0
    assert capsys.readouterr().out == ("ImageFolder: 40 files, 26 training, 6 validation, 8 test\nno problem found\n")


def test_control_characters_of_a_file_name_are_escaped(tmp_path, capsys):
    write_classes(tmp_path / "photos")
    (tmp_path / "photos" / "a" / "x\x1b[31m.png").write_text("no image")
    assert main(["data", "check", recipe(tmp_path / "photos", tmp_path / "recipe.yaml")]) == 1
    output = capsys.readouterr().out
    assert "a/x\\x1b[31m.png cannot be read" in output
    assert "\x1b" not in output
