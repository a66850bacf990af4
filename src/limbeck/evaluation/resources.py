"""Wall time, CPU time, GPU time and energy of a block of code.

Energy comes from RAPL for processor packages and from NVML for NVIDIA GPUs. Both count the whole package or GPU, with
what other processes use.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, final

import torch

from limbeck.core.errors import LimbeckError

__all__ = ["ResourceMeter"]

_POWERCAP_ROOT = Path("/sys/class/powercap")
_POLL_SECONDS = 30.0  # the usual counter, of 262 kJ, wraps around at most once in this time below 8 kW


@final
class ResourceMeter:
    """Context manager that measures its block, also when the block raises.

    - ``seconds``: wall-clock time.
    - ``cpu_seconds``: CPU time of all threads of the process, and of child processes that end within the block and are
      waited for.
    - ``gpu_seconds``: ``seconds`` times the number of CUDA devices on which the process holds memory at the end: how
      long they are reserved, not how busy they are. Devices are synchronized at both ends. 0 without CUDA.
    - ``joules``: energy of the processor packages and of these devices; ``None`` where neither is available. Compare
      only measurements with the same ``energy_sources``.

    Args:
        powercap: folder of the kernel's powercap zones.

    Attributes:
        energy_sources: the available sources among ``rapl`` and ``nvml``.

    >>> with ResourceMeter() as meter:
    ...     total = sum(range(1000))
    >>> sorted(meter.to_dict()), 0 <= meter.to_dict()["seconds"] < 1
    (['cpu_seconds', 'gpu_seconds', 'joules', 'seconds'], True)
    """

    def __init__(self, *, powercap: Path = _POWERCAP_ROOT) -> None:
        self.energy_sources: tuple[str, ...] = ()
        self._powercap = powercap
        self._result: dict[str, float | None] | None = None

    def __enter__(self) -> Self:
        self._result, self.energy_sources = None, ()
        _synchronize(_cuda_devices())
        self._gpu_energy = _read_gpu_energy()
        self._cpu_energy = _CPUEnergyMeter(self._powercap)
        self._start = time.perf_counter(), _cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        devices = _cuda_devices()
        _synchronize(devices)
        seconds, cpu_seconds = time.perf_counter() - self._start[0], _cpu_seconds() - self._start[1]
        by_source = {"rapl": self._cpu_energy.stop(), "nvml": _gpu_joules(self._gpu_energy, devices)}
        joules = {source: value for source, value in by_source.items() if value is not None}
        self.energy_sources = tuple(joules)
        self._result = {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "gpu_seconds": seconds * len(devices),
            "joules": sum(joules.values()) if joules else None,
        }

    def to_dict(self) -> dict[str, float | None]:
        """``seconds``, ``cpu_seconds``, ``gpu_seconds`` and ``joules``; an error before the block has ended."""
        if self._result is None:
            raise LimbeckError("resources are available at the end of the block; call to_dict() after it")
        return dict(self._result)


@final
class _CPUEnergyMeter:
    """Adds up the energy of the processor packages until :meth:`stop`.

    RAPL's counters (https://docs.kernel.org/power/powercap/powercap.html) wrap around within minutes of full load, so a
    thread reads them every 30 seconds.
    """

    def __init__(self, root: Path) -> None:
        self._previous: dict[Path, int] = {}
        self._microjoules, self._stop = 0, threading.Event()
        with suppress(OSError, ValueError):
            self._previous = {zone: _read_int(zone / "energy_uj") for zone in _package_zones(root)}
        self._thread = threading.Thread(target=self._poll, name="limbeck-joules", daemon=True)
        if self._previous:
            self._thread.start()

    def stop(self) -> float | None:
        """Joules so far; ``None`` without a package, or where one is not readable (often only by root)."""
        if not self._thread.is_alive():
            return None
        self._stop.set()
        self._thread.join()
        self._update()
        return self._microjoules / 1e6 if self._previous else None

    def _poll(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._update()

    def _update(self) -> None:
        """Adds the energy since the last reading; a failed reading invalidates the measurement."""
        try:
            for zone, previous in self._previous.items():
                current = _read_int(zone / "energy_uj")
                wraparound = _read_int(zone / "max_energy_range_uj") if current < previous else 0
                self._microjoules += current - previous + wraparound
                self._previous[zone] = current
        except (OSError, ValueError):
            self._previous = {}


def _package_zones(root: Path) -> list[Path]:
    """One zone per package: ``intel-rapl-mmio`` repeats ``intel-rapl``, and a package includes its subzones."""
    zones = sorted(root.glob("intel-rapl*:*"), key=lambda zone: (not zone.name.startswith("intel-rapl:"), zone.name))
    packages: dict[str, Path] = {}
    for zone in zones:
        name = (zone / "name").read_text(encoding="ascii").strip()
        if name.startswith("package"):
            packages.setdefault(name, zone)
    return list(packages.values())


def _read_int(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))


def _cpu_seconds() -> float:
    """User and system time of this process and of its children that were waited for (zero on Windows)."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def _cuda_devices() -> list[int]:
    """CUDA devices on which this process holds memory, without initializing CUDA."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call,unused-ignore]
        return []
    return [device for device in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(device)]


def _synchronize(devices: list[int]) -> None:
    for device in devices:
        torch.cuda.synchronize(device)


def _gpu_joules(start: dict[str, float], devices: list[int]) -> float | None:
    """Joules of ``devices`` since ``start``; ``None`` without a device, or where one has no counter."""
    uuids = {str(torch.cuda.get_device_properties(device).uuid).removeprefix("GPU-") for device in devices}
    current = _read_gpu_energy() if uuids else {}
    if not uuids or not uuids <= start.keys() & current.keys():
        return None
    return sum(current[uuid] - start[uuid] for uuid in uuids)


def _read_gpu_energy() -> dict[str, float]:
    """Joules of each NVIDIA GPU since its driver was loaded, by UUID; empty without ``nvidia-ml-py`` or a GPU.

    GPUs before Volta have no counter. Does not initialize CUDA.
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return {}
    joules: dict[str, float] = {}
    with suppress(nvml.NVMLError):
        nvml.nvmlInit()
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                with suppress(nvml.NVMLError):
                    handle = nvml.nvmlDeviceGetHandleByIndex(index)
                    uuid = nvml.nvmlDeviceGetUUID(handle).removeprefix("GPU-")
                    joules[uuid] = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
        finally:
            nvml.nvmlShutdown()
    return joules
