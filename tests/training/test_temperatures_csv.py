"""Each step's temperature is written down, once, also over a stop and a kill in the middle of a line."""

from __future__ import annotations

import csv
import signal
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.core.schedules import linear
from limbeck.data import Digits
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.losses.temperature import PerSample
from limbeck.report.metrics_csv import TrainingCurve, load_temperatures
from limbeck.training import TrainingConfig
from limbeck.training.callbacks import TemperatureCSV
from limbeck.training.checkpoint import TrainingInterrupted

TASK = limbeck.tasks.Classification(classes=10)
SETTINGS = TrainingConfig(optimizer=partial(torch.optim.SGD, lr=0.05), batch_size=32, checkpoint_every_seconds=1000.0)


@pytest.fixture(scope="module")
def data():
    return Digits(num_labeled=100, num_samples=160).load(seed=0)


def distilling(stop_at=None):
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(2))
    if stop_at is not None:
        calls = iter(range(10**6))
        student.register_forward_hook(
            lambda module, *_: (
                signal.raise_signal(signal.SIGTERM) if module.training and next(calls) == stop_at else None
            )
        )
    terms = {
        "truth": CrossEntropyLoss(), "falls": KDLoss(temperature=linear(6.0, 3.0)),
        "rows": KDLoss(temperature=PerSample(score="entropy", confident=6.0, uncertain=3.0)),
    }  # fmt: skip
    return limbeck.Distiller(student, {"big": teacher}, objective=terms, task=TASK)


def rows(folder):
    with (folder / "temperatures.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_step_has_a_row_of_each_term_with_a_temperature(data, tmp_path):
    limbeck.training.fit(distilling(), data, steps=12, training=SETTINGS, run_dir=tmp_path, callbacks=[])
    table = rows(tmp_path)
    assert [int(row["step"]) for row in table if row["loss"] == "falls"] == list(range(1, 13))
    falls = [float(row["mean"]) for row in table if row["loss"] == "falls"]
    assert falls[0] == 6.0
    assert all(one > two for one, two in pairwise(falls))
    spread = [row for row in table if row["loss"] == "rows"]
    assert len(spread) == 12
    assert all(3 <= float(row["min"]) < float(row["mean"]) < float(row["max"]) <= 6 for row in spread)


def test_micro_batches_of_a_step_are_one_row(data, tmp_path):
    twice = TrainingConfig(optimizer=SETTINGS.optimizer, batch_size=16, grad_accum_steps=2)
    limbeck.training.fit(distilling(), data, steps=4, training=twice, run_dir=tmp_path, callbacks=[])
    assert [int(row["step"]) for row in rows(tmp_path) if row["loss"] == "falls"] == [1, 2, 3, 4]


def test_a_stop_and_a_half_written_line_leave_each_step_once(data, tmp_path):
    limbeck.training.fit(distilling(), data, steps=30, training=SETTINGS, run_dir=tmp_path / "whole", callbacks=[])
    with pytest.raises(TrainingInterrupted):
        limbeck.training.fit(
            distilling(stop_at=13), data, steps=30, training=SETTINGS, run_dir=tmp_path / "cut", callbacks=[]
        )
    with (tmp_path / "cut" / "temperatures.csv").open("a") as file:
        file.write("distilled,distill,29,falls,3.1,3.1,3.1\r\ndistilled,distill,30,fa")
    limbeck.training.fit(
        distilling(), data, steps=30, training=SETTINGS, run_dir=tmp_path / "cut", resume=True, callbacks=[]
    )
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")


def test_rows_of_other_trainings_stay_and_own_ones_are_begun_again(tmp_path):
    path = tmp_path / "temperatures.csv"
    for phase, stage in (("big", "teacher_training"), ("student", "one"), ("student", "two"), ("student", "one")):
        one = TemperatureCSV(path, phase=phase, stage=stage, step=0)
        one.add(1, {"soft": [4.0]})
        one.add(2, {"soft": [torch.tensor([1.0, 5.0])]})
        one.write()
    assert [(row["phase"], row["stage"], row["step"]) for row in rows(tmp_path)] == [
        (phase, stage, step)
        for phase, stage in (("big", "teacher_training"), ("student", "two"), ("student", "one"))
        for step in ("1", "2")
    ]


def test_the_page_draws_steps_of_all_stages_one_after_the_other_and_few_points(tmp_path):
    path = tmp_path / "temperatures.csv"
    for stage in ("one", "two"):
        log = TemperatureCSV(path, phase="d", stage=stage, step=0)
        for step in range(1, 1001):
            log.add(step, {"soft": [float(step)]})
        log.write()
    course = TrainingCurve("d", (1000.0, 2000.0), {}, {"one": 0.0, "two": 1000.0})
    drawn = load_temperatures(path, course)["soft"]
    assert len(drawn.steps) <= 300
    assert drawn.steps[-1] == 2000.0
    assert (drawn.low[0], drawn.high[-1]) == (1.0, 1000.0)
    assert list(drawn.steps) == sorted(drawn.steps)
    assert load_temperatures(tmp_path / "none.csv", course) == load_temperatures(path, None) == {}


def test_a_damaged_file_costs_its_damaged_lines_only(tmp_path):
    path = tmp_path / "temperatures.csv"
    one = TemperatureCSV(path, phase="d", stage="s", step=0)
    one.add(1, {"soft": [4.0]})
    one.write()
    with path.open("ab") as file:
        file.write(b"\xff\xfe\x00d,s,2\r\n" + b"x" * 300_000 + b"\r\nd,s,\xc2\xb2,soft,1,1,1\r\nd,s,3,so")
    TemperatureCSV(path, phase="d", stage="s", step=5)
    assert [row["step"] for row in rows(tmp_path)] == ["1"]


def test_a_disk_that_takes_no_more_is_one_sentence(tmp_path):
    (tmp_path / "temperatures.csv").mkdir()  # which cannot be appended to either
    one = TemperatureCSV(tmp_path / "other.csv", phase="d", stage="s", step=0)
    one._path = tmp_path / "temperatures.csv"
    one.add(1, {"soft": [4.0]})
    with pytest.raises(LimbeckError, match=r"could not be written .*: free some space, and go on with --resume"):
        one.write()
