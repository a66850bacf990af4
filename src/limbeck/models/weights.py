"""Weights in and out: safetensors, PyTorch files that hold nothing but weights, and limbeck's run folders.

Reading never runs code from the file: safetensors (https://huggingface.co/docs/safetensors) cannot hold any, and
PyTorch files are read with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.utils.io import write_atomically

__all__ = ["load_weights", "save_weights"]

_RUN_WEIGHTS_FILE = "student.safetensors"
_NESTED_KEYS = ("student", "state_dict", "model")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
_TORCH_SUFFIXES = (".pt", ".pth", ".bin")


def load_weights(model: nn.Module, path: str | Path, *, ignore_modules: Sequence[str] = ()) -> nn.Module:
    """Fill ``model`` with the weights at ``path``, in place, and give it back.

    Args:
        model: the network; on an error it stays as it was.
        path: a ``.safetensors`` file; a ``.pt``, ``.pth`` or ``.bin`` file with a state dict, bare or under
            ``student``, ``state_dict`` or ``model``; or a run folder, whose ``student.safetensors`` is taken. Names may
            carry the prefix of a wrapper (``module.``, ``_orig_mod.``).
        ignore_modules: modules of the model that keep their own weights, by path: ``("fc",)`` for a head of other
            classes.

    Raises:
        LimbeckError: the file is absent, damaged, or holds more than weights; or names or shapes differ.
    """
    file = _resolve_weights_file(Path(path))
    file_state = _read_state_dict(file)
    model_state = model.state_dict()
    model_prefix, file_prefix = _common_prefix(model_state), _common_prefix(file_state)
    file_state = {model_prefix + name.removeprefix(file_prefix): tensor for name, tensor in file_state.items()}
    for module in ignore_modules:
        if not any(_is_inside(name, model_prefix + module) for name in model_state):
            raise LimbeckError(
                f"ignore_modules: the model has no weights under {module!r}; there are: "
                f"{suggest_names(module, model_state)}"
            )
    file_state = {
        name: tensor
        for name, tensor in file_state.items()
        if not any(_is_inside(name, model_prefix + m) for m in ignore_modules)
    }
    missing = [
        name
        for name in _find_missing(model, file_state)
        if not any(_is_inside(name, model_prefix + m) for m in ignore_modules)
    ]
    _require_compatible(file, model_state, file_state, missing)
    model.load_state_dict(file_state, strict=False)
    return model


def save_weights(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the weights of ``model`` to a ``.safetensors`` file, which appears whole; give back its path.

    Tensors that several names share are written once. ``metadata`` is any text by name, kept in the file's header.

    Raises:
        LimbeckError: another ending, metadata that is not text, or a disk that refuses.
    """
    from safetensors.torch import save_model

    output_path = Path(path)
    if output_path.suffix != ".safetensors":
        raise LimbeckError(
            f"weights are saved as .safetensors, not as {output_path.name!r}: "
            f"{output_path.with_suffix('.safetensors').name}"
        )
    header = dict(metadata or {})
    for name, value in header.items():
        if not (isinstance(name, str) and isinstance(value, str)):
            raise LimbeckError(
                f"metadata of weights is text by name, and {name!r} is {value!r}: turn it into text first"
            )
    return write_atomically(output_path, lambda partial: save_model(model, str(partial), metadata=header))


def _resolve_weights_file(path: Path) -> Path:
    """The weights file of ``path``, or an error that says why there is none."""
    if path.is_dir():
        if not (path / _RUN_WEIGHTS_FILE).is_file():
            raise LimbeckError(
                f"the folder {path} holds no {_RUN_WEIGHTS_FILE}: name a finished run, or a file of weights"
            )
        return path / _RUN_WEIGHTS_FILE
    if not path.is_file():
        siblings = sorted(sibling.name for sibling in path.parent.iterdir()) if path.parent.is_dir() else []
        raise LimbeckError(f"there are no weights at {path}; in its folder: {suggest_names(path.name, siblings)}")
    if path.suffix not in (".safetensors", *_TORCH_SUFFIXES):
        raise LimbeckError(
            f"weights are read from .safetensors, .pt, .pth, .bin or a run folder, not from {path.name!r}"
        )
    return path


