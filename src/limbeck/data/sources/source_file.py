"""The files of a data source, and which of them are equal."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from limbeck.utils.io import require_regular_file

__all__ = ["SourceFile", "find_duplicate_files"]


class SourceFile(NamedTuple):
    """A file of a data source; a source that has files lists them by ``list_files()``.

    Attributes:
        path: the file.
        split: ``training``, ``validation``, ``test`` or ``unlabeled``.
        class_name: the class, or ``None``.
        kind: ``image``, ``mask``, ``annotation`` (of boxes) or ``audio``.
    """

    path: Path
    split: str
    class_name: str | None
    kind: str = "image"


def find_duplicate_files(
    files: Sequence[SourceFile], *, within_splits: bool = False
) -> list[tuple[SourceFile, SourceFile]]:
    """Pairs of files of equal bytes in different splits: the first such file, and each later one.

    Args:
        files: those of all splits.
        within_splits: pairs in one split too.
    """
    by_start = defaultdict[tuple[int, bytes], list[SourceFile]](list)
    for file in files:
        with suppress(OSError), require_regular_file(file.path).open("rb") as stream:  # reading the sample reports it
            by_start[file.path.stat().st_size, stream.read(4096)].append(file)
    pairs = []
    for group in by_start.values():
        if len(group) < 2 or (not within_splits and not _is_leak(group)):
            continue
        first_by_digest: dict[bytes, SourceFile] = {}
        for file in group:
            first = first_by_digest.setdefault(hashlib.sha256(file.path.read_bytes()).digest(), file)
            if first is not file and (within_splits or _is_leak((first, file))):
                pairs.append((first, file))
    return pairs


def _is_leak(files: Sequence[SourceFile]) -> bool:
    """Whether the files are in different splits, of which one is evaluated on."""
    splits = {file.split for file in files}
    return len(splits) > 1 and splits != {"training", "unlabeled"}
