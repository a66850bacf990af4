"""One sentence for an exception that no command expected: what happened, in which file, and what to do.

The traceback is written to a file that the sentence names.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Mapping
from typing import Final

__all__ = ["UNEXPECTED_STATUS", "describe_exception", "write_traceback"]

UNEXPECTED_STATUS: Final = 70
"""Exit status of an exception that is no mistake of the user (``EX_SOFTWARE`` of ``sysexits.h``)."""

_ADVICE: Final[Mapping[int, str]] = {
    errno.EACCES: "change its permissions, or give another path",
    errno.EPERM: "change its permissions, or give another path",
    errno.EROFS: "give a path on a disk that can be written",
    errno.ENOSPC: "free some space, or give another path",
    errno.EDQUOT: "free some space, or give another path",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOMEM: "lower the batch size, or free some memory",
}
_OUT_OF_MEMORY: Final = ("out of memory", "can't allocate memory", "bad allocation", "Unable to allocate")


def describe_exception(error: BaseException) -> tuple[str, int]:
    """The sentence for ``error``, and the exit status.

    >>> describe_exception(PermissionError(13, "Permission denied", "runs/a"))
    ('runs/a: Permission denied; change its permissions, or give another path', 2)
    """
    line = _first_line(error)
    if _is_out_of_memory(error):
        return f"not enough memory ({line[:120]}); lower the batch size, the input size or the size of the network", 2
    if isinstance(error, OSError) and error.errno is not None:
        path = error.filename2 or error.filename
        advice = _ADVICE.get(error.errno, "give another path")
        reason = error.strerror or line
        return (f"{_decode(path)}: {reason}; {advice}" if path else f"{reason}; {advice}"), 2
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the package {error.name.partition('.')[0]!r} is not installed: pip install it", 2
    return f"unexpected {type(error).__name__} in {_location(error)}: {line}", UNEXPECTED_STATUS


def write_traceback(error: BaseException) -> str | None:
    """Write the traceback of ``error`` to a new file of the temporary folder; ``None`` where that fails."""
    text = "".join(traceback.format_exception(error))
    try:
        descriptor, path = tempfile.mkstemp(prefix="limbeck-", suffix=".traceback")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"limbeck {' '.join(sys.argv[1:])}\n\n{text}")
    except OSError:
        return None
    return path


def _is_out_of_memory(error: BaseException) -> bool:
    is_runtime_error = isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or is_runtime_error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _location(error: BaseException) -> str:
    """File and line that raised ``error``; of limbeck or a plugin rather than of a library."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and os.sep in frame.filename]
    frame = next(reversed(own or list(frames)), None)
    return "an unknown place" if frame is None else f"{frame.filename}, line {frame.lineno}"


def _decode(path: object) -> str:
    return path.decode(errors="backslashreplace") if isinstance(path, bytes) else str(path)
