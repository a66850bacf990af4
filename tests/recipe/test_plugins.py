"""Only classes of the asked type and functions annotated to return it are plugins, and only trusted packages run."""

from __future__ import annotations

import importlib
import importlib.util
import json
import marshal
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.recipe import load_recipe, resolve_recipe, trust_plugins
from limbeck.recipe.plugins import resolve_plugin
from limbeck.recipe.registry import NODE_KINDS, resolve_target

CODE = """
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.data import DataModule

Path("imported").touch()


class Net(nn.Module): ...
class Items(Dataset): ...
class Plain: ...
class Expression:
    def __call__(self, *args): ...
class OwnLoss:
    def __call__(self, context: LossContext): ...
class OwnTask:
    def outputs(self, network, batch) -> Outputs: ...
    def target(self, batch): ...
class Source:
    def load(self, *, seed) -> DataModule: ...
class Loader:
    def load(self, path): ...
def net() -> nn.Module: ...
def subclass() -> Net: ...
def maybe() -> nn.Module | None: ...
def own_loss() -> OwnLoss: ...
def teacher() -> Callable[[Tensor], Tensor]: ...
def items() -> Items: ...
def silent(): ...
def text() -> str: ...
def tensor() -> Tensor: ...
"""
ALLOWED = {
    "Net": {"model", "teacher", "loss"}, "net": {"model", "teacher", "loss"}, "subclass": {"model", "teacher", "loss"},
    "maybe": set(), "Items": set(), "Plain": set(), "Expression": set(), "OwnLoss": {"loss"}, "own_loss": {"loss"},
    "OwnTask": {"task"}, "Source": {"data"}, "Loader": set(), "teacher": {"teacher"}, "items": set(), "silent": set(),
    "text": set(), "tensor": set(),
}  # fmt: skip
LOADERS = [
    "sympy:sympify", "sympy:Lambda", "torch:load", "torch.hub:load", "torch.jit:load", "joblib:load",
    "joblib:Parallel", "yaml:unsafe_load", "yaml:UnsafeLoader", "numpy:load", "limbeck.utils.io:write_text",
]  # fmt: skip


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module in the current folder, its name, and a config folder of its own."""
    (tmp_path / "own_things.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMBECK_CONFIG", str(tmp_path / "config"))
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_things"
    sys.modules.pop("own_things", None)


@pytest.fixture
def recipe(own, tmp_path, digits):
    """A recipe file that names a network of the module."""
    text = digits.replace("plugins: []", f"plugins: [{own}]")
    assert f"plugins: [{own}]" in text
    (tmp_path / "recipe.yaml").write_text(text)
    return tmp_path / "recipe.yaml"


@pytest.mark.parametrize("name", ALLOWED)
def test_a_plugin_must_build_what_is_asked_for(own, name):
    for kind in NODE_KINDS:
        if kind in ALLOWED[name]:
            assert resolve_target(f"{own}:{name}", [kind], plugins=[own])[0] == kind
        else:
            with pytest.raises(LimbeckError, match="must be"):
                resolve_target(f"{own}:{name}", [kind], plugins=[own])


def test_a_nested_plugin_must_have_the_type_of_its_parameter(own):
    from torch.utils.data import Dataset

    for name in ("Items", "items"):
        resolve_plugin(f"{own}:{name}", [Dataset], plugins=[own], config_path="data.train")
    with pytest.raises(LimbeckError, match=r"data.train: own_things:net must be annotated to return Dataset, got"):
        resolve_plugin(f"{own}:net", [Dataset], plugins=[own], config_path="data.train")


def test_a_function_without_an_annotation_gets_advice(own):
    with pytest.raises(LimbeckError, match=r"student: own_things:silent must be annotated .* write `-> Module`"):
        resolve_target(f"{own}:silent", ["model"], plugins=[own], config_path="student")


@pytest.mark.parametrize("use", LOADERS)
def test_a_loader_of_an_installed_package_is_never_a_plugin(use):
    package = use.partition(".")[0].partition(":")[0]
    for kinds in [[kind] for kind in NODE_KINDS] + [list(NODE_KINDS)]:
        with pytest.raises(LimbeckError, match=r"must be|is defined in"):
            resolve_target(use, kinds, plugins=[package, "yaml", "sympy"])


def test_a_recipe_file_with_new_plugins_stops_before_the_import(own, recipe, capsys):
    for command in (["recipe", "check"], ["recipe", "show"], ["distill"], ["study"], ["cache", "fill"]):
        assert main([*command, "recipe.yaml"]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert "recipe.yaml names plugins whose code is not trusted on this machine" in error
        assert f"own_things ({Path.cwd() / 'own_things.py'})" in error
        assert "--trust" in error
    assert not Path("imported").exists()
    assert "own_things" not in sys.modules


def test_trust_is_remembered_until_the_code_changes(own, recipe, capsys):
    assert main(["recipe", "show", "recipe.yaml", "--trust"]) == 0
    assert main(["recipe", "show", "recipe.yaml"]) == 0
    assert list(json.loads(Path("config/trusted_plugins.json").read_text()).values()) == [
        f"own_things in {Path.cwd() / 'own_things.py'}"
    ]
    Path("own_things.py").write_text(CODE + "\n")
    importlib.invalidate_caches()
    with pytest.raises(LimbeckError, match="not trusted on this machine, or has changed since: own_things"):
        load_recipe(recipe)
    with trust_plugins():
        resolve_recipe(load_recipe(recipe))
    load_recipe(recipe)


def test_every_file_of_a_package_counts(own, recipe):
    Path("own_things.py").unlink()
    Path("own_things/inner").mkdir(parents=True)
    Path("elsewhere").mkdir()
    files = [Path("own_things/__init__.py"), Path("own_things/inner/a.py"), Path("elsewhere/b.py")]
    for file in files:
        file.touch()
    Path("own_things/linked").symlink_to(Path("elsewhere").resolve())
    Path("elsewhere/loop").symlink_to(Path("own_things").resolve())
    importlib.invalidate_caches()
    with trust_plugins():
        load_recipe(recipe)
    Path("own_things/__pycache__").mkdir()
    Path("own_things/__pycache__/a.pyc").touch()
    Path("own_things/notes.txt").touch()
    load_recipe(recipe)
    for file in files:
        file.write_text("x = 1")
        with pytest.raises(LimbeckError, match="not trusted"):
            load_recipe(recipe)
        with trust_plugins():
            load_recipe(recipe)


def test_a_compiled_file_of_other_code_is_not_run(own, recipe):
    """A file of ``__pycache__`` with the time and size of the source, which Python would run in its place."""
    source = Path("own_things.py")
    compiled = Path(importlib.util.cache_from_source(source))
    other = compile(f"{CODE}\nPath('hijacked').touch()", str(source), "exec")
    header = (0, int(source.stat().st_mtime), source.stat().st_size)
    compiled.parent.mkdir()
    compiled.write_bytes(importlib.util.MAGIC_NUMBER + struct.pack("<3I", *header) + marshal.dumps(other))
    with trust_plugins():
        load_recipe(recipe)
    importlib.import_module(own)
    assert Path("imported").exists()
    assert not Path("hijacked").exists()


def test_the_text_of_a_script_needs_no_trust(own, recipe):
    resolve_recipe(load_recipe(recipe.read_text()))
    assert not Path("config").exists()


def test_a_damaged_file_of_trust_is_one_sentence(own, recipe):
    Path("config").mkdir()
    for text in ("{", "[" * 100_000, "[]"):
        Path("config/trusted_plugins.json").write_text(text)
        with pytest.raises(LimbeckError, match=r"trusted_plugins.json must be .*; remove it"):
            load_recipe(recipe)


def test_python_m_limbeck_does_not_import_from_the_current_folder(tmp_path):
    (tmp_path / "argparse.py").write_text("print('hijacked')\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-m", "limbeck", "--version"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.stdout.startswith("limbeck "), done.stderr) == (True, "")
