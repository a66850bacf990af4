"""Trusted plugins: the packages under ``plugins:`` of a recipe file are imported only once the user has trusted them.

A recipe or a run folder may come from someone else, and importing a package runs its code. Trusted packages are
remembered by the SHA-256 of their code, so a package that was changed must be trusted again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader, all_suffixes
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, ClassVar, Final, final

from limbeck.core.errors import LimbeckError
from limbeck.recipe.plugins import plugin_error
from limbeck.utils.io import parse_json, require_regular_file, write_text

__all__ = ["require_trusted", "trust_plugins"]

_FILE_NAME: Final = "trusted_plugins.json"
_TRUSTS_NEW: Final = ContextVar("_TRUSTS_NEW", default=False)


@contextmanager
def trust_plugins(*, new: bool = True) -> Iterator[None]:
    """Trust the plugins of every recipe file that is read inside, and remember them; ``--trust`` in Python.

    They are remembered in ``trusted_plugins.json`` in ``$LIMBECK_CONFIG``, by default ``~/.config/limbeck``.

    Args:
        new: false: inside, only remembered plugins are trusted.

    >>> from limbeck.recipe import load_recipe
    >>> with trust_plugins():
    ...     recipe = load_recipe("my_recipe.yaml")  # doctest: +SKIP
    """
    token = _TRUSTS_NEW.set(new)
    try:
        yield
    finally:
        _TRUSTS_NEW.reset(token)


def require_trusted(plugins: Iterable[str], source: str) -> None:
    """Stop unless the code of every package in ``plugins`` is trusted; inside :func:`trust_plugins`, remember it.

    Args:
        plugins: the names of ``plugins:``; a package that is not installed is left to the lookup of ``use:``.
        source: the file that names them, for the error.

    Raises:
        LimbeckError: a package is not trusted, or the file of trusted ones cannot be read or written.
    """
    tops = dict.fromkeys(name.partition(".")[0] for name in plugins if plugin_error(name) is None)
    code = {name: (path, files) for name in tops for path, files in _find_code(name)}
    if not code:
        return
    path = _config_dir() / _FILE_NAME
    trusted = _read_trusted(path)
    hashes = {name: _hash_code(name, path, files) for name, (path, files) in code.items()}
    unknown = {name: code[name][0] for name, code_hash in hashes.items() if code_hash not in trusted}
    if unknown and not _TRUSTS_NEW.get():
        packages = ", ".join(f"{name} ({folder})" for name, folder in unknown.items())
        raise LimbeckError(
            f"{source} names plugins whose code is not trusted on this machine, or has changed since: {packages}; "
            "importing them runs their code: read it, and add --trust (in Python: `with "
            "limbeck.recipe.trust_plugins():`)"
        )
    _SourceFinder.install(name for name, (path, _) in code.items() if not _is_installed(path))
    if unknown:
        trusted |= {hashes[name]: f"{name} in {folder}" for name, folder in unknown.items()}
        write_text(path, json.dumps(trusted, indent=1))


@final
class _SourceLoader(SourceFileLoader):
    """Compiles the source, which was hashed, rather than read a file of ``__pycache__``, which may be of other code."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


@final
class _SourceFinder:
    """A finder of ``sys.meta_path`` that imports trusted packages by :class:`_SourceLoader`."""

    names: ClassVar[set[str]] = set()

    @classmethod
    def install(cls, names: Iterable[str]) -> None:
        """Import the top-level packages ``names`` from their sources."""
        cls.names.update(names)
        if cls not in sys.meta_path:
            sys.meta_path.insert(0, cls)

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that Python's own finder returns, with the loader of sources."""
        if fullname.partition(".")[0] not in cls.names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _SourceLoader(spec.loader.name, spec.loader.path)
        return spec


def _is_installed(path: Path) -> bool:
    """Whether ``path`` is in the folder of installed packages, whose compiled files are trusted as they are."""
    return any(path.is_relative_to(sysconfig.get_path(name)) for name in ("purelib", "platlib"))


def _config_dir() -> Path:
    if folder := os.environ.get("LIMBECK_CONFIG"):
        return Path(folder)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "limbeck"


def _read_trusted(path: Path) -> dict[str, str]:
    """What is trusted, by hash."""
    try:
        trusted: Any = parse_json(require_regular_file(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise LimbeckError(f"{path} must be a readable JSON file, got {type(error).__name__}; remove it") from error
    if not isinstance(trusted, dict):
        raise LimbeckError(f"{path} must be a mapping of hashes, got {type(trusted).__name__}; remove it")
    return trusted


def _find_code(name: str) -> Iterator[tuple[Path, list[Path]]]:
    """The file or folder of a top-level package, and its files of code; nothing where no file is imported.

    The package itself is not imported. A module that the running script has made has no file.
    """
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [file for folder in folders for file in _list_code(folder)]
    if not folders and spec.origin is not None:
        origin = Path(spec.origin)
        files = [next((path for path in (origin, *origin.parents) if path.is_file()), origin)]  # in an archive: that
    if files:
        yield (folders or files)[0], files


def _list_code(folder: Path) -> Iterator[Path]:
    """Files that Python can import from ``folder``, links followed; compiled copies of sources are left out."""
    suffixes, seen = tuple(all_suffixes()), set[str]()
    for root, folders, files in os.walk(folder, followlinks=True):
        real_root = os.path.realpath(root)
        folders[:] = sorted(name for name in folders if name != "__pycache__" and real_root not in seen)
        if real_root not in seen:
            seen.add(real_root)
            yield from (Path(root, name) for name in sorted(files) if name.endswith(suffixes))


def _hash_code(name: str, folder: Path, files: list[Path]) -> str:
    code_hash = hashlib.sha256(name.encode())
    for file in files:
        relative = file.relative_to(folder) if file.is_relative_to(folder) else file
        code_hash.update(f"\0{relative}\0".encode())
        try:
            with require_regular_file(file).open("rb") as stream:
                code_hash.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise LimbeckError(f"{file} of the plugin {name} could not be read ({error.strerror})") from error
    return code_hash.hexdigest()
