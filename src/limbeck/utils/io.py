"""Files that appear whole: written beside their place, flushed to disk, and renamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from limbeck.core.errors import LimbeckError

__all__ = ["digest", "write_atomically"]


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a file beside ``path``, then rename it to ``path``: readers see the old file or the new one.

    A full disk or a fault while writing leaves the old file as it was, removes the partial one, and raises.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        # Some writers make files that only their owner may read; this one is as any other of this process.
        partial.chmod(0o666 & ~_umask())
        partial.replace(path)
    except BaseException as error:
        # Where the folder itself is the trouble there is nothing to remove, and the first error is the one to tell.
        with suppress(OSError):
            partial.unlink()
        # torch and safetensors wrap the system's error in their own; the sentence is the same for the user.
        if isinstance(error, (OSError, RuntimeError)) or type(error).__name__ == "SafetensorError":
            raise LimbeckError(
                f"{path} could not be written ({_first_line(error)}): free some space or choose another folder; "
                "what stood there before is untouched"
            ) from error
        raise
    return path


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
