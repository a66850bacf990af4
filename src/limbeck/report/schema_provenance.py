"""The parts of a record from which its run can be repeated."""

# ruff: noqa: RUF012 - pydantic gives each object a default of its own

from __future__ import annotations

from typing import final

from limbeck.report.schema_base import CoercedStr, OptionalFloat, OptionalInt, RecordSection

__all__ = [
    "Command",
    "DistributedInfo",
    "NormalizationStats",
    "ReproducedRun",
    "SourceCode",
    "TorchFlags",
    "WeightsFile",
]


@final
class SourceCode(RecordSection):
    """The code of limbeck itself: its git commit, and whether files differed from it; null where nobody knows."""

    commit: str | None = None
    dirty: bool | None = None


@final
class TorchFlags(RecordSection):
    """Switches of torch that change bits, and the environment variables that do so, where they were set."""

    deterministic_algorithms: bool | None = None
    cudnn_deterministic: bool | None = None
    cudnn_benchmark: bool | None = None
    matmul_precision: CoercedStr = ""
    default_dtype: CoercedStr = ""
    num_interop_threads: OptionalInt = None
    environment_variables: dict[str, CoercedStr] = {}


@final
class Command(RecordSection):
    """What was asked: a recipe's name, or that of its file, and the settings laid over it."""

    recipe: str | None = None
    overrides: list[CoercedStr] = []


@final
class DistributedInfo(RecordSection):
    """How many processes trained together; a step saw so many times the batch of each."""

    world_size: int = 1
    strategy: CoercedStr = "single_device"
    batch_size_per_process: OptionalInt = None
    global_batch_size: OptionalInt = None


@final
class WeightsFile(RecordSection):
    """A file of weights that the recipe names, by the place where it does."""

    sha256: str
    bytes: OptionalInt = None


@final
class NormalizationStats(RecordSection):
    """What is taken off each channel of a picture in 0..1, and what it is divided by then."""

    mean: list[OptionalFloat] = []
    std: list[OptionalFloat] = []


@final
class ReproducedRun(RecordSection):
    """The run that this one repeats, and how often the sealed test part had been read by then, in all of them."""

    name: CoercedStr
    record_hash: str | None = None
    config_hash: str | None = None
    num_reads: int = 0
