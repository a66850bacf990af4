"""What work costs, against work of a known length, counters in a folder, and a card that is made up."""

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


def zone(root, folder, name, used, most=262_143_328_850):
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "name").write_text(f"{name}\n")
    (root / folder / "energy_uj").write_text(f"{used}\n")
    (root / folder / "max_energy_range_uj").write_text(f"{most}\n")
    return root / folder / "energy_uj"


def test_sleep_takes_the_wall_and_not_the_processor():
    with ResourceMeter() as spent:
        time.sleep(0.2)
    found = spent.to_dict()
    assert sorted(found) == KEYS
    assert 0.2 <= found["seconds"] < 2
    assert found["cpu_seconds"] < 0.15


def test_work_takes_the_processor():
    with ResourceMeter() as spent:
        busy(0.1)
    assert 0.1 <= spent.to_dict()["cpu_seconds"] < 0.5


def test_children_that_ended_are_counted():
    work = "import time\nwhile time.process_time() < 0.2: pass"
    with ResourceMeter() as spent:
        subprocess.run([sys.executable, "-S", "-c", work], check=True)
    assert spent.to_dict()["cpu_seconds"] >= 0.2


def test_a_block_that_fails_is_measured_too_and_the_next_starts_anew():
    def fail():
        busy(0.1)
        raise ZeroDivisionError

    spent = ResourceMeter()
    with pytest.raises(ZeroDivisionError), spent:
        fail()
    assert spent.to_dict()["cpu_seconds"] >= 0.1
    with spent:
        pass
    assert spent.to_dict()["cpu_seconds"] < 0.1


def test_without_an_end_there_is_no_figure():
    with pytest.raises(LimbeckError, match="at the end of the block"):
        ResourceMeter().to_dict()
    with ResourceMeter() as spent, pytest.raises(LimbeckError, match="at the end of the block"):
        spent.to_dict()


def test_packages_are_added_and_their_parts_are_not(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 5_000_000)
    others = [
        zone(tmp_path, "intel-rapl:0:0", "core", 0),
        zone(tmp_path, "intel-rapl:0:1", "dram", 0),
        zone(tmp_path, "intel-rapl:2", "psys", 0),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0),  # the first package by another way
    ]
    with ResourceMeter(powercap=tmp_path) as spent:
        first.write_text("3500000\n")
        second.write_text("5250000\n")
        for other in others:
            other.write_text("900000000\n")
    assert spent.to_dict()["joules"] == pytest.approx(2.5 + 0.25)
    assert spent.energy_sources == ("rapl",)


def test_a_counter_that_turned_to_zero_goes_on(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, most=10_000_000)
    with ResourceMeter(powercap=tmp_path) as spent:
        counter.write_text("500000\n")
    assert spent.to_dict()["joules"] == pytest.approx(1.5)


def test_a_counter_that_turned_twice_is_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(resources, "_POLL_SECONDS", 0.001)
    reads, number = threading.Semaphore(0), resources._read_int

    def told(file):
        found = number(file)
        reads.release()
        return found

    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0, most=10_000_000)
    monkeypatch.setattr(resources, "_read_int", told)
    with ResourceMeter(powercap=tmp_path) as spent:
        for used in (9, 5, 9, 5):  # 9, then 6, 4, 6: turned twice
            other = counter.with_name("next")
            other.write_text(f"{used}000000\n")
            other.replace(counter)
            while reads.acquire(blocking=False):
                pass
            for _ in range(4):  # the reading under way, its range, and a whole one more
                assert reads.acquire(timeout=10)
    assert spent.to_dict()["joules"] == pytest.approx(25.0)


@pytest.mark.parametrize("spoil", ["absent", "before", "meanwhile", "words"])
def test_a_counter_that_cannot_be_read_is_no_figure(tmp_path, spoil):
    root = tmp_path / "powercap"
    counter = zone(root, "intel-rapl:0", "package-0", 1)
    zone(root, "intel-rapl:1", "package-1", 1)
    if spoil == "before":  # a folder in its place cannot be read by root either
        counter.unlink()
        counter.mkdir()
    if spoil == "words":
        counter.write_text("none\n")
    with ResourceMeter(powercap=tmp_path / "nothing" if spoil == "absent" else root) as spent:
        if spoil == "meanwhile":
            counter.unlink()
    assert spent.to_dict()["joules"] is None
    assert spent.energy_sources == ()


def test_no_thread_is_left(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    with ResourceMeter(powercap=tmp_path):
        assert any(thread.name == "limbeck-joules" for thread in threading.enumerate())
    assert not any(thread.name == "limbeck-joules" for thread in threading.enumerate())


@pytest.fixture
def cards(monkeypatch):
    """Three cards, of which this process uses the first and the last; the first call of NVML says 1, 2 and 3 kJ."""
    state = types.SimpleNamespace(last_used=[1_000_000, 2_000_000, 3_000_000], silent=set(), waited=[])

    class NVMLError(Exception):
        pass

    def consumption(card):
        if card in state.silent:
            raise NVMLError
        return state.last_used[card]

    nvml = types.ModuleType("pynvml")
    nvml.NVMLError, nvml.nvmlInit, nvml.nvmlShutdown = NVMLError, lambda: None, lambda: None
    nvml.nvmlDeviceGetCount, nvml.nvmlDeviceGetHandleByIndex = (lambda: 3), (lambda place: place)
    nvml.nvmlDeviceGetUUID = lambda card: f"GPU-{card}"
    nvml.nvmlDeviceGetTotalEnergyConsumption = consumption
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0 if device == 1 else 512)
    monkeypatch.setattr(torch.cuda, "synchronize", state.waited.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid=str(device)))
    return state


def test_cards_in_use_are_counted_and_waited_for(cards, tmp_path):
    with ResourceMeter(powercap=tmp_path) as spent:
        cards.last_used = [1_002_500, 9_000_000, 3_001_000]
    found = spent.to_dict()
    assert found["joules"] == pytest.approx(2.5 + 1.0)
    assert found["gpu_seconds"] == pytest.approx(2 * found["seconds"])
    assert spent.energy_sources == ("nvml",)
    assert cards.waited == [0, 2, 0, 2]


def test_processor_and_cards_are_added(cards, tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    with ResourceMeter(powercap=tmp_path) as spent:
        cards.last_used[0] += 4_000
        counter.write_text("1500000")
    assert spent.to_dict()["joules"] == pytest.approx(5.5)
    assert spent.energy_sources == ("rapl", "nvml")


def test_a_card_in_use_that_does_not_tell_leaves_no_part_of_a_sum(cards, tmp_path):
    cards.silent = {2}
    with ResourceMeter(powercap=tmp_path) as spent:
        cards.last_used[0] += 4_000
    assert spent.to_dict()["joules"] is None


def test_without_cuda_no_gpu_seconds_and_cuda_is_not_started(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("claims what holds without a card")
    with ResourceMeter(powercap=tmp_path) as spent:
        pass
    assert spent.to_dict()["gpu_seconds"] == 0.0
    assert not torch.cuda.is_initialized()
