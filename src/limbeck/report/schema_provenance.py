"""The parts of a record from which its run can be repeated."""

# ruff: noqa: RUF012 - pydantic gives each object a default of its own

from __future__ import annotations

from typing import final

from limbeck.report.schema_base import Count, Name, Number, Part

__all__ = ["Command", "Flags", "Processes", "Repeats", "Source", "Spread", "Weights"]


@final
class Source(Part):
    """The code of limbeck itself: its git commit, and whether files differed from it; null where nobody knows."""

    commit: str | None = None
    dirty: bool | None = None


@final
class Flags(Part):
    """Switches of torch that change bits, and the environment variables that do so, where they were set."""

    deterministic_algorithms: bool | None = None
    cudnn_deterministic: bool | None = None
    cudnn_benchmark: bool | None = None
    matmul_precision: Name = ""
    default_dtype: Name = ""
    interop_threads: Count = None
    variables: dict[str, Name] = {}


@final
class Command(Part):
    """What was asked: a recipe's name, or that of its file, and the settings laid over it."""

    recipe: str | None = None
    settings: list[Name] = []


@final
class Processes(Part):
    """How many processes trained together; a step saw so many times the batch of each."""

    number: int = 1
    strategy: Name = "one device"
    batch_each: Count = None
    batch_together: Count = None


@final
class Weights(Part):
    """A file of weights that the recipe names, by the place where it does."""

    sha256: str
    bytes: Count = None


@final
class Spread(Part):
    """What is taken off each channel of a picture in 0..1, and what it is divided by then."""

    mean: list[Number] = []
    std: list[Number] = []


@final
class Repeats(Part):
    """The run that this one repeats, and how often the sealed test part had been read by then, in all of them."""

    of: Name
    hash: str | None = None
    identity: str | None = None
    reads: int = 0
