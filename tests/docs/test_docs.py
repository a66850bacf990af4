"""The code blocks of the pages run in order, and their links exist."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from limbeck.cli import main
from limbeck.recipe import load_recipe, resolve_recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = (
    "alignment", "bring-your-own", "cache", "data", "detection", "large-vocabularies", "objectives", "record",
    "robustness", "segmentation", "self-distillation", "sentence-embeddings", "several-teachers", "speech", "stages",
    "study",
    "text-classification", "translation", "views",
)  # fmt: skip
RUN = [ROOT / "docs" / f"{name}.md" for name in NAMES]


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line it begins on."""

    language: str
    text: str
    line: int


def blocks(page):
    text = page.read_text()
    matches = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1) for match in matches]


def run_commands(text, monkeypatch):
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        with monkeypatch.context() as patched:
            if words and words[0].startswith("PYTHONPATH="):
                patched.syspath_prepend(words.pop(0).partition("=")[2])
            if words:
                assert words[0] == "limbeck", line
                assert main(words[1:]) == 0, line


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_every_block_runs_in_order(page, tmp_path, monkeypatch, forked_workers):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    space = {"__name__": page.stem}
    try:
        for block in blocks(page):
            if name := re.match(r"# ([\w.]+\.(?:py|yaml))\n", block.text):
                (tmp_path / name[1]).write_text(block.text)
            if block.language == "python":
                # Empty lines first, so that a traceback has the line numbers of the page.
                exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), space)
            elif block.language == "sh":
                run_commands(block.text, monkeypatch)
            else:
                assert (block.language, bool(name)) == ("yaml", True), f"{page.name}:{block.line} is not tested"
    finally:
        torch.set_num_threads(threads)


def test_pages_with_blocks_that_are_run_by_the_tests_are_listed():
    statement = re.compile(r"code blocks?\s+of\s+this\s+page")
    assert {page for page in PAGES if statement.search(page.read_text())} <= set(RUN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_recipe_of_the_readme_is_valid(tmp_path):
    (recipe,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "yaml"]
    (tmp_path / "recipe.yaml").write_text(recipe)
    resolve_recipe(load_recipe(tmp_path / "recipe.yaml"))


def test_the_index_lists_every_page():
    docs = ROOT / "docs"
    links = set(re.findall(r"\]\(([^)#\s]+)\)", (docs / "README.md").read_text()))
    assert {str(page.relative_to(docs)) for page in docs.rglob("*.md")} - {"README.md"} <= links


def test_the_import_direction_is_that_of_import_linter():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    (block,) = re.findall(r"^```\n(cli\n.*?)\n```$", (ROOT / "docs" / "architecture.md").read_text(), re.M | re.S)
    assert block.splitlines() == [layer.replace("limbeck.", "") for layer in layers]


def test_the_packages_of_the_architecture_exist():
    packages = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "src" / "limbeck").glob("*/__init__.py")}
    assert set(packages) >= folders
