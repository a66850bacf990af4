"""A file appears whole or not at all, and what stood there before is untouched by a writer that fails."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys

import pytest

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


def test_the_new_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "deep" / "record.json"
    for words in ("old", "new"):
        assert write_atomically(path, lambda place, words=words: place.write_text(words)) == path
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_the_file_is_not_there_while_it_is_written(tmp_path):
    path, seen = tmp_path / "a", []

    def write(place):
        place.write_text("half")
        seen.append((path.exists(), place.parent == path.parent))

    write_atomically(path, write)
    assert seen == [(False, True)]


@pytest.mark.parametrize("error", [ValueError("a fault"), KeyboardInterrupt(), LimbeckError("its own sentence")])
def test_a_writer_that_fails_leaves_the_old_file_and_no_partial_one(tmp_path, error):
    path = tmp_path / "weights"
    path.write_text("old")

    def write(place):
        place.write_text("half")
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
        type("SafetensorError", (Exception,), {})("No space left on device"),
    ],
)
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "weights"
    path.write_text("old")

    def write(place):
        place.write_text("half")
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
def test_a_disk_that_takes_no_more_bytes_is_one_sentence(tmp_path, what):
    path = tmp_path / "out"
    path.write_text("old")
    ended = subprocess.run([sys.executable, "-c", FULL, path, what], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "could not be written" in ended.stdout
    assert len(ended.stdout.splitlines()) == 1
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file/below", "n" * 300])
def test_a_place_that_cannot_be_is_one_sentence_too(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(LimbeckError, match="could not be written"):
        write_atomically(tmp_path / name, lambda place: place.write_text("x"))


def test_a_folder_is_not_overwritten(tmp_path):
    with pytest.raises(LimbeckError, match="could not be written"):
        write_atomically(tmp_path, lambda place: place.write_text("x"))


def test_a_digest_is_the_sha256_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"alembic")
    assert digest(tmp_path / "a") == hashlib.sha256(b"alembic").hexdigest()
