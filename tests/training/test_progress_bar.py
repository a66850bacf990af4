"""Progress on stderr: lines in a log file, a bar in a terminal, a live bar in a notebook."""

from __future__ import annotations

import io
import re
import sys
import types

import pytest

from limbeck.core.metric_spec import MetricSpec
from limbeck.training import progress_bar
from limbeck.training.progress_bar import ProgressBar

METRICS = {
    "loss": 0.75, "loss/target": 0.25, "loss/kd": 0.5, "samples_per_second": 1234.0, "val/accuracy": 0.9,
}  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the progress bar sees."""
    seconds = [100.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: seconds[0])
    return seconds


def train(bar, *, epochs, steps_per_epoch=10, title="distilled", clock=None, step_seconds=0.0, log_every=None):
    bar.monitored_metrics = (MetricSpec(name="accuracy", label="Accuracy"),)
    bar.on_train_start(title=title, step=0, steps=epochs * steps_per_epoch)
    for step in range(1, epochs * steps_per_epoch + 1):
        if clock is not None:
            clock[0] += step_seconds
        if log_every and step % log_every == 0:
            bar.on_step_end(step, METRICS)
        if step % steps_per_epoch == 0:
            bar.on_step_end(step, METRICS)
            bar.on_epoch_end([{}] * (step // steps_per_epoch))
    bar.on_train_end()


def test_log_file_has_a_line_for_each_epoch_with_everything_that_matters(capsys, clock):
    train(ProgressBar(), epochs=3, clock=clock, step_seconds=0.5)
    lines = capsys.readouterr().err.splitlines()
    numbers = "loss 0.750 (target 0.250, kd 0.500) · val accuracy 90.0 % · 1,234 samples/s"
    assert lines == [
        f"distilled: step 10/30 · {numbers} · 10 s left",
        f"distilled: step 20/30 · {numbers} · 5.0 s left",
        f"distilled: step 30/30 · {numbers} · done in 15 s",
    ]


def test_hundreds_of_short_epochs_are_about_twenty_lines(capsys, clock):
    train(ProgressBar(), epochs=400, clock=clock, step_seconds=0.001)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 20
    assert "step 4,000/4,000" in lines[-1]


def test_each_epoch_of_some_seconds_has_its_line(capsys, clock):
    train(ProgressBar(), epochs=90, clock=clock, step_seconds=1.0)
    assert len(capsys.readouterr().err.splitlines()) == 90


def test_a_long_epoch_has_a_line_after_thirty_seconds(capsys, clock):
    train(ProgressBar(), epochs=1, steps_per_epoch=100, clock=clock, step_seconds=1.0, log_every=1)
    steps = re.findall(r"step (\d+)/100", capsys.readouterr().err)
    assert steps == ["31", "62", "93", "100"]


def test_time_left_of_the_run_counts_the_trainings_that_follow(capsys, clock):
    bar = ProgressBar(run_steps={"onnx_teacher": 7, "teacher": 20, "baseline": 10, "distilled": 30})
    train(bar, epochs=2, title="teacher", clock=clock, step_seconds=1.0)
    train(bar, epochs=1, title="baseline", clock=clock, step_seconds=1.0)
    train(bar, epochs=3, title="distilled", clock=clock, step_seconds=1.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("10 s left (run: 50 s)")
    assert lines[3].endswith("20 s left")


def test_workers_that_share_a_terminal_write_no_line_for_short_trainings(capsys, clock):
    train(ProgressBar(display="lines", prefix="trial 2/9, "), epochs=3, clock=clock, step_seconds=0.1)
    assert capsys.readouterr().err == ""
    train(ProgressBar(display="lines", prefix="trial 2/9, "), epochs=4, clock=clock, step_seconds=1.0, log_every=1)
    assert capsys.readouterr().err.startswith("trial 2/9, distilled: step 31/40 · loss")


def test_terminal_has_a_bar_whose_text_fits_in_the_window(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "25"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    train(ProgressBar(), epochs=2)
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, frames)) <= 80
    last = next(line for line in reversed(frames) if line.strip())
    assert last.startswith("distilled")
    assert "━" in last
    assert "20/20 done" in last


def test_notebook_updates_one_output_that_ends_as_text(monkeypatch):
    shown = []
    handle = types.SimpleNamespace(update=lambda content, raw: shown.append(content))
    monkeypatch.setitem(
        sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=1))
    )
    display = types.SimpleNamespace(display=lambda content, raw, display_id: shown.append(content) or handle)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    train(ProgressBar(prefix="<b>"), epochs=2)
    assert '<progress value="0.5000" max="1">' in shown[1]["text/html"]
    assert "&lt;b&gt;distilled" in shown[1]["text/html"]
    assert list(shown[-1]) == ["text/plain"]
    assert "<b>distilled: step 20/20 · loss 0.750" in shown[-1]["text/plain"]


def test_terminal_bar_is_not_drawn_before_its_title_is_known(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    train(ProgressBar(), epochs=1)
    assert "0/1 " not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())


def test_title_of_the_bar_replaces_the_name_of_the_training(capsys, clock):
    train(ProgressBar(title="training"), epochs=2, clock=clock, step_seconds=1.0)
    assert capsys.readouterr().err.startswith("training: step 10/20")
