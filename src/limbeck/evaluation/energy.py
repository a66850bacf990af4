"""Joules, where the machine tells: processor packages by RAPL, NVIDIA cards by NVML.

Both are counters of the whole package or card: what other programs ran on it is in them.
"""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any, Self, final

__all__ = ["POWERCAP_ROOT", "CPUEnergyMeter", "read_gpu_energy", "strip_uuid_prefix"]

POWERCAP_ROOT = Path("/sys/class/powercap")
_POLL_SECONDS = 30.0  # seconds: a counter of 262 kJ, the usual one, has then turned at most once below 8 kW


@final
class CPUEnergyMeter:
    """Adds up what the processor's packages use between :meth:`__enter__` and :meth:`__exit__`.

    RAPL's counters (https://docs.kernel.org/power/powercap/powercap.html) turn to zero within minutes of full load,
    so a thread reads them every 30 seconds. A package counts once, also where the kernel offers it by two ways; its
    parts (cores, memory's controller) are in it already; memory beside it is not counted.

    Arguments:
        root: the folder of the kernel's powercap zones.

    Attributes:
        joules: what was used, or ``None`` where no package is offered, or one of them cannot be read: most systems let
            only root read them.
    """

    def __init__(self, root: Path = POWERCAP_ROOT) -> None:
        self.joules: float | None = None
        self._root = root
        self._last: dict[Path, int] = {}
        self._microjoules = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.joules, self._microjoules, self._thread = None, 0, None
        self._stop.clear()
        try:
            self._last = {zone: _read_int(zone / "energy_uj") for zone in _package_zones(self._root)}
        except (OSError, ValueError):
            self._last = {}
        if self._last:
            self._thread = threading.Thread(target=self._poll, name="limbeck-joules", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._update()
        self.joules = self._microjoules / 1e6 if self._last else None

    def _poll(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._update()

    def _update(self) -> None:
        """Add what was used since the last reading; one that fails ends the counting, since it would leave a hole."""
        try:
            for zone, previous in self._last.items():
                current = _read_int(zone / "energy_uj")
                wraparound = _read_int(zone / "max_energy_range_uj") if current < previous else 0
                self._microjoules += current - previous + wraparound
                self._last[zone] = current
        except (OSError, ValueError):
            self._last = {}


def read_gpu_energy() -> dict[str, float]:
    """Joules that each NVIDIA card has used since its driver was loaded, by the card's UUID.

    Empty without ``nvidia-ml-py`` or a card; cards before Volta have no counter and are left out. It starts no CUDA.

    >>> all(joules >= 0 for joules in read_gpu_energy().values())
    True
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return {}
    joules: dict[str, float] = {}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return {}
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                uuid = nvml.nvmlDeviceGetUUID(handle)
                joules[strip_uuid_prefix(uuid)] = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
            except nvml.NVMLError:
                continue
    finally:
        nvml.nvmlShutdown()
    return joules


def strip_uuid_prefix(uuid: str | bytes) -> str:
    """A card's UUID without the prefix that NVML writes and torch does not; older NVML gives bytes.

    >>> strip_uuid_prefix(b"GPU-5ab5"), strip_uuid_prefix("5ab5")
    ('5ab5', '5ab5')
    """
    return (uuid.decode() if isinstance(uuid, bytes) else uuid).removeprefix("GPU-")


def _package_zones(root: Path) -> list[Path]:
    """The zone of each package, by its name: ``intel-rapl-mmio`` repeats those of ``intel-rapl``."""
    zones = sorted(root.glob("intel-rapl*:*"), key=lambda zone: (not zone.name.startswith("intel-rapl:"), zone.name))
    packages: dict[str, Path] = {}
    for zone in zones:
        name = (zone / "name").read_text(encoding="ascii").strip()
        if name.startswith("package"):
            packages.setdefault(name, zone)
    return list(packages.values())


def _read_int(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))
