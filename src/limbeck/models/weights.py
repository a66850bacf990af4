"""Reading and writing weights: safetensors, PyTorch files that hold only weights, and limbeck's run folders.

Reading never runs code from the file: safetensors (https://huggingface.co/docs/safetensors) cannot hold any, and
PyTorch files are read with ``weights_only=True``.
"""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.utils.io import require_regular_file, write_atomically
from limbeck.utils.model_folder import find_model_folder

__all__ = ["find_weights_file", "load_weights", "read_metadata", "read_weights", "save_weights"]

_FOLDER_WEIGHTS_FILES = ("student.safetensors", "model.safetensors")
"""Of a run folder, and of a folder that ``save_pretrained`` of transformers writes."""
_NESTED_KEYS = ("student", "state_dict", "model")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar")


@runtime_checkable
class LoadsFolder(Protocol):
    """A network that reads a folder of ``save_pretrained`` itself."""

    def load_folder(self, folder: Path) -> None:
        """Load its weights from ``folder``."""


def load_weights(model: nn.Module, path: str | Path, *, ignore_modules: Sequence[str] = ()) -> nn.Module:
    """Loads the weights at ``path`` into ``model``, in place, and returns it.

    Args:
        model: the network; unchanged on an error.
        path: a ``.safetensors`` file; a ``.pt``, ``.pth``, ``.pth.tar``, ``.ckpt`` or ``.bin`` file with a state
            dict, bare or under ``student``, ``state_dict`` or ``model``; a run folder, whose ``student.safetensors``
            is loaded; or a folder of ``save_pretrained`` with ``model.safetensors``, of a sentence transformer also an
            installed package that has one. Names may have the prefix of a wrapper (``module.``, ``_orig_mod.``) or of
            a LightningModule (``model.``, ``network.``).
        ignore_modules: paths of modules whose weights are not loaded: ``("fc",)`` for a head of other classes.

    Raises:
        LimbeckError: the file is missing, damaged, or holds more than weights; or names or shapes differ.
    """
    if isinstance(model, LoadsFolder) and (folder := _find_folder(path)) is not None:
        model.load_folder(folder)
        return model
    file = find_weights_file(Path(path))
    file_state, model_state = _read_state_dict(file), model.state_dict(keep_vars=True)
    model_prefix, file_prefix = _common_prefix(model_state), _common_prefix(file_state)
    ignored = tuple(f"{model_prefix}{module}." for module in ignore_modules)

    def is_ignored(name: str) -> bool:
        return f"{name}.".startswith(ignored)

    for module, prefix in zip(ignore_modules, ignored, strict=True):
        if not any(f"{name}.".startswith(prefix) for name in model_state):
            raise LimbeckError(
                f"ignore_modules: the model has no weights under {module!r}; available: "
                f"{suggest_names(module, model_state)}"
            )
    file_state = {
        model_name: tensor
        for name, tensor in file_state.items()
        if not is_ignored(model_name := model_prefix + name.removeprefix(file_prefix))
    }
    # A shared tensor is loaded through any of its names. Old files lack BatchNorm's number of batches.
    loaded_ids = {id(tensor) for name, tensor in model_state.items() if name in file_state}
    missing = [
        name
        for name, tensor in model_state.items()
        if id(tensor) not in loaded_ids and not name.endswith("num_batches_tracked") and not is_ignored(name)
    ]
    _require_compatible(file, model_state, file_state, missing)
    model.load_state_dict(file_state, strict=False)
    return model


def _find_folder(path: str | Path) -> Path | None:
    """The folder of ``save_pretrained`` at ``path``, or in the installed package of that name."""
    if (Path(path) / "config.json").is_file():
        return Path(path)
    if not Path(path).exists() and str(path).isidentifier():
        with suppress(LimbeckError):
            return find_model_folder(str(path))
    return None


