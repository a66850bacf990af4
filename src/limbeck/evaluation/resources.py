"""What a piece of work cost: wall seconds, CPU seconds, GPU seconds, and joules where the machine tells."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Self, final

import torch

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.energy import POWERCAP_ROOT, CPUEnergyMeter, read_gpu_energy, strip_uuid_prefix

__all__ = ["ResourceMeter"]


@final
class ResourceMeter:
    """Measures what the block under ``with`` costs; a block that ends by an error is measured too.

    - ``seconds``: of the clock on the wall.
    - ``cpu_seconds``: of all threads of this process, and of those of its children that ended within the block and were
      waited for. A loader's worker that outlives the block counts in the block in which it ends.
    - ``gpu_seconds``: by convention, ``seconds`` times the CUDA devices this process holds memory on at the end, which
      are waited for at both ends. It is how long the devices were kept, and not how busy they were. Without CUDA 0.
    - ``joules``: of the processor's packages by RAPL, and of the devices of ``gpu_seconds`` by NVML, added where both
      tell; ``None`` where neither does. It is the use of the whole package and the whole card, also by what others ran
      there meanwhile; ``energy_sources`` says what is in it, and only figures with the same meters can be compared.

    Arguments:
        powercap: the folder of the kernel's powercap zones.

    Attributes:
        energy_sources: what told joules: of ``rapl`` and ``nvml`` none, one or both.

    >>> with ResourceMeter() as spent:
    ...     total = sum(range(1000))
    >>> sorted(spent.to_dict()), 0 <= spent.to_dict()["seconds"] < 1
    (['cpu_seconds', 'gpu_seconds', 'joules', 'seconds'], True)
    """

    def __init__(self, *, powercap: Path = POWERCAP_ROOT) -> None:
        self.energy_sources: tuple[str, ...] = ()
        self._cpu_energy = CPUEnergyMeter(powercap)
        self._gpu_energy: dict[str, float] = {}
        self._start = (0.0, 0.0)
        self._result: dict[str, float | None] | None = None

    def __enter__(self) -> Self:
        self._result, self.energy_sources = None, ()
        _synchronize(_cuda_devices())
        self._gpu_energy = read_gpu_energy()
        self._cpu_energy.__enter__()
        self._start = time.perf_counter(), _cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        devices = _cuda_devices()
        _synchronize(devices)
        seconds, cpu_seconds = time.perf_counter() - self._start[0], _cpu_seconds() - self._start[1]
        self._cpu_energy.__exit__()
        joules_by_source = {"rapl": self._cpu_energy.joules, "nvml": _gpu_joules(self._gpu_energy, devices)}
        joules = [value for value in joules_by_source.values() if value is not None]
        self.energy_sources = tuple(source for source, value in joules_by_source.items() if value is not None)
        self._result = {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "gpu_seconds": seconds * len(devices),
            "joules": sum(joules) if joules else None,
        }

    def to_dict(self) -> dict[str, float | None]:
        """``seconds``, ``cpu_seconds``, ``gpu_seconds`` and ``joules`` (or ``None``), as a record holds them.

        Raises:
            LimbeckError: the block has not ended.
        """
        if self._result is None:
            raise LimbeckError("what was spent is known at the end of its block: ask after it, not within or before")
        return dict(self._result)


def _cpu_seconds() -> float:
    """User and system time of this process and of its children that were waited for."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows, which tells a process its own time only
        return time.process_time()
    usages = (resource.getrusage(target) for target in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _cuda_devices() -> list[int]:
    """The CUDA devices on which this process holds memory; asking starts no CUDA, which a fork could not follow."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call,unused-ignore]
        return []
    return [device for device in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(device)]


def _synchronize(devices: list[int]) -> None:
    """Until what was sent to the devices is done."""
    for device in devices:
        torch.cuda.synchronize(device)


def _gpu_joules(start: dict[str, float], devices: list[int]) -> float | None:
    """Joules of these devices since ``start``; ``None`` without a device, or where one of them does not tell."""
    uuids = [strip_uuid_prefix(str(torch.cuda.get_device_properties(device).uuid)) for device in devices]
    current = read_gpu_energy() if uuids else {}
    if not uuids or any(uuid not in start or uuid not in current for uuid in uuids):
        return None
    return sum(current[uuid] - start[uuid] for uuid in uuids)
