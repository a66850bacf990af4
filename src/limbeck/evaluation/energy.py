"""Joules, where the machine tells: processor packages by RAPL, NVIDIA cards by NVML.

Both are counters of the whole package or card: what other programs ran on it is in them.
"""

from __future__ import annotations

import importlib
import threading
from pathlib import Path
from typing import Any, Self, final

__all__ = ["POWERCAP", "PackageJoules", "bare", "card_joules"]

POWERCAP = Path("/sys/class/powercap")
_EVERY = 30.0  # seconds: a counter of 262 kJ, the usual one, has then turned at most once below 8 kW


@final
class PackageJoules:
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

    def __init__(self, root: Path = POWERCAP) -> None:
        self.joules: float | None = None
        self._root = root
        self._last: dict[Path, int] = {}
        self._used = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.joules, self._used, self._thread = None, 0, None
        self._ended.clear()
        try:
            self._last = {zone: _number(zone / "energy_uj") for zone in _packages(self._root)}
        except (OSError, ValueError):
            self._last = {}
        if self._last:
            self._thread = threading.Thread(target=self._watch, name="limbeck-joules", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._read()
        self.joules = self._used / 1e6 if self._last else None

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self._read()

    def _read(self) -> None:
        """Add what was used since the last reading; one that fails ends the counting, since it would leave a hole."""
        try:
            for zone, before in self._last.items():
                now = _number(zone / "energy_uj")
                turned = _number(zone / "max_energy_range_uj") if now < before else 0
                self._used += now - before + turned
                self._last[zone] = now
        except (OSError, ValueError):
            self._last = {}


def card_joules() -> dict[str, float]:
    """Joules that each NVIDIA card has used since its driver was loaded, by the card's UUID.

    Empty without ``nvidia-ml-py`` or a card; cards before Volta have no counter and are left out. It starts no CUDA.

    >>> all(joules >= 0 for joules in card_joules().values())
    True
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return {}
    found: dict[str, float] = {}
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return {}
    try:
        for place in range(nvml.nvmlDeviceGetCount()):
            try:
                card = nvml.nvmlDeviceGetHandleByIndex(place)
                uuid = nvml.nvmlDeviceGetUUID(card)
                found[bare(uuid)] = nvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1e3
            except nvml.NVMLError:
                continue
    finally:
        nvml.nvmlShutdown()
    return found


def bare(uuid: str | bytes) -> str:
    """A card's UUID without the prefix that NVML writes and torch does not; older NVML gives bytes.

    >>> bare(b"GPU-5ab5"), bare("5ab5")
    ('5ab5', '5ab5')
    """
    return (uuid.decode() if isinstance(uuid, bytes) else uuid).removeprefix("GPU-")


def _packages(root: Path) -> list[Path]:
    """The zone of each package, by its name: ``intel-rapl-mmio`` repeats those of ``intel-rapl``."""
    zones = sorted(root.glob("intel-rapl*:*"), key=lambda zone: (not zone.name.startswith("intel-rapl:"), zone.name))
    found: dict[str, Path] = {}
    for zone in zones:
        name = (zone / "name").read_text(encoding="ascii").strip()
        if name.startswith("package"):
            found.setdefault(name, zone)
    return list(found.values())


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))
