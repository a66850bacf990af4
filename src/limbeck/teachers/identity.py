"""What decides the outputs of a network: its weights, settings, hooks and code.

A cache of teacher outputs is found by :func:`fingerprint_network`, and a trained network is used again where
:func:`network_signature` is equal. A network is described as text by path: the plain attributes of its modules, their
forward hooks, the source of their classes and of the functions that these call. The code of installed packages is
described by the version of the package. Not everything can be seen (files, environment variables, C++ objects), so a
cache also compares stored outputs with the teacher when it is opened.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Set
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["describe_network", "fingerprint_callable", "fingerprint_network", "network_signature"]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_MODULE_INTERNALS: Final = frozenset(vars(nn.Module()))
_HOOKS: Final = ("_forward_pre_hooks", "_forward_hooks")
_CLASS_INTERNALS: Final = frozenset({
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__",
    "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__", "__match_args__",
    "__module__", "__orig_bases__", "__parameters__", "__qualname__", "__slots__", "__static_attributes__",
    "__weakref__", "_abc_impl",
})  # fmt: skip
_PLAIN: Final = (
    type(None), bool, int, float, complex, str, bytes, range, slice, re.Pattern, PurePath, torch.dtype, torch.layout,
    torch.memory_format,
)  # fmt: skip
_MAX_DEPTH: Final = 5
_MAX_ITEMS: Final = 10_000


def fingerprint_network(
    network: nn.Module, feature_layers: Mapping[str, str], *, ignore: Set[str] = frozenset()
) -> str:
    """SHA-256 of weights, buffers, settings, hooks and code of ``network``, and of ``feature_layers``.

    Args:
        network: the network.
        feature_layers: layers to read features from, by feature name.
        ignore: paths of :func:`describe_network` that do not count: attributes that each call changes.

    >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> [fingerprint_network(a, {}) == fingerprint_network(network, {}) for network in (a, b)]
    [True, False]
    """
    hasher = hashlib.sha256(f"{sorted(feature_layers.items())}\n{network_signature(network, ignore=ignore)}\n".encode())
    state = dict(network.named_buffers()) | network.state_dict()  # a state dict lacks buffers that are not persistent
    for name, value in state.items():
        hasher.update(f"{name} {_describe_tensor(value) if isinstance(value, Tensor) else value!r}\n".encode())
    return hasher.hexdigest()


def network_signature(network: nn.Module, *, ignore: Set[str] = frozenset()) -> str:
    """SHA-256 of settings, hooks and code of ``network``, without its weights.

    >>> network_signature(nn.Linear(2, 2)) == network_signature(nn.Linear(2, 2))
    True
    >>> attention = [nn.MultiheadAttention(4, num_heads) for num_heads in (1, 2)]
    >>> network_signature(attention[0]) == network_signature(attention[1])
    False
    """
    lines = [f"{path} = {text}\n" for path, text in describe_network(network).items() if path not in ignore]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fingerprint_callable(fn: Any) -> str:
    """SHA-256 of the code of a callable: of its class where it is an object, without the values that it holds."""
    description = _Description()
    code = fn.__func__ if isinstance(fn, MethodType) else fn
    is_code = isinstance(code, FunctionType | functools.partial | type) or inspect.isbuiltin(code)
    description.add("fn", code if is_code else type(code))
    return hashlib.sha256(str(description.entries).encode()).hexdigest()


def describe_network(network: nn.Module) -> dict[str, str]:
    """Settings, hooks and code of ``network`` as text by path.

    >>> network = nn.Dropout(0.1)
    >>> network.scale = 2.0
    >>> describe_network(network)["network.scale"]
    '2.0'
    """
    description = _Description()
    description.entries["repr"] = _ADDRESS.sub("", repr(network))
    description.add_modules("network", network)
    return description.entries


@final
class _Description:
    """Text by path; an object that is met twice is described once."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self._paths: dict[int, str] = {}
        self._objects: list[Any] = []  # which keeps the ids unique

    def add(self, path: str, value: Any, depth: int = 0) -> None:
        """Describe ``value`` at ``path``."""
        text = _plain_text(value)
        if text is not None:
            self.entries[path] = text
        elif depth > _MAX_DEPTH:
            self.entries[path] = _type_name(type(value))
        elif isinstance(value, Mapping):
            self._add_items(path, [(repr(_plain_text(key)), item) for key, item in value.items()], depth)
        elif isinstance(value, list | tuple | deque):
            self._add_items(path, [(str(index), item) for index, item in enumerate(value)], depth)
        elif isinstance(value, set | frozenset):
            self.entries[path] = str(sorted(map(repr, map(_plain_text, value))))
        elif isinstance(value, functools.partial):
            self._add_items(path, [("func", value.func), ("args", value.args), ("keywords", value.keywords)], depth)
        elif isinstance(value, MethodType):
            self._add_items(path, [("self", value.__self__), ("func", value.__func__)], depth)
        elif isinstance(value, ModuleType) or inspect.isbuiltin(value):
            self.entries[path] = f"{getattr(value, '__module__', '')} {value.__name__}"
        elif id(value) in self._paths:
            self.entries[path] = f"the same as {self._paths[id(value)]}"
        else:
            self._paths[id(value)] = path
            self._objects.append(value)
            self._add_object(path, value, depth)

    def add_modules(self, path: str, network: nn.Module) -> None:
        """Describe ``network`` and all modules in it, without their weights."""
        modules = {f"{path}.{name}" if name else path: module for name, module in network.named_modules()}
        new_modules = {name: module for name, module in modules.items() if id(module) not in self._paths}
        self._paths.update({id(module): name for name, module in new_modules.items()})
        self._objects.extend(new_modules.values())
        for name, module in new_modules.items():
            self._add_module(name, module)

    def _add_items(self, path: str, items: list[tuple[str, Any]], depth: int) -> None:
        self.entries[path] = f"{len(items)} items"
        for name, item in items[:_MAX_ITEMS]:
            self.add(f"{path}[{name}]", item, depth + 1)

    def _add_object(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, nn.Module):  # one that the network does not register, so that its weights are a setting
            del self._paths[id(value)]
            self.add_modules(path, value)
            for name, item in (dict(value.named_buffers()) | value.state_dict()).items():
                self.add(f"{path}.{name}", item, depth + 1)
        elif isinstance(value, FunctionType):
            self._add_function(path, value)
        elif isinstance(value, type):
            self._add_class(path, value)
        else:
            self.entries[path] = _type_name(type(value))
            package = _package(type(value).__module__)
            if package != "torch" and (package not in sys.stdlib_module_names or _is_namespace(value)):
                self.add(f"{path}.class", type(value))
                for name, item in _attributes(value):
                    self.add(f"{path}.{name}", item, depth + 2)

    def _add_module(self, path: str, module: nn.Module) -> None:
        self.entries[path] = _type_name(type(module))
        self.add(f"{path}.class", type(module))
        opaque = getattr(type(module), "opaque_attributes", ())
        for name, value in vars(module).items():
            if name not in _MODULE_INTERNALS and name not in opaque:
                self.add(f"{path}.{name}", value, depth=1)
        for kind in _HOOKS:
            for index, hook in enumerate(getattr(module, kind, {}).values()):
                self.add(f"{path}.{kind}[{index}]", hook, depth=1)
        if isinstance(module, torch.jit.ScriptModule):
            self.entries[f"{path}.code"] = str(getattr(module, "code", ""))

    def _add_function(self, path: str, function: FunctionType) -> None:
        module_name = str(function.__globals__.get("__name__"))
        self.entries[path] = f"{module_name}.{function.__qualname__} {_function_text(function, module_name)}"
        for name, value in _closure(function):
            # A list or a dict that a function closes over is often what it counts in.
            if not isinstance(value, list | dict | set):
                self._add_reference(f"{path}:{name}", value)
        if not _is_library(module_name):
            for name, value in (*_defaults(function), *_globals(function)):
                self._add_reference(f"{path}:{name}", value)

    def _add_reference(self, path: str, value: Any) -> None:
        """Describe a value that a function reads; of an object only its type, since its state may be anything."""
        is_container = isinstance(value, Mapping | list | tuple | deque | set | frozenset)
        is_code = isinstance(value, FunctionType | MethodType | functools.partial | type | ModuleType)
        is_described = is_container or is_code or isinstance(value, nn.Module) or inspect.isbuiltin(value)
        if is_described or _plain_text(value) is not None:
            self.add(path, value, depth=2)
        else:
            self.entries[path] = _type_name(type(value))

    def _add_class(self, path: str, cls: type[Any]) -> None:
        self.entries[path] = _type_name(cls)
        for base in cls.__mro__[:-1]:
            name, package = f"{path}.{base.__qualname__}", _package(base.__module__)
            is_library = _is_library(base.__module__)
            if base is not cls and id(base) in self._paths:
                continue
            self._paths.setdefault(id(base), name)
            self._objects.append(base)
            if is_library:
                self.entries[name] = f"{_type_name(base)} {_library_text(base, package)}"
            for key, value in vars(base).items():
                if key in _CLASS_INTERNALS:
                    continue
                item = _unwrap_member(value)
                is_replaced = isinstance(item, FunctionType) and _package(item.__globals__.get("__name__")) != package
                if not is_library or (is_replaced and _package(item.__module__) != package):
                    self._add_reference(f"{name}.{key}", item)