def _read_state_dict(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise LimbeckError(f"{file} is damaged or no safetensors file ({error}): copy or train it again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols; the outcome is checked below
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise nearly anything
        if isinstance(error, pickle.UnpicklingError) and "nsupported" in str(error):
            raise LimbeckError(
                f"{file} holds more than weights, and reading it could run code, so it is refused: "
                "save model.state_dict() where it was made, or better a .safetensors file"
            ) from error
        raise LimbeckError(
            f"{file} is damaged or no PyTorch file ({type(error).__name__}): copy or save it again"
        ) from error
    return _extract_state_dict(file, content)


def _extract_state_dict(file: Path, content: Any) -> dict[str, Tensor]:
    """The state dict in what a PyTorch file held."""
    if isinstance(content, Mapping):
        if _is_state_dict(content):
            return dict(content)
        nested = [name for name in _NESTED_KEYS if _is_state_dict(content.get(name))]
        if len(nested) == 1:
            return dict(content[nested[0]])
        if nested:
            raise LimbeckError(
                f"{file} holds weights under {_join_names(nested)}: save the one you mean as a file of its own"
            )
    contents = (
        f"a dict of {_join_names(map(str, content)) or 'nothing'}"
        if isinstance(content, Mapping)
        else type(content).__name__
    )
    raise LimbeckError(
        f"{file} holds no weights by name, but {contents}: "
        f"save model.state_dict(), directly or under one of {', '.join(_NESTED_KEYS)}"
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
    while remaining:
        wrapper = next((w for w in _WRAPPER_PREFIXES if all(name.startswith(w) for name in remaining)), None)
        if wrapper is None:
            break
        prefix += wrapper
        remaining = [name.removeprefix(wrapper) for name in remaining]
    return prefix


def _is_inside(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _find_missing(model: nn.Module, file_state: Mapping[str, Tensor]) -> list[str]:
    """Names of the model that nothing would fill: a shared tensor is filled through any of its names."""
    model_state = model.state_dict(keep_vars=True)
    filled_ids = {id(tensor) for name, tensor in model_state.items() if name in file_state}
    # BatchNorm's count of batches came late to PyTorch, and older files go without it.
    return [n for n, t in model_state.items() if id(t) not in filled_ids and not n.endswith("num_batches_tracked")]


def _require_compatible(
    file: Path, model_state: Mapping[str, Tensor], file_state: Mapping[str, Tensor], missing: list[str]
) -> None:
    """One sentence with all differences between the file and the model, or ``None``."""
    unexpected = [name for name in file_state if name not in model_state]
    mismatched = [
        name for name in file_state if name in model_state and file_state[name].shape != model_state[name].shape
    ]
    if not (missing or unexpected or mismatched):
        return
    shapes = [
        f"{name} ({list(file_state[name].shape)} in the file, {list(model_state[name].shape)} in the model)"
        for name in mismatched
    ]
    problems = [
        f"other shapes for {_join_names(shapes)}" if shapes else "",
        f"nothing for {_join_names(missing)}" if missing else "",
        f"names that the model does not have: {_join_names(unexpected)}" if unexpected else "",
    ]
    advice = "build the model with the options it was trained with"
    if not missing and not unexpected and (classes := _infer_num_classes(model_state, file_state, mismatched)):
        head = mismatched[0].rpartition(".")[0]
        advice = (
            f"wrong class count: build the model with classes: {classes}, or call load_weights(..., "
            f"ignore_modules=[{head!r}]) "
            "for a new head"
        )
    raise LimbeckError(f"{file} does not fit the model, for it holds {'; '.join(filter(None, problems))}: {advice}")


def _infer_num_classes(
    model_state: Mapping[str, Tensor], file_state: Mapping[str, Tensor], mismatched: list[str]
) -> int | None:
    """How many classes the file's head has, if one module differs, and only in its first dimension."""
    one_module = len({name.rpartition(".")[0] for name in mismatched}) == 1
    same_rest = all(file_state[n].ndim and file_state[n].shape[1:] == model_state[n].shape[1:] for n in mismatched)
    return len(file_state[mismatched[0]]) if one_module and same_rest else None


def _join_names(names: Iterable[str], limit: int = 3) -> str:
    all_names = list(names)
    suffix = f" and {len(all_names) - limit} more" if len(all_names) > limit else ""
    return ", ".join(all_names[:limit]) + suffix
