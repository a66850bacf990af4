"""What a record says of the machine: enough to repeat a figure, nothing that names its owner."""

from __future__ import annotations

import getpass
import json
import platform
import subprocess
import sys
from importlib import metadata

import torch

from limbeck.evaluation import get_hardware_info, get_package_versions


def test_the_machine_is_described_without_its_names():
    found = get_hardware_info()
    assert found["num_threads"] == torch.get_num_threads()
    assert found["num_cores"] >= 1
    assert found["cpu"]
    assert found["system"].startswith(platform.system())
    if not torch.accelerator.is_available():
        assert found["accelerator"] == "cpu"
    words = json.dumps(found).split()
    assert platform.node() not in words
    assert getpass.getuser() not in words


def test_versions_are_those_installed_and_absent_packages_are_left_out(monkeypatch):
    found = get_package_versions()
    assert found["python"] == platform.python_version()
    assert found["safetensors"] == metadata.version("safetensors")

    def none(package):
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", none)
    assert get_package_versions() == {"python": platform.python_version()}


def test_neither_the_rooms_nor_versions_import_heavy_packages():
    code = (
        "import sys, limbeck.evaluation, limbeck.export; limbeck.evaluation.get_package_versions(); "
        "print([n for n in ('torchmetrics', 'scipy', 'sklearn', 'onnx', 'onnxruntime', 'torchvision', 'timm') "
        "if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
