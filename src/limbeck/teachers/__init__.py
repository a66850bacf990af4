"""Teachers: frozen and external networks, ensembles, cached outputs, self-teachers, and their selection."""

from typing import TYPE_CHECKING

from limbeck.core.lazy import lazy_exports

if TYPE_CHECKING:
    from limbeck.teachers._exports import *  # noqa: F403
else:
    __getattr__, __dir__ = lazy_exports("limbeck.teachers._exports")
