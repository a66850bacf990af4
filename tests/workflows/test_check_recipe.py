"""``limbeck recipe check`` finds, without training, what ``limbeck distill`` would refuse before training."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from PIL import Image

from limbeck.cli import main


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for label, name in enumerate("abc"):
        (root / name).mkdir()
        for i in range(10):
            pixels = np.random.default_rng(100 * label + i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def check(tmp_path, capsys, root, monkeypatch):
    """Run the command on a recipe with changed settings; its exit status and its message."""
    monkeypatch.delenv("LIMBECK_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(**changes):
        document = {
            "task": "Classification", "data": {"use": "ImageFolder", "root": str(root)}, "student": "small_cnn",
            "stages": [{"name": "a", "steps": 1, "objective": {"target": "CrossEntropyLoss"}}],
        } | changes  # fmt: skip
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
        status = main(["recipe", "check", str(tmp_path / "recipe.yaml")])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


def test_a_good_recipe_is_run_on_two_samples(check):
    status, text = check()
    assert (status, text.strip().endswith("recipe is valid, and its networks run on its data")) == (0, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": {"use": "Classification", "classes": 5}}, "task.classes is 5, and the data has 3 classes"),
        ({"student": {"use": "small_cnn", "classes": 7}}, "must be [batch, 3], got [2, 7]"),
        ({"data": {"use": "ImageFolder", "root": "nowhere"}}, "there is no folder"),
        ({"data": {"use": "CIFAR10", "root": "nowhere"}}, "there is no folder"),
        ({"student": {"use": "torchvision", "name": "resnet19"}}, "named 'resnet19'; the nearest: resnet18"),
        ({"student": {"use": "torchvision", "name": "resnet19"}, "data": "CIFAR10"}, "student: torchvision has no"),
    ],
)
def test_a_wrong_head_folder_or_name_is_found(check, changes, message):
    status, text = check(**changes)
    assert (status, message in text) == (2, True), text
    assert len(text.strip().splitlines()) == 1


def test_without_the_data_the_recipe_itself_is_checked(check, tmp_path):
    status, text = check(data="CIFAR10")
    assert status == 0
    assert "its data were not found, so the networks were not run (CIFAR10 was not found" in text
    assert not (tmp_path / ".cache" / "limbeck").exists()
