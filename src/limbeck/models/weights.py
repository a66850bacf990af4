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

from limbeck.core.errors import LimbeckError, nearest
from limbeck.utils.io import write_atomically

__all__ = ["load_weights", "save_weights"]

_IN_A_RUN = "student.safetensors"
_NESTED = ("student", "state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.")
_PYTORCH = (".pt", ".pth", ".bin")


def load_weights(model: nn.Module, path: str | Path, *, ignore: Sequence[str] = ()) -> nn.Module:
    """Fill ``model`` with the weights at ``path``, in place, and give it back.

    Args:
        model: the network; on an error it stays as it was.
        path: a ``.safetensors`` file; a ``.pt``, ``.pth`` or ``.bin`` file with a state dict, bare or under
            ``student``, ``state_dict`` or ``model``; or a run folder, whose ``student.safetensors`` is taken. Names may
            carry the prefix of a wrapper (``module.``, ``_orig_mod.``).
        ignore: modules of the model that keep their own weights, by path: ``("fc",)`` for a head of other classes.

    Raises:
        LimbeckError: the file is absent, damaged, or holds more than weights; or names or shapes differ.
    """
    file = _file(Path(path))
    theirs = _read(file)
    own = model.state_dict()
    inner, outer = _prefix(own), _prefix(theirs)
    theirs = {inner + name.removeprefix(outer): tensor for name, tensor in theirs.items()}
    for module in ignore:
        if not any(_within(name, inner + module) for name in own):
            raise LimbeckError(f"ignore: the model has no weights under {module!r}; there are: {nearest(module, own)}")
    theirs = {name: tensor for name, tensor in theirs.items() if not any(_within(name, inner + m) for m in ignore)}
    missing = [name for name in _missing(model, theirs) if not any(_within(name, inner + m) for m in ignore)]
    _compare(file, own, theirs, missing)
    model.load_state_dict(theirs, strict=False)
    return model


def save_weights(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> Path:
    """Write the weights of ``model`` to a ``.safetensors`` file, which appears whole; give back its path.

    Tensors that several names share are written once. ``metadata`` is any text by name, kept in the file's header.

    Raises:
        LimbeckError: another ending, metadata that is not text, or a disk that refuses.
    """
    from safetensors.torch import save_model

    target = Path(path)
    if target.suffix != ".safetensors":
        raise LimbeckError(
            f"weights are saved as .safetensors, not as {target.name!r}: {target.with_suffix('.safetensors').name}"
        )
    header = dict(metadata or {})
    for name, text in header.items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise LimbeckError(
                f"metadata of weights is text by name, and {name!r} is {text!r}: turn it into text first"
            )
    return write_atomically(target, lambda partial: save_model(model, str(partial), metadata=header))


def _file(path: Path) -> Path:
    """The file that ``path`` stands for, or one sentence on why there is none."""
    if path.is_dir():
        if not (path / _IN_A_RUN).is_file():
            raise LimbeckError(f"the folder {path} holds no {_IN_A_RUN}: name a finished run, or a file of weights")
        return path / _IN_A_RUN
    if not path.is_file():
        beside = sorted(other.name for other in path.parent.iterdir()) if path.parent.is_dir() else []
        raise LimbeckError(f"there are no weights at {path}; beside it: {nearest(path.name, beside)}")
    if path.suffix not in (".safetensors", *_PYTORCH):
        raise LimbeckError(
            f"weights are read from .safetensors, .pt, .pth, .bin or a run folder, not from {path.name!r}"
        )
    return path


def _read(file: Path) -> dict[str, Tensor]:
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
    return _state(file, content)


def _state(file: Path, content: Any) -> dict[str, Tensor]:
    """The state dict in what a PyTorch file held."""
    if isinstance(content, Mapping):
        if _is_state(content):
            return dict(content)
        nested = [name for name in _NESTED if _is_state(content.get(name))]
        if len(nested) == 1:
            return dict(content[nested[0]])
        if nested:
            raise LimbeckError(
                f"{file} holds weights under {_list(nested)}: save the one you mean as a file of its own"
            )
    held = (
        f"a dict of {_list(map(str, content)) or 'nothing'}" if isinstance(content, Mapping) else type(content).__name__
    )
    raise LimbeckError(
        f"{file} holds no weights by name, but {held}: "
        f"save model.state_dict(), alone or under one of {', '.join(_NESTED)}"
    )


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _prefix(names: Iterable[str]) -> str:
    """The wrappers' prefix that all names share."""
    rest, prefix = list(names), ""
    while rest:
        wrapper = next((w for w in _WRAPPERS if all(name.startswith(w) for name in rest)), None)
        if wrapper is None:
            break
        prefix += wrapper
        rest = [name.removeprefix(wrapper) for name in rest]
    return prefix


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _missing(model: nn.Module, theirs: Mapping[str, Tensor]) -> list[str]:
    """Names of the model that nothing would fill: a shared tensor is filled through any of its names."""
    kept = model.state_dict(keep_vars=True)
    filled = {id(tensor) for name, tensor in kept.items() if name in theirs}
    # BatchNorm's count of batches came late to PyTorch, and older files go without it.
    return [n for n, t in kept.items() if id(t) not in filled and not n.endswith("num_batches_tracked")]


def _compare(file: Path, own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], missing: list[str]) -> None:
    """One sentence that tells all differences between the file and the model, or none."""
    unexpected = [name for name in theirs if name not in own]
    unlike = [name for name in theirs if name in own and theirs[name].shape != own[name].shape]
    if not (missing or unexpected or unlike):
        return
    shapes = [
        f"{name} ({list(theirs[name].shape)} in the file, {list(own[name].shape)} in the model)" for name in unlike
    ]
    parts = [
        f"other shapes for {_list(shapes)}" if shapes else "",
        f"nothing for {_list(missing)}" if missing else "",
        f"names that the model does not have: {_list(unexpected)}" if unexpected else "",
    ]
    advice = "build the model with the options it was trained with"
    if not missing and not unexpected and (classes := _class_count(own, theirs, unlike)):
        head = unlike[0].rpartition(".")[0]
        advice = (
            f"wrong class count: build the model with classes: {classes}, or call load_weights(..., ignore=[{head!r}]) "
            "for a new head"
        )
    raise LimbeckError(f"{file} does not fit the model, for it holds {'; '.join(filter(None, parts))}: {advice}")


def _class_count(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], unlike: list[str]) -> int | None:
    """How many classes the file's head has, if one module differs, and only in its first dimension."""
    one_module = len({name.rpartition(".")[0] for name in unlike}) == 1
    same_rest = all(theirs[n].ndim and theirs[n].shape[1:] == own[n].shape[1:] for n in unlike)
    return len(theirs[unlike[0]]) if one_module and same_rest else None


def _list(names: Iterable[str], most: int = 3) -> str:
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
