"""What a run was made by, beside its settings: limbeck's own code, the packages around it, and switches of torch.

Nothing here names the host, the user or a path.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["get_git_revision", "get_torch_flags", "hash_environment"]

_PACKAGE_ROOT = Path(__file__).parents[1]
_ENVIRONMENT_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "PYTHONHASHSEED",
)  # fmt: skip


def get_git_revision() -> dict[str, Any]:
    """The git commit of limbeck's code, and whether files of the package differ from it; ``None`` where nobody knows.

    A checkout tells both. An installation from a git address remembers the commit, and one from an index neither.
    """
    commit = _git("rev-parse", "HEAD") if _git("ls-files", "--error-unmatch", "_version.py") else None
    if commit:
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--", "."))}
    try:
        direct_url = json.loads(metadata.distribution("limbeck").read_text("direct_url.json") or "{}")
        return {"commit": direct_url["vcs_info"]["commit_id"], "dirty": False}
    except (metadata.PackageNotFoundError, KeyError, TypeError, ValueError):
        return {"commit": None, "dirty": None}


def hash_environment() -> str:
    """A sha256 over Python's version and every installed package with its version, in order of their names.

    >>> len(hash_environment()), hash_environment() == hash_environment()
    (64, True)
    """
    packages = {
        f"{(distribution.metadata['Name'] or '').lower()}=={distribution.version}"
        for distribution in metadata.distributions()
    }
    text = "\n".join([f"python {platform.python_version()}", *sorted(packages)])
    return hashlib.sha256(text.encode()).hexdigest()


def get_torch_flags() -> dict[str, Any]:
    """The switches of torch that change bits, and the environment variables that do so where they are set.

    >>> get_torch_flags()["deterministic_algorithms"], get_torch_flags()["default_dtype"]
    (False, 'float32')
    """
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": bool(torch.backends.cudnn.deterministic),
        "cudnn_benchmark": bool(torch.backends.cudnn.benchmark),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "num_interop_threads": torch.get_num_interop_threads(),
        "environment_variables": {name: os.environ[name] for name in _ENVIRONMENT_VARIABLES if name in os.environ},
    }


def _git(*args: str) -> str:
    """What git says of the package's folder; nothing where there is no git, or no checkout."""
    try:
        result = subprocess.run(  # noqa: S603
            ["git", "--no-optional-locks", "-C", str(_PACKAGE_ROOT), *args],  # noqa: S607
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()
