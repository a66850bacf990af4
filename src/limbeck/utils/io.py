"""Atomic writes and digests of files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from limbeck.core.errors import LimbeckError

__all__ = ["digest", "read_text", "write_atomically", "write_text"]


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
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LimbeckError(f"{path} is not UTF-8 text (byte {error.start}): put a copy back, or remove it") from error
    except OSError as error:
        raise LimbeckError(f"{path} could not be read ({error.strerror}): put a copy back, or remove it") from error


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
