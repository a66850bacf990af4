"""The page on several devices: its arithmetic is right, and its recipe lines are settings that there are."""

import re
from pathlib import Path

import yaml

from limbeck.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_its_python_blocks_run():
    space = {"__name__": "scale"}
    assert len(blocks("python")) == 4
    for block in blocks("python"):
        exec(compile(block, "docs/scale.md", "exec"), space)


def test_its_recipe_lines_are_sound(tmp_path):
    (objective,) = blocks("yaml")
    recipe = {
        "task": "Classification", "data": "Digits", "student": "mlp", "teachers": {"big": "mlp"},
        "teacher_training": {"steps": 1, "objective": {"target": "CrossEntropyLoss"}},
        "stages": [{"name": "distill", "steps": 1, **yaml.safe_load(objective),
                    "feature_layers": {"student": {"mid": "layer1"}, "big": {"mid": "layer1"}}}],
        "training": {"strategy": "fsdp", "devices": 2}, "cache": {},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["recipe", "check", str(tmp_path / "recipe.yaml")]) == 0
