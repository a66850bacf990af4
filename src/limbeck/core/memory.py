"""Memory that a training step frees is needed again by the next one, so the process had better keep it.

glibc gives freed memory back to the system once some megabytes of it lie at the end of the heap, and gets it again page
by page, each zeroed first. On a CPU that is a tenth of a small network's step.
"""

from __future__ import annotations

import os

__all__ = ["keep_freed_memory"]

# From glibc's malloc.h, https://www.gnu.org/software/libc/manual/html_node/Malloc-Tunable-Parameters.html
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_ALL = 2**31 - 1
_LARGE = (256 * 2**20, 32 * 2**20)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to 2 GB, and take blocks of up to 256 MB from there; whether it does.

    Nothing happens where the C library is not glibc, or where the environment says how it is to be
    (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` or ``GLIBC_TUNABLES``). Larger blocks go back at once.

    >>> int(keep_freed_memory()) == int(keep_freed_memory())  # 1 with glibc, again and again
    True
    """
    if any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")):
        return False
    import ctypes

    try:
        tune = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc: macOS, musl, Windows
        return False
    # Setting one switches off the growth of both, so the other has to be set too; an older glibc takes 32 MB at most.
    return any(tune(_MMAP_THRESHOLD, size) for size in _LARGE) and bool(tune(_TRIM_THRESHOLD, _ALL))
