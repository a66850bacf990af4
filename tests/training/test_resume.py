"""A killed or interrupted training resumes and ends with the same weights to the bit."""

import random
import signal
import time
from pathlib import Path

import pytest

RUNNER = Path(__file__).with_name("runner.py")
TIMEOUT = 600


@pytest.fixture(scope="module")
def start(fork_python):
    heed_hangup = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # under nohup it is ignored
    return lambda out, *arguments: fork_python(RUNNER, out, *arguments, first=heed_hangup)


@pytest.fixture(scope="module")
def finish(run_python):
    def run(out, *arguments):
        process = run_python(RUNNER, out, *arguments)
        return process.returncode, process.stdout.strip(), process.stderr.strip()

    return run


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, finish):
    status, output, errors = finish(tmp_path_factory.mktemp("uninterrupted"), "every=1000")
    assert status == 0, errors
    return output


def checkpoint(out):
    return out / "checkpoint" / "distilled.distill.pt"


def wait_for_checkpoints(out, process, *, count):
    """Wait until the modification time of the checkpoint has changed ``count`` times."""
    changes, last, deadline = 0, None, time.monotonic() + TIMEOUT
    while changes < count and process.poll() is None and time.monotonic() < deadline:
        modified = checkpoint(out).stat().st_mtime_ns if checkpoint(out).exists() else None
        changes, last = changes + (modified != last), modified
        time.sleep(0.002)


def test_killed_five_times_ends_with_the_same_weights(tmp_path, uninterrupted, start, finish):
    rng = random.Random(0)
    for _ in range(5):
        process = start(tmp_path, "resume", "slow=0.02")
        wait_for_checkpoints(tmp_path, process, count=1 + rng.randint(1, 6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    status, output, errors = finish(tmp_path, "resume")
    assert status == 0, errors
    assert output == uninterrupted
    assert not list(tmp_path.rglob("*.csv.*")), "a partly written file was left behind"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_a_checkpoint_and_names_the_resume_option(tmp_path, signum, uninterrupted, start, finish):
    process = start(tmp_path, "every=1000", "slow=0.02")
    while not (tmp_path / "metrics.csv").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signum)
    _, errors = process.communicate()
    assert process.returncode == 128 + signum
    assert "--resume" in errors
    assert checkpoint(tmp_path).exists()
    assert finish(tmp_path, "resume")[1] == uninterrupted


def test_workers_do_not_change_the_result(tmp_path, uninterrupted, finish):
    assert finish(tmp_path, "workers=2")[1] == uninterrupted


def test_a_finished_training_is_not_repeated(tmp_path, uninterrupted, finish):
    finish(tmp_path)
    before = (tmp_path / "metrics.csv").read_bytes(), checkpoint(tmp_path).stat().st_mtime_ns
    assert finish(tmp_path, "resume")[1] == uninterrupted
    assert ((tmp_path / "metrics.csv").read_bytes(), checkpoint(tmp_path).stat().st_mtime_ns) == before


def test_a_truncated_checkpoint_is_one_sentence(tmp_path, finish):
    finish(tmp_path, "steps=4")
    content = checkpoint(tmp_path).read_bytes()
    checkpoint(tmp_path).write_bytes(content[: len(content) // 2])
    status, _, errors = finish(tmp_path, "resume", "steps=4")
    assert status == 2
    assert "damaged or cut short" in errors.splitlines()[-1]
    assert len(checkpoint(tmp_path).read_bytes()) == len(content) // 2, "the damaged file was changed"


def test_a_checkpoint_of_another_training_is_refused(tmp_path, finish):
    finish(tmp_path, "steps=4")
    status, _, errors = finish(tmp_path, "resume", "steps=6")
    assert status == 2
    assert "its steps was 4 and is now 6" in errors