def _plain_text(value: Any) -> str | None:
    """``value`` as text where it is a number, a string, a tensor or an array, else ``None``."""
    if isinstance(value, enum.Enum):
        return f"{_type_name(type(value))}.{value.name}"
    if isinstance(value, torch.device):
        return "device"  # outputs are the same on each
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Tensor):
        return _describe_tensor(value)
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        content = str(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
        return f"{array.dtype} {array.shape} {hashlib.sha256(content).hexdigest()}"
    return None


def _describe_tensor(tensor: Tensor) -> str:
    """Type, shape and SHA-256 of the values."""
    values = tensor.detach()
    kind = f"{values.dtype} {list(values.shape)}"
    if values.is_meta:
        return kind
    if values.is_quantized:
        values = values.dequantize()
    elif values.layout != torch.strided:
        values = values.to_dense()
    raw = values.cpu().contiguous().resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)
    return f"{kind} {hashlib.sha256(raw.numpy().data).hexdigest()}"


def _type_name(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _package(module_name: Any) -> str:
    return str(module_name).partition(".")[0]


@functools.cache
def _is_library(module_name: str) -> bool:
    """Whether a module belongs to Python, an installed package or limbeck, whose code has a version."""
    package = _package(module_name)
    if package in ("torch", "limbeck", "builtins") or package in sys.stdlib_module_names:
        return package != "__main__"
    file = getattr(sys.modules.get(module_name), "__file__", None) or ""
    return package != "__main__" and ("site-packages" in file or "dist-packages" in file or _is_installed(package))


@functools.cache
def _is_installed(package: str) -> bool:
    """Whether an installer wrote ``package`` into its folder, as ``pip install --target`` does."""
    file = Path(getattr(sys.modules.get(package), "__file__", None) or "")
    folder = file.parent.parent if file.name == "__init__.py" else file.parent
    try:
        records = [record.read_text(encoding="utf-8") for record in folder.glob("*.dist-info/RECORD")]
    except (OSError, ValueError):
        return False
    return any(line.startswith((f"{package}/", f"{package}.py,")) for record in records for line in record.splitlines())


@functools.cache
def _library_text(cls: type[Any], package: str) -> str:
    """The version of a class of a library; of limbeck, whose versions share caches, its source.

    Cached, since ``inspect`` parses the whole module for it.
    """
    version = getattr(sys.modules.get(package), "__version__", "")
    if package == "torch" or package in sys.stdlib_module_names:
        return str(version)
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):  # compiled, or made by a function
        source = ""
    return source if package == "limbeck" else f"{version} {source}"


