"""Packages whose public names are imported on first use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["lazy_exports"]


def lazy_exports(module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose public names are those of ``module``, one of its modules.

    They are imported with the first use of one of them, so importing another module of the package costs no more than
    that module.

    >>> from limbeck import data
    >>> data.Digits.__module__
    'limbeck.data.sources.digits'
    >>> data.Digitz
    Traceback (most recent call last):
    AttributeError: module 'limbeck.data' has no attribute 'Digitz'
    """
    package = module.rpartition(".")[0]

    def get_name(name: str) -> Any:
        if name == "__all__" or not name.startswith("_"):
            for namespace in (import_module(module), sys.modules[package]):  # a module of the package is in the second
                if name in vars(namespace):
                    return vars(namespace)[name]
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def list_names() -> list[str]:
        return [name for name in dir(import_module(module)) if not name.startswith("_")]

    return get_name, list_names
