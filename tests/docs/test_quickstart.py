"""The page of the first hour, word for word: its recipe is the one that is written, and its student improves."""

import json
import re
import shlex
from pathlib import Path

import pytest

from limbeck.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture
def blocks(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_recipe_of_the_page_is_written(folder, blocks):
    (first, images), (second, command), (third, recipe) = blocks[:3]
    assert (first, second, third) == ("python", "sh", "yaml")
    exec(images, {})
    assert main(shlex.split(command)[1:]) == 0
    assert (folder / "recipe.yaml").read_text() == recipe
    assert len(recipe.splitlines()) <= 20


def test_the_student_improves_over_its_baseline(folder, blocks):
    ((language, command),) = blocks[3:]
    assert language == "sh"
    assert main(shlex.split(command)[1:]) == 0
    verdict = json.loads((folder / "runs" / "recipe" / "record.json").read_text())["verdict"]
    assert verdict["text"].startswith("Distillation improves")
    assert (folder / "runs" / "recipe" / "student.onnx").exists()
