"""A run folder that someone sent runs no code of its plugins, and with --trust no loader of an installed package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.cli import main
from limbeck.recipe import trust

RECIPE = """
name: sent
plugins: [PACKAGE]
task: Classification
data: Digits
student: {use: small_cnn}
teachers: {big: {use: small_cnn, width: 4}}
teacher_training: {steps: 1, objective: {target: CrossEntropyLoss}}
stages: [{name: distill, steps: 1, objective: {kd: KDLoss}}]
cache: {root: outputs}
"""
COMMANDS = [
    ["evaluate", "sent"], ["evaluate", "sent", "--all"], ["export", "sent"], ["reproduce", "sent"],
    ["distill", "sent/recipe.yaml"], ["select-teachers", "sent/recipe.yaml"], ["study", "sent/recipe.yaml"],
    ["cache", "fill", "sent/recipe.yaml"], ["recipe", "check", "sent/recipe.yaml"],
]  # fmt: skip
LOADERS = {
    "sympy:sympify": {"a": "open('hacked', 'w')"}, "torch:load": {"f": "x.pt"}, "joblib:load": {"filename": "x"},
    "yaml:unsafe_load": {"stream": "!!python/object/apply:os.mkdir [hacked]"},
}  # fmt: skip


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """``sent(package, student)`` writes the files of a run whose recipe names them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMBECK_CONFIG", str(tmp_path / "config"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sent").mkdir()
    record = json.loads((Path(__file__).parents[1] / "report" / "run_schema_2" / "record.json").read_text())

    def write(package, student):
        text = RECIPE.replace("PACKAGE", package).replace("{use: small_cnn}", json.dumps(student))
        (tmp_path / "sent" / "recipe.yaml").write_text(text)
        record["recipe"] |= {"plugins": [package], "student": student}
        (tmp_path / "sent" / "record.json").write_text(json.dumps(record))

    return write


@pytest.fixture(scope="module")
def hashed_once():
    """The code of an installed package is hashed once for all tests: that of torch takes a second."""
    hash_code, hashes = trust._hash_code, {}

    def hash_once(name, folder, files):
        if folder not in hashes:
            hashes[folder] = hash_code(name, folder, files)
        return hashes[folder]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trust, "_hash_code", hash_once)
        yield


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_imports_a_package_that_is_not_trusted(command, sent, capsys):
    Path("sent_nets.py").write_text("open('hacked', 'w')\n")
    sent("sent_nets", {"use": "sent_nets:Net"})
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "names plugins whose code is not trusted on this machine" in error
    assert "sent_nets" in error
    assert len(error.splitlines()) == 1
    assert not Path("hacked").exists()


@pytest.mark.parametrize("use", LOADERS)
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_calls_a_loader_of_a_trusted_package(command, use, sent, hashed_once, capsys):
    sent(use.partition(":")[0], {"use": use, **LOADERS[use]})
    assert main([*command, "--trust"]) == 2
    error = capsys.readouterr().err
    assert f"{use} must be annotated" in error
    assert len(error.splitlines()) == 1
    assert not Path("hacked").exists()
