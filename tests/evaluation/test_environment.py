"""Which code, packages and switches a run was made by: told where they are known, and never guessed."""

import subprocess
import types

import pytest
import torch

from limbeck.evaluation import environment as origin
from limbeck.evaluation import get_git_revision, get_torch_flags, hash_environment


def git(folder, *words):
    subprocess.run(
        ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True
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
    monkeypatch.setattr(origin, "_PACKAGE_ROOT", package)
    return tmp_path


def test_a_checkout_tells_its_commit_and_whether_the_package_was_changed(checkout):
    clean = get_git_revision()
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (checkout / "notes.txt").write_text("beside the package")
    assert get_git_revision() == clean
    (checkout / "src" / "limbeck" / "new.py").write_text("1")
    assert get_git_revision() == {"commit": clean["commit"], "dirty": True}


def test_a_package_that_lies_untracked_in_another_repository_is_not_of_its_commit(checkout, monkeypatch):
    inside = checkout / "venv" / "limbeck"
    inside.mkdir(parents=True)
    (inside / "_version.py").write_text("0")
    monkeypatch.setattr(origin, "_PACKAGE_ROOT", inside)
    told = types.SimpleNamespace(read_text=lambda name: '{"vcs_info": {"commit_id": "abc"}}')
    monkeypatch.setattr(origin.metadata, "distribution", lambda name: told)
    assert get_git_revision() == {"commit": "abc", "dirty": False}
    monkeypatch.setattr(origin.metadata, "distribution", lambda name: types.SimpleNamespace(read_text=lambda n: None))
    assert get_git_revision() == {"commit": None, "dirty": None}


def test_environment_changes_with_a_version_and_not_with_the_order(monkeypatch):
    def installed(*pairs):
        found = [types.SimpleNamespace(metadata={"Name": name}, version=version) for name, version in pairs]
        monkeypatch.setattr(origin.metadata, "distributions", lambda: found)
        return hash_environment()

    assert installed(("a", "1"), ("B", "2")) == installed(("b", "2"), ("a", "1"))
    assert installed(("a", "1")) != installed(("a", "1.1"))


def test_flags_tell_the_switches_as_they_are(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(True)
    try:
        found = get_torch_flags()
    finally:
        torch.use_deterministic_algorithms(False)
    assert found["deterministic_algorithms"] is True
    assert found["environment_variables"]["PYTHONHASHSEED"] == "7"
    assert "CUBLAS_WORKSPACE_CONFIG" not in found["environment_variables"]
