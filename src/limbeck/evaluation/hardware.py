"""On what, and with which versions, a figure was measured. Nothing that names the host, the user or a path."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["get_hardware_info", "get_package_versions"]

_PACKAGES = (
    "torch", "torchvision", "lightning-fabric", "numpy", "scipy", "scikit-learn", "safetensors", "torchmetrics",
    "pydantic", "onnx", "onnxscript", "onnxruntime", "openvino", "timm", "torchattacks",
)  # fmt: skip


def get_hardware_info() -> dict[str, Any]:
    """The processor, how many cores this process may use, torch's threads, the system, and the accelerator.

    >>> sorted(get_hardware_info())
    ['accelerator', 'cpu', 'num_cores', 'num_threads', 'system']
    """
    return {
        "cpu": _cpu_name(),
        "num_cores": _num_cores(),
        "num_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "accelerator": _accelerator_name(),
    }


def get_package_versions() -> dict[str, str]:
    """The versions of Python and of the packages that figures depend on; those not installed are left out.

    >>> get_package_versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]
    True
    """
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown"


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _accelerator_name() -> str:
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return "cpu"
    return torch.cuda.get_device_name() if device.type == "cuda" else device.type
