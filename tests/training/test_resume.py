"""Work is not lost: killed, stopped or cut-off trainings go on and end with the same bits."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUNNER = Path(__file__).with_name("runner.py")


def start(out, *words):
    return subprocess.Popen(
        [sys.executable, str(RUNNER), str(out), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(out, *words):
    process = start(out, *words)
    printed, errors = process.communicate(timeout=120)
    return process.returncode, printed.strip(), errors.strip()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    status, printed, errors = finish(tmp_path_factory.mktemp("whole"), "every=1000")
    assert status == 0, errors
    return printed


def checkpoint(out):
    return out / "checkpoint" / "distilled.distill.pt"


def wait_for(out, process, *, least):
    """Until the checkpoint has been written ``least`` times, as seen by its changing time."""
    seen, last, limit = 0, None, time.monotonic() + 60
    while seen < least and process.poll() is None and time.monotonic() < limit:
        now = checkpoint(out).stat().st_mtime_ns if checkpoint(out).exists() else None
        seen, last = seen + (now != last), now
        time.sleep(0.002)


def test_killed_five_times_ends_with_the_same_bits(tmp_path, uninterrupted):
    dice = random.Random(0)
    for _ in range(5):
        process = start(tmp_path, "resume", "slow=0.02")
        wait_for(tmp_path, process, least=1 + dice.randint(1, 6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    status, printed, errors = finish(tmp_path, "resume")
    assert status == 0, errors
    assert printed == uninterrupted
    assert not list(tmp_path.rglob("*.csv.*")), "a half-written file was left under a final name"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number, uninterrupted):
    process = start(tmp_path, "every=1000", "slow=0.02")
    time.sleep(0.1)
    while not (tmp_path / "metrics.csv").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "--resume" in errors
    assert checkpoint(tmp_path).exists()
    assert finish(tmp_path, "resume")[1] == uninterrupted


def test_workers_change_nothing_but_the_speed(tmp_path, uninterrupted):
    assert finish(tmp_path, "workers=2")[1] == uninterrupted


def test_a_finished_training_is_not_done_again(tmp_path, uninterrupted):
    finish(tmp_path)
    begun = time.monotonic()
    assert finish(tmp_path, "resume", "slow=5")[1] == uninterrupted
    assert time.monotonic() - begun < 30


def test_a_truncated_checkpoint_is_one_sentence(tmp_path):
    finish(tmp_path, "steps=4")
    whole = checkpoint(tmp_path).read_bytes()
    checkpoint(tmp_path).write_bytes(whole[: len(whole) // 2])
    status, _, errors = finish(tmp_path, "resume", "steps=4")
    assert status == 2
    assert "damaged or cut short" in errors
    assert len(errors.splitlines()) == 1
    assert len(checkpoint(tmp_path).read_bytes()) == len(whole) // 2, "the evidence was touched"


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    finish(tmp_path, "steps=4")
    status, _, errors = finish(tmp_path, "resume", "steps=6")
    assert status == 2
    assert "its steps was 4 and is now 6" in errors
