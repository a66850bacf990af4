"""Files with one text in each line, plain or compressed by gzip, and how often each token is in texts."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import require_regular_file

__all__ = ["count_tokens", "find_text_file", "read_text_lines"]

_SUFFIXES: Final = ("", ".gz")
_MAX_BYTES: Final = 2**31


def find_text_file(path: Path) -> Path | None:
    """``path``, or ``path`` with the suffix ``.gz``, whichever is a file; ``None``: neither."""
    candidates = (path.with_name(f"{path.name}{suffix}") for suffix in _SUFFIXES)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_text_lines(path: Path) -> list[str]:
    """The lines of ``path`` without spaces around them; a file ``.gz`` is decompressed.

    Raises:
        LimbeckError: it cannot be read, is not UTF-8, or has more than 2 GiB of text.
    """
    try:
        require_regular_file(path)
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise LimbeckError(f"{path} must be at most {_MAX_BYTES:,} bytes of text: split it")
        lines = content.decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise LimbeckError(f"{path} cannot be read ({error}): give UTF-8 text, one text a line") from error
    return [line.strip() for line in (lines[:-1] if lines[-1] == "" else lines)]


def count_tokens(texts: Sequence[Tensor], vocab_size: int) -> list[int]:
    """How often each of ``vocab_size`` tokens is in ``texts``.

    >>> count_tokens([torch.tensor([2, 0]), torch.tensor([2])], 4)
    [1, 0, 2, 0]
    """
    counts: list[int] = torch.bincount(torch.cat(list(texts)), minlength=vocab_size).tolist()
    return counts
