"""Where public data sets are looked for, and their download."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from limbeck.core.errors import LimbeckError

__all__ = [
    "DataNotFoundError",
    "candidate_folders",
    "download_dataset",
    "download_root",
    "no_downloads",
    "require_folder",
]

_T = TypeVar("_T")
_DEBIAN_ROOT = Path("/usr/share/datasets")


_downloads_allowed: ContextVar[bool] = ContextVar("downloads_allowed", default=True)


class DataNotFoundError(LimbeckError, FileNotFoundError):
    """The files of a data source are not where it looks for them."""


@contextmanager
def no_downloads() -> Iterator[None]:
    """Within it, data that would be downloaded are a :class:`DataNotFoundError`."""
    token = _downloads_allowed.set(False)
    try:
        yield
    finally:
        _downloads_allowed.reset(token)


def require_folder(root: str, kind: str) -> Path:
    """``root`` as a path.

    Raises:
        DataNotFoundError: it is no folder.
    """
    if not Path(root).is_dir():
        raise DataNotFoundError(f"there is no folder {Path(root).resolve()}: set data.root to {kind}")
    return Path(root)


def candidate_folders(root: str | None, *names: str) -> list[Path]:
    """Existing folders to search: ``root``, or without it the usual ones; each with its subfolders ``names``."""
    if root is not None and not Path(root).is_dir():
        raise DataNotFoundError(f"there is no folder {Path(root).resolve()}: correct data.root or --data-root")
    roots = [root] if root is not None else [os.environ.get("LIMBECK_DATA"), _DEBIAN_ROOT, download_root(None)]
    paths = [Path(path) for path in roots if path]
    return [folder for path in paths for folder in (path, *(path / name for name in names)) if folder.is_dir()]


def download_root(root: str | None) -> Path:
    """The folder to download to."""
    return Path(root or Path.home() / ".cache" / "limbeck")


def download_dataset(name: str, remedy: str, download: Callable[[], _T]) -> _T:
    """The result of ``download``; its errors as one sentence with ``remedy``."""
    if not _downloads_allowed.get():
        raise DataNotFoundError(f"{name} was not found: {remedy}, or set data.root or --data-root to its parent folder")
    try:
        return download()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise DataNotFoundError(
            f"{name} was not found and could not be downloaded ({reason}): {remedy}, or set data.root or --data-root "
            "to its parent folder"
        ) from error
