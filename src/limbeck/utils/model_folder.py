"""Where a model or tokenizer of transformers is: a folder, or an installed package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from limbeck.core.errors import LimbeckError

__all__ = ["find_model_folder"]


def find_model_folder(path: str) -> Path:
    """The folder ``path``, or the folder with a ``config.json`` of a model in the installed package ``path``."""
    folder = Path(path)
    if not folder.is_dir() and path.isidentifier():
        spec = find_spec(path)  # finds a top-level package without importing it
        for root in (spec.submodule_search_locations or []) if spec else []:
            found = sorted(Path(root).glob("*/config.json")) + sorted(Path(root).glob("config.json"))
            if found:
                return found[0].parent
    if not (folder / "config.json").is_file():
        raise LimbeckError(
            f"path must be a folder with config.json, or an installed package that has one, got {path!r}; nothing "
            "is downloaded: save the model in a folder with save_pretrained"
        )
    return folder