def _function_text(function: FunctionType, module_name: str) -> str:
    package = _package(module_name)
    if _is_library(module_name) and package != "limbeck":
        return str(getattr(sys.modules.get(package), "__version__", ""))
    if function.__name__ == "<lambda>":  # whose source is a line that may hold several
        return _code_text(function.__code__)
    try:
        return inspect.getsource(function.__code__)
    except (OSError, TypeError):  # defined in a console
        return _code_text(function.__code__)


def _code_text(code: CodeType) -> str:
    constants = [
        _code_text(item) if isinstance(item, CodeType)
        else str(sorted(map(repr, item))) if isinstance(item, frozenset)  # whose order changes with the process
        else repr(item)
        for item in code.co_consts
    ]  # fmt: skip
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _closure(function: FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _defaults(function: FunctionType) -> Iterator[tuple[str, Any]]:
    yield from ((f"default{index}", value) for index, value in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()


def _globals(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals that a function names, also those of the user's modules that it imports."""
    names = sorted(_names(function.__code__))
    for name in names:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        yield name, value
        if isinstance(value, ModuleType) and not _is_library(value.__name__):
            yield from ((f"{name}.{item}", vars(value)[item]) for item in names if item in vars(value))


def _names(code: CodeType) -> set[str]:
    nested = (_names(item) for item in code.co_consts if isinstance(item, CodeType))
    return set(code.co_names).union(*nested)


def _unwrap_member(value: Any) -> Any:
    """The function of a method, property or cached property of a class."""
    if isinstance(value, staticmethod | classmethod):
        return value.__func__
    if isinstance(value, property):
        return value.fget
    return value.func if isinstance(value, functools.cached_property) else value


def _is_namespace(value: Any) -> bool:
    return type(value).__name__ in ("SimpleNamespace", "Namespace")


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object by name, also those in slots."""
    slots = [name for base in type(value).__mro__ for name in _slot_names(base)]
    yield from ((name, getattr(value, name)) for name in slots if hasattr(value, name))
    yield from getattr(value, "__dict__", {}).items()


def _slot_names(cls: type[Any]) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if not name.startswith("__")]
