"""Metrics of networks: accuracy, similarity, cost, robustness, and the statistics of their differences."""

from typing import TYPE_CHECKING

from limbeck.core.lazy import lazy_exports

if TYPE_CHECKING:
    from limbeck.evaluation._exports import *  # noqa: F403
else:
    __getattr__, __dir__ = lazy_exports("limbeck.evaluation._exports")
