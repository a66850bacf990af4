"""Hardware, versions and revision of a run, without names of the host or the user."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
import types
from importlib import metadata

import pytest
import torch

from limbeck.evaluation import environment as environment
from limbeck.evaluation import (
    get_git_revision,
    get_hardware_info,
    get_package_versions,
    get_torch_flags,
    hash_environment,
)


def git(folder, *args):
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *args], check=True, capture_output=True
    )


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A package of one file in a repository, committed."""
    package = tmp_path / "src" / "limbeck"
    package.mkdir(parents=True)
    (package / "_version.py").write_text("0")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    monkeypatch.setattr(environment, "_PACKAGE_ROOT", package)
    return tmp_path


def test_git_revision_of_a_checkout(checkout):
    clean = get_git_revision()
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (checkout / "notes.txt").write_text("outside the package")
    assert get_git_revision() == clean
    (checkout / "src" / "limbeck" / "new.py").write_text("1")
    assert get_git_revision() == {"commit": clean["commit"], "dirty": True}


def test_untracked_package_in_another_repository_has_no_commit_of_it(checkout, monkeypatch):
    inside = checkout / "venv" / "limbeck"
    inside.mkdir(parents=True)
    (inside / "_version.py").write_text("0")
    monkeypatch.setattr(environment, "_PACKAGE_ROOT", inside)
    distribution = types.SimpleNamespace(read_text=lambda name: '{"vcs_info": {"commit_id": "abc"}}')
    monkeypatch.setattr(environment.metadata, "distribution", lambda name: distribution)
    assert get_git_revision() == {"commit": "abc", "dirty": False}
    monkeypatch.setattr(
        environment.metadata, "distribution", lambda name: types.SimpleNamespace(read_text=lambda n: None)
    )
    assert get_git_revision() == {"commit": None, "dirty": None}


def test_environment_hash_depends_on_versions_not_on_order(monkeypatch):
    def installed(*pairs):
        result = [types.SimpleNamespace(metadata={"Name": name}, version=version) for name, version in pairs]
        monkeypatch.setattr(environment.metadata, "distributions", lambda: result)
        return hash_environment.__wrapped__()

    assert installed(("a", "1"), ("B", "2")) == installed(("b", "2"), ("a", "1"))
    assert installed(("a", "1")) != installed(("a", "1.1"))


def test_torch_flags_are_the_current_settings(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(True)
    try:
        result = get_torch_flags()
    finally:
        torch.use_deterministic_algorithms(False)
    assert result["deterministic_algorithms"] is True
    assert result["environment_variables"]["PYTHONHASHSEED"] == "7"
    assert "CUBLAS_WORKSPACE_CONFIG" not in result["environment_variables"]


def test_hardware_info_has_no_names_of_host_or_user():
    result = get_hardware_info()
    assert result["num_threads"] == torch.get_num_threads()
    assert result["num_cores"] >= 1
    assert result["cpu"]
    assert result["system"].startswith(platform.system())
    if not torch.accelerator.is_available():
        assert result["accelerator"] == "cpu"
    words = json.dumps(result).split()
    assert platform.node() not in words
    assert getpass.getuser() not in words


def test_package_versions_are_those_installed(monkeypatch):
    result = get_package_versions()
    assert result["python"] == platform.python_version()
    assert result["safetensors"] == metadata.version("safetensors")

    def raise_not_found(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", raise_not_found)
    monkeypatch.setattr(environment, "_read_package_versions", environment._read_package_versions.__wrapped__)
    assert get_package_versions() == {"python": platform.python_version()}


def test_importing_limbeck_imports_no_heavy_package():
    code = (
        "import sys, limbeck; limbeck.Distiller, limbeck.losses.KDLoss, limbeck.tasks.Classification; "
        "print([n for n in ('pydantic', 'yaml', 'limbeck.data.sources', 'limbeck.teachers.cache') if n in sys.modules])"
        "; import limbeck.export; limbeck.evaluation.get_package_versions(); "
        "print([n for n in ('torchmetrics', 'scipy', 'sklearn', 'onnx', 'onnxruntime', 'torchvision', 'timm') "
        "if n in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split("\n") == ["[]", "[]", ""]
