"""The steps of docs/add-a-method.md: a loss in a user package, its test, and a recipe that uses it."""

from __future__ import annotations

import csv
import json
import shlex
from importlib import import_module

import pytest

from limbeck.cli import main


@pytest.fixture
def blocks(follow_page):
    """The files of the page in a folder on the Python path, and its commands."""
    return follow_page("add-a-method.md")


def run_tests(module):
    """Every test of ``module``, with each of its parameters."""
    num_runs = 0
    for name, test in vars(module).items():
        if name.startswith("test_"):
            marks = getattr(test, "pytestmark", [])
            for values in [{marks[0].args[0]: value} for value in marks[0].args[1]] if marks else [{}]:
                test(**values)
                num_runs += 1
    return num_runs


def test_a_recipe_trains_with_the_loss_of_the_page(blocks, tmp_path):
    files, commands = blocks
    assert list(files) == ["my_methods/hellinger.py", "test_hellinger.py", "recipe.yaml"]
    done = []
    for line in commands:
        path, *words = shlex.split(line)
        assert path == "PYTHONPATH=."
        if words[0] == "python":
            assert words == ["python", "-m", "pytest", "test_hellinger.py"]
            assert run_tests(import_module("test_hellinger")) == 4
        else:
            assert words[0] == "limbeck"
            assert main(words[1:]) == 0, line
        done.append(words[0])
    assert done == ["python", "limbeck", "limbeck"]
    record = json.loads((tmp_path / "runs" / "with_hellinger" / "record.json").read_text())
    assert record["models"]["distilled"]["steps"] == 10
    with (tmp_path / "runs" / "with_hellinger" / "metrics.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["phase"] == "distilled")
    assert float(row["loss/overlap"]) > 0


def test_without_plugins_the_recipe_is_refused(blocks, tmp_path, capsys):
    text = (tmp_path / "recipe.yaml").read_text().replace("plugins: [my_methods]\n", "")
    (tmp_path / "recipe.yaml").write_text(text)
    assert main(["recipe", "check", "recipe.yaml"]) == 2
    assert "add `plugins: [my_methods]` to the recipe" in capsys.readouterr().err


def test_its_docstring_examples_pass(blocks):
    import doctest

    assert doctest.testmod(import_module("my_methods.hellinger")) == (0, 1)
