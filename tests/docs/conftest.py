"""The files and commands of a page, in a temporary folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def follow_page(tmp_path, monkeypatch):
    """``follow_page(name)`` writes the files of a page to a folder on the Python path: (texts by file, commands)."""
    modules = set(sys.modules)

    def follow(name):
        files, commands = {}, []
        for language, text in BLOCK.findall((DOCS / name).read_text()):
            if match := re.match(r"# ([\w./]+\.(?:py|yaml))\n", text):
                files[match[1]] = text
                (tmp_path / match[1]).parent.mkdir(exist_ok=True, parents=True)
                (tmp_path / match[1]).write_text(text)
            else:
                assert language == "sh", f"{text!r} is not tested"
                commands += text.splitlines()
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        return files, commands

    yield follow
    for name in set(sys.modules) - modules:
        if name.split(".")[0] in ("my_methods", "my_tasks", "test_hellinger", "test_tasks"):
            del sys.modules[name]
