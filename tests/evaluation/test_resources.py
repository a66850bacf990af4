"""Wall time, CPU time and energy, against known work, a fake powercap folder and fake GPUs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import types

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import ResourceMeter, resources

KEYS = ["cpu_seconds", "gpu_seconds", "joules", "seconds"]


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def zone(root, folder, name, microjoules, max_range=262_143_328_850):
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "name").write_text(f"{name}\n")
    (root / folder / "energy_uj").write_text(f"{microjoules}\n")
    (root / folder / "max_energy_range_uj").write_text(f"{max_range}\n")
    return root / folder / "energy_uj"


def test_sleep_takes_wall_time_only():
    with ResourceMeter() as meter:
        time.sleep(0.2)
    result = meter.to_dict()
    assert sorted(result) == KEYS
    assert 0.2 <= result["seconds"] < 2
    assert result["cpu_seconds"] < 0.15


def test_work_takes_cpu_time():
    with ResourceMeter() as meter:
        busy(0.1)
    assert 0.1 <= meter.to_dict()["cpu_seconds"] < 0.5


def test_cpu_time_includes_finished_children():
    work = "import time\nwhile time.process_time() < 0.2: pass"
    with ResourceMeter() as meter:
        subprocess.run([sys.executable, "-S", "-c", work], check=True)
    assert meter.to_dict()["cpu_seconds"] > 0.19  # the kernel counts the time of children in ticks


def test_block_that_raises_is_measured_and_the_meter_is_reusable():
    def fail():
        busy(0.1)
        raise ZeroDivisionError

    meter = ResourceMeter()
    with pytest.raises(ZeroDivisionError), meter:
        fail()
    assert meter.to_dict()["cpu_seconds"] >= 0.1
    with meter:
        pass
    assert meter.to_dict()["cpu_seconds"] < 0.1


def test_to_dict_before_the_end_raises():
    with pytest.raises(LimbeckError, match="at the end of the block"):
        ResourceMeter().to_dict()
    with ResourceMeter() as meter, pytest.raises(LimbeckError, match="at the end of the block"):
        meter.to_dict()


def test_energy_adds_packages_without_their_subzones(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 5_000_000)
    ignored = [
        zone(tmp_path, "intel-rapl:0:0", "core", 0),
        zone(tmp_path, "intel-rapl:0:1", "dram", 0),
        zone(tmp_path, "intel-rapl:2", "psys", 0),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0),  # the first package by another way
    ]
    with ResourceMeter(powercap=tmp_path) as meter:
        first.write_text("3500000\n")
        second.write_text("5250000\n")
        for counter_file in ignored:
            counter_file.write_text("900000000\n")
    assert meter.to_dict()["joules"] == pytest.approx(2.5 + 0.25)
    assert meter.energy_sources == ("rapl",)


def test_energy_counter_wraps_around(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, max_range=10_000_000)
    with ResourceMeter(powercap=tmp_path) as meter:
        counter.write_text("500000\n")
    assert meter.to_dict()["joules"] == pytest.approx(1.5)


def test_energy_counter_wraps_around_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_POLL_SECONDS", 0.001)
    reads, read_int = threading.Semaphore(0), resources._read_int

    def read_and_count(file):
        result = read_int(file)
        reads.release()
        return result

    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0, max_range=10_000_000)
    monkeypatch.setattr(resources, "_read_int", read_and_count)
    with ResourceMeter(powercap=tmp_path) as meter:
        for microjoules in (9, 5, 9, 5):  # 9, then 6, 4, 6: turned twice
            counter_file = counter.with_name("next")
            counter_file.write_text(f"{microjoules}000000\n")
            counter_file.replace(counter)
            while reads.acquire(blocking=False):
                pass
            for _ in range(4):  # the reading under way, its range, and a whole one more
                assert reads.acquire(timeout=10)
    assert meter.to_dict()["joules"] == pytest.approx(25.0)


@pytest.mark.parametrize("fault", ["absent", "before", "meanwhile", "words"])
def test_unreadable_energy_counter_gives_none(tmp_path, fault):
    root = tmp_path / "powercap"
    counter = zone(root, "intel-rapl:0", "package-0", 1)
    zone(root, "intel-rapl:1", "package-1", 1)
    if fault == "before":  # a folder in its index cannot be read by root either
        counter.unlink()
        counter.mkdir()
    if fault == "words":
        counter.write_text("none\n")
    with ResourceMeter(powercap=tmp_path / "nothing" if fault == "absent" else root) as meter:
        if fault == "meanwhile":
            counter.unlink()
    assert meter.to_dict()["joules"] is None
    assert meter.energy_sources == ()


def test_energy_thread_ends_with_the_block(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    with ResourceMeter(powercap=tmp_path):
        assert any(thread.name == "limbeck-joules" for thread in threading.enumerate())
    assert not any(thread.name == "limbeck-joules" for thread in threading.enumerate())


@pytest.fixture
def gpus(monkeypatch):
    """Three gpus, of which this process uses the first and the last; the first call of NVML says 1, 2 and 3 kJ."""
    state = types.SimpleNamespace(last_used=[1_000_000, 2_000_000, 3_000_000], without_counter=set(), synchronized=[])

    class NVMLError(Exception):
        pass

    def consumption(gpu):
        if gpu in state.without_counter:
            raise NVMLError
        return state.last_used[gpu]

    nvml = types.ModuleType("pynvml")
    nvml.NVMLError, nvml.nvmlInit, nvml.nvmlShutdown = NVMLError, lambda: None, lambda: None
    nvml.nvmlDeviceGetCount, nvml.nvmlDeviceGetHandleByIndex = (lambda: 3), (lambda index: index)
    nvml.nvmlDeviceGetUUID = lambda gpu: f"GPU-{gpu}"
    nvml.nvmlDeviceGetTotalEnergyConsumption = consumption
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0 if device == 1 else 512)
    monkeypatch.setattr(torch.cuda, "synchronize", state.synchronized.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid=str(device)))
    return state


def test_used_gpus_are_counted_and_synchronized(gpus, tmp_path):
    with ResourceMeter(powercap=tmp_path) as meter:
        gpus.last_used = [1_002_500, 9_000_000, 3_001_000]
    result = meter.to_dict()
    assert result["joules"] == pytest.approx(2.5 + 1.0)
    assert result["gpu_seconds"] == pytest.approx(2 * result["seconds"])
    assert meter.energy_sources == ("nvml",)
    assert gpus.synchronized == [0, 2, 0, 2]


def test_cpu_and_gpu_energy_are_added(gpus, tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    with ResourceMeter(powercap=tmp_path) as meter:
        gpus.last_used[0] += 4_000
        counter.write_text("1500000")
    assert meter.to_dict()["joules"] == pytest.approx(5.5)
    assert meter.energy_sources == ("rapl", "nvml")


def test_used_gpu_without_a_counter_gives_no_partial_sum(gpus, tmp_path):
    gpus.without_counter = {2}
    with ResourceMeter(powercap=tmp_path) as meter:
        gpus.last_used[0] += 4_000
    assert meter.to_dict()["joules"] is None


def test_without_cuda_no_gpu_seconds_and_cuda_is_not_started(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("claims what holds without a gpu")
    with ResourceMeter(powercap=tmp_path) as meter:
        pass
    assert meter.to_dict()["gpu_seconds"] == 0.0
    assert not torch.cuda.is_initialized()