def save_weights(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Writes the weights of ``model`` atomically to a ``.safetensors`` file; shared tensors are written once.

    Args:
        model: the network; of an adapter (``wrapped_network``) the network inside.
        path: the file, whose path is returned.
        metadata: text by name for the header of the file.

    Raises:
        LimbeckError: another suffix, metadata that is not text, or a failed write.
    """
    from safetensors.torch import save_model

    path, header = Path(path), dict(metadata or {})
    if path.suffix != ".safetensors":
        raise LimbeckError(f"weights must be saved as .safetensors, got {path.name!r}; use {path.stem}.safetensors")
    for name, value in header.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise LimbeckError(f"metadata must be text by name, and {name!r} is {value!r}; convert it to text")
    network: nn.Module = getattr(model, "wrapped_network", model)
    return write_atomically(path, lambda partial: save_model(network, str(partial), metadata=header))


def find_weights_file(path: Path) -> Path:
    """The weights file that :func:`load_weights` reads for ``path``.

    Raises:
        LimbeckError: there is none.
    """
    if path.is_dir():
        file = next((path / name for name in _FOLDER_WEIGHTS_FILES if (path / name).is_file()), None)
        if file is None:
            raise LimbeckError(
                f"the folder {path} holds no {' or '.join(_FOLDER_WEIGHTS_FILES)}; use a finished run, a folder of "
                "save_pretrained, or a weights file"
            )
        return file
    if not path.is_file():
        siblings = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
        names = [sibling.name for sibling in siblings if sibling.suffix in (".safetensors", *_TORCH_SUFFIXES)]
        raise LimbeckError(f"there are no weights at {path}; weights in its folder: {suggest_names(path.name, names)}")
    if path.suffix not in (".safetensors", *_TORCH_SUFFIXES):
        raise LimbeckError(
            "weights are read from .safetensors, .pt, .pth, .pth.tar, .ckpt, .bin or a run folder, not from "
            f"{path.name!r}"
        )
    return path


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights by name at ``path``, as :func:`load_weights` finds them, without the prefix of a wrapper.

    Raises:
        LimbeckError: the file is missing, damaged, or holds more than weights.
    """
    state = _read_state_dict(find_weights_file(Path(path)))
    prefix = _common_prefix(state)
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The text by name in the header of a ``.safetensors`` file; empty where it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(require_regular_file(path), "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def _read_state_dict(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise LimbeckError(f"{file} is damaged or no safetensors file ({error}); copy or train it again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols; the result is checked below
            with torch.serialization.safe_globals(_harmless_globals()):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise nearly anything
        if isinstance(error, pickle.UnpicklingError) and "nsupported" in str(error):
            raise LimbeckError(
                f"{file} holds more than weights, and reading it could run code, so it is refused; "
                "save model.state_dict() where it was made, or better a .safetensors file"
            ) from error
        raise LimbeckError(
            f"{file} is damaged or no PyTorch file ({type(error).__name__}); copy or save it again"
        ) from error
    return _extract_state_dict(file, content)


def _harmless_globals() -> list[Any]:
    """Types without code beside weights in training checkpoints: ``args`` of timm, and metrics as NumPy numbers."""
    numbers = [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_)]
    scalar = np.float64(0).__reduce__()[0]  # its path has changed with NumPy 2
    names = [f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")]
    return [argparse.Namespace, np.dtype, *numbers, *((scalar, name) for name in names)]


def _extract_state_dict(file: Path, content: Any) -> dict[str, Tensor]:
    """The state dict in the content of a PyTorch file."""
    entries = content if isinstance(content, Mapping) else {}
    if _is_state_dict(entries):
        return dict(entries)
    nested = [name for name in _NESTED_KEYS if _is_state_dict(entries.get(name))]
    if len(nested) == 1:
        return dict(entries[nested[0]])
    if nested:
        raise LimbeckError(f"{file} holds weights under {_join_names(nested)}; save the right ones in a separate file")
    kind = type(content).__name__
    if isinstance(content, Mapping):
        kind = f"a dict of {_join_names(map(str, content)) or 'nothing'}"
    raise LimbeckError(
        f"{file} holds no weights by name, but {kind}: save model.state_dict(), directly or under one of "
        f"{', '.join(_NESTED_KEYS)}"
    )


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _common_prefix(names: Iterable[str]) -> str:
    """The wrappers' prefix that all names share."""
    remaining, prefix = list(names), ""
    while remaining and (
        wrapper := next((w for w in _WRAPPER_PREFIXES if all(n.startswith(w) for n in remaining)), "")
    ):
        prefix += wrapper
        remaining = [name.removeprefix(wrapper) for name in remaining]
    return prefix


def _require_compatible(
    file: Path, model_state: Mapping[str, Tensor], file_state: Mapping[str, Tensor], missing: list[str]
) -> None:
    """Raises one error with all differences between the file and the model."""
    unexpected = [name for name in file_state if name not in model_state]
    shapes = {
        name: (list(tensor.shape), list(model_state[name].shape))
        for name, tensor in file_state.items()
        if name in model_state and tensor.shape != model_state[name].shape
    }
    if not (missing or unexpected or shapes):
        return
    mismatched = [
        f"{name} ({loaded} in the file, {expected} in the model)" for name, (loaded, expected) in shapes.items()
    ]
    differences = {
        "other shapes for": mismatched, "nothing for": missing, "names that the model does not have:": unexpected
    }  # fmt: skip
    problems = "; ".join(f"{label} {_join_names(names)}" for label, names in differences.items() if names)
    advice = "build the model with the options it was trained with"
    # Another number of classes: a single module differs, and only in its first dimension.
    modules = {name.rpartition(".")[0] for name in shapes}
    same_rest = all(loaded and loaded[1:] == expected[1:] for loaded, expected in shapes.values())
    if not missing and not unexpected and len(modules) == 1 and same_rest:
        classes = next(iter(shapes.values()))[0][0]
        advice = (
            f"wrong class count: build the model with classes: {classes}, or call load_weights(..., "
            f"ignore_modules={list(modules)}) for a new head"
        )
    raise LimbeckError(f"{file} does not fit the model, for it holds {problems}: {advice}")


def _join_names(names: Iterable[str], limit: int = 3) -> str:
    all_names = list(names)
    suffix = f" and {len(all_names) - limit} more" if len(all_names) > limit else ""
    return ", ".join(all_names[:limit]) + suffix
