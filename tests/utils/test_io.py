"""Atomic writes: a file is complete or absent, and a failed write leaves the previous file."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from limbeck.core.errors import LimbeckError
from limbeck.data.image_files import open_image
from limbeck.export import read_model_metadata
from limbeck.models.weights import read_metadata
from limbeck.report.record_io import read_record
from limbeck.training.callbacks import read_metrics
from limbeck.training.checkpoint import load_checkpoint
from limbeck.utils.io import (
    digest,
    open_no_link,
    parse_json,
    read_text,
    remove_leftovers,
    require_regular_file,
    write_atomically,
    write_text,
)

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
    with pytest.raises(LimbeckError, match="must be a file, got a folder"):
        write_atomically(tmp_path, lambda partial: partial.write_text("x"))


def test_digest_is_the_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"alembic")
    assert digest(tmp_path / "a") == hashlib.sha256(b"alembic").hexdigest()


def test_no_link_is_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / "record.json").symlink_to(victim)
    (tmp_path / f".record.json.{os.getpid()}.partial").symlink_to(victim)
    write_text(tmp_path / "record.json", "new")
    assert (victim.read_text(), (tmp_path / "record.json").read_text()) == ("kept", "new")
    (tmp_path / "link").symlink_to(victim)
    with pytest.raises(OSError), open(tmp_path / "link", "a", opener=open_no_link):  # noqa: PT011
        pass


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(tmp_path):
    kept = [
        tmp_path / name for name in ("a.partial", ".a.partial", ".a.b.partial", ".notes", ".record.json.12.partial.x")
    ]
    removed = [tmp_path / name for name in (".record.json.12.partial", ".student.onnx.4000000.partial")]
    for path in (*kept, *removed):
        path.touch()
    (tmp_path / ".folder.3.partial").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / ".folder.3.partial"])


@pytest.mark.parametrize(
    "text", ["[" * 101 + "]" * 101, "[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, "{", b"\xff"]
)
def test_deep_or_damaged_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"nested|Expecting|decode"):
        parse_json(text)


def test_json_of_a_usual_depth_is_read():
    assert parse_json("[" * 99 + "1" + "]" * 99)
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    "read",
    [
        read_text, read_record, read_metrics, load_checkpoint, read_model_metadata, lambda path: open_image(path, 3),
        lambda path: os.close(open_no_link(path, os.O_WRONLY)), require_regular_file, digest,
    ],
)  # fmt: skip
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path, read):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises((LimbeckError, OSError), match=r"pipe|No such device"):
        read(path)
    assert read_metadata(path) == {}


def test_a_device_is_no_file():
    with pytest.raises(OSError, match="It must be a file, got a pipe or a device"):
        require_regular_file(Path("/dev/zero"))
