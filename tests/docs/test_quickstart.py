"""The page of the first hour, word for word: its recipe is the one that is written, and its student improves."""

import json
import re
import shlex
from pathlib import Path

from limbeck.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"


def test_the_quickstart_improves_over_its_baseline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "sh", "yaml", "sh"]
    for language, text in blocks:
        if language == "python":
            exec(text, {})
        elif language == "yaml":
            assert (tmp_path / "recipe.yaml").read_text() == text
            assert len(text.splitlines()) <= 20
        else:
            assert main(shlex.split(text)[1:]) == 0
    verdict = json.loads((tmp_path / "runs" / "recipe" / "record.json").read_text())["verdict"]
    assert verdict["text"].startswith("Distillation improves")
    assert (tmp_path / "runs" / "recipe" / "student.onnx").exists()
