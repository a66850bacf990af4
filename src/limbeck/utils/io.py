"""Atomic writes, opening without links or of files only, JSON of bounded depth, and digests of files."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from limbeck.core.errors import LimbeckError

__all__ = [
    "digest",
    "is_file",
    "open_no_link",
    "parse_json",
    "read_text",
    "remove_leftovers",
    "require_regular_file",
    "write_atomically",
    "write_text",
]  # fmt: skip

_MAX_JSON_DEPTH: Final = 100
_TOO_DEEP: Final = f"it is nested more than {_MAX_JSON_DEPTH} deep"


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Calls ``write`` with a temporary file in the folder of ``path`` and renames it to ``path``.

    Readers see the old file or the new one. If writing fails, the old file is unchanged and the temporary one removed.
    """
    from safetensors import SafetensorError  # imported here: models and recipes are imported without it

    partial = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "a device"
            raise LimbeckError(f"{path} must be a file, got {kind}: give another path")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # a link of this name would be written through
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        # Some writers make files that only their owner can read; this has the usual permissions of the process.
        os.umask(mask := os.umask(0))
        partial.chmod(0o666 & ~mask)
        partial.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap the error of the system
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise LimbeckError(
            f"{path} could not be written ({reason}); free some space or choose another folder; an existing file is "
            "unchanged"
        ) from error
    finally:
        with suppress(OSError):  # renamed, or never created
            partial.unlink()
    return path


def write_text(path: Path, text: str) -> Path:
    """Write ``text`` as UTF-8 by :func:`write_atomically`."""
    return write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8", newline=""))


def read_text(path: Path) -> str:
    """The UTF-8 text of the file at ``path``.

    Raises:
        LimbeckError: the file cannot be read, or is not UTF-8.
    """
    try:
        return require_regular_file(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LimbeckError(f"{path} is not UTF-8 text (byte {error.start}): put a copy back, or remove it") from error
    except OSError as error:
        raise LimbeckError(f"{path} could not be read ({error.strerror}): put a copy back, or remove it") from error


def is_file(path: Path) -> bool:
    """Whether there is a file at ``path``; not where its name is too long for the file system."""
    try:
        return path.is_file()
    except OSError:
        return False


def require_regular_file(path: Path) -> Path:
    """``path``, which is to be read; a pipe or a device, whose reading need not end, raises an ``OSError``.

    So does a name that no file can have, such as one with a zero byte from a table of files.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise OSError(errno.EINVAL, f"No file has this name ({error})", str(path)) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "It must be a file, got a pipe or a device", str(path))
    return path


def open_no_link(path: str | Path, flags: int) -> int:
    """``os.open`` of a file that may be made; a link or pipe raises an ``OSError``. An ``opener`` of ``open``."""
    return os.open(path, flags | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of :func:`write_atomically` in ``folder`` that a killed process has left.

    No process may be writing in the folder.
    """
    for path in folder.glob(".*.partial"):
        if re.fullmatch(r"\..+\.\d+\.partial", path.name) and (path.is_symlink() or path.is_file()):
            with suppress(OSError):
                path.unlink()


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: it is no JSON, is no UTF-8, or is nested more than 100 deep, which no file of limbeck is.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(_MAX_JSON_DEPTH):
        containers = (item for item in level if isinstance(item, dict | list))
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with require_regular_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
