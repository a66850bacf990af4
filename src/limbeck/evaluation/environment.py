"""Hardware, versions, code and settings of torch that a run depends on, without names of host, user or path."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["get_git_revision", "get_hardware_info", "get_package_versions", "get_torch_flags", "hash_environment"]

_PACKAGES = (
    "torch", "torchvision", "lightning-fabric", "numpy", "scipy", "scikit-learn", "safetensors", "torchmetrics",
    "pydantic", "onnx", "onnxscript", "onnxruntime", "openvino", "timm", "torchattacks",
)  # fmt: skip
_PACKAGE_ROOT = Path(__file__).parents[1]
_ENVIRONMENT_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "PYTHONHASHSEED",
)  # fmt: skip


def get_hardware_info() -> dict[str, Any]:
    """Processor, number of usable cores, torch threads, operating system and accelerator."""
    device = torch.accelerator.current_accelerator(check_available=True)
    accelerator = "cpu" if device is None else device.type
    has_affinity = hasattr(os, "sched_getaffinity")  # missing on macOS and Windows
    return {
        "cpu": _cpu_name(),
        "num_cores": len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1,
        "num_threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if accelerator == "cuda" else accelerator,
    }


def get_package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results depend on.

    >>> get_package_versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]
    True
    """
    return dict(_read_package_versions())


@cache
def _read_package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


@cache
def hash_environment() -> str:
    """SHA-256 of Python's version and of every installed package with its version, read once in a process."""
    packages = {
        f"{(distribution.metadata['Name'] or '').lower()}=={distribution.version}"
        for distribution in metadata.distributions()
    }
    text = "\n".join([f"python {platform.python_version()}", *sorted(packages)])
    return hashlib.sha256(text.encode()).hexdigest()


def get_git_revision() -> dict[str, Any]:
    """Git ``commit`` of limbeck's code, and whether the package is ``dirty``; both ``None`` where unknown.

    From the checkout, else from the metadata of an installation from a git URL.
    """
    commit = _run_git("rev-parse", "HEAD") if _run_git("ls-files", "--error-unmatch", "_version.py") else None
    if commit:
        return {"commit": commit, "dirty": bool(_run_git("status", "--porcelain", "--", "."))}
    try:
        direct_url = json.loads(metadata.distribution("limbeck").read_text("direct_url.json") or "{}")
        return {"commit": direct_url["vcs_info"]["commit_id"], "dirty": False}
    except (metadata.PackageNotFoundError, KeyError, TypeError, ValueError):
        return {"commit": None, "dirty": None}


def get_torch_flags() -> dict[str, Any]:
    """Settings of torch that change results in the last bits, and the environment variables that do so where set."""
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": bool(torch.backends.cudnn.deterministic),
        "cudnn_benchmark": bool(torch.backends.cudnn.benchmark),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "num_interop_threads": torch.get_num_interop_threads(),
        "environment_variables": {name: os.environ[name] for name in _ENVIRONMENT_VARIABLES if name in os.environ},
    }


def _cpu_name() -> str:
    lines: list[str] = []
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine() or "unknown"


def _run_git(*args: str) -> str:
    """Output of git in the package's folder; empty without git or a checkout."""
    command = ["git", "--no-optional-locks", "-C", str(_PACKAGE_ROOT), *args]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
