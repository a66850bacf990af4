"""Atomic writes: a file is complete or absent, and a failed write leaves the previous file."""

from __future__ import annotations

import errno
import hashlib
import sys

import pytest
from safetensors import SafetensorError

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import digest, write_atomically

FULL = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit then fails, as it does on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from limbeck.core.errors import LimbeckError
from limbeck.utils.io import write_atomically
def text(path):
    path.write_bytes(b"x" * 100_000)
def weights(path):
    import torch
    torch.save({"weight": torch.zeros(100_000)}, path)
try:
    write_atomically(Path(sys.argv[1]), {"text": text, "weights": weights}[sys.argv[2]])
except LimbeckError as error:
    print(error)
"""


def test_write_replaces_the_old_file(tmp_path):
    path = tmp_path / "deep" / "record.json"
    for text in ("old", "new"):
        assert write_atomically(path, lambda partial, text=text: partial.write_text(text)) == path
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_file_is_absent_during_the_write(tmp_path):
    path, observed = tmp_path / "a", []

    def write(partial):
        partial.write_text("half")
        observed.append((path.exists(), partial.parent == path.parent))

    write_atomically(path, write)
    assert observed == [(False, True)]


@pytest.mark.parametrize("error", [ValueError("a fault"), KeyboardInterrupt(), LimbeckError("an error")])
def test_failed_write_leaves_the_old_file_and_no_partial_one(tmp_path, error):
    path = tmp_path / "weights"
    path.write_text("old")

    def write(partial):
        partial.write_text("half")
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomically(path, write)
    assert caught.value is error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("No space left on device\n  frame #0: c10::Error"),
        SafetensorError("No space left on device"),
    ],
)
def test_full_disk_raises_and_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "weights"
    path.write_text("old")

    def write(partial):
        partial.write_text("half")
        raise error

    with pytest.raises(
        LimbeckError, match=r"No space left on device.*free some space or choose another folder"
    ) as caught:
        write_atomically(path, write)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
@pytest.mark.parametrize("what", ["text", "weights"])
def test_file_size_limit_raises_and_leaves_the_old_file(tmp_path, what, run_python):
    path = tmp_path / "out"
    path.write_text("old")
    process = run_python("-c", FULL, path, what)
    assert process.returncode == 0, process.stderr
    assert "could not be written" in process.stdout
    assert len(process.stdout.splitlines()) == 1
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file/below", "n" * 300])
def test_invalid_path_raises(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(LimbeckError, match="could not be written"):
        write_atomically(tmp_path / name, lambda partial: partial.write_text("x"))


def test_folder_is_not_overwritten(tmp_path):
    with pytest.raises(LimbeckError, match="could not be written"):
        write_atomically(tmp_path, lambda partial: partial.write_text("x"))


def test_digest_is_the_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"alembic")
    assert digest(tmp_path / "a") == hashlib.sha256(b"alembic").hexdigest()
