"""Metric, gain, verdict and time left of runs and studies."""

from __future__ import annotations

import json
import math

import pytest

from limbeck.dashboard.run_summary import estimate_run_seconds_left, summarize_record, summarize_study
from limbeck.report.metrics_csv import TrainingCurve
from limbeck.report.record_io import parse_record

RECIPE = {
    "teachers": {"big": {"use": "small_cnn", "weights": None}, "pretrained": {"use": "small_cnn", "weights": "t.pt"}},
    "teacher_training": {"epochs": 4}, "baselines": ["student_only"], "assistants": {},
    "stages": [{"name": "warmup", "epochs": 1}, {"name": "distill", "epochs": 2}],
}  # fmt: skip


def curve(steps, seconds):
    return TrainingCurve("p", tuple(steps), {}, {}, {"seconds": tuple(seconds)})


def test_time_left_counts_the_trainings_that_have_not_begun():
    big = curve([10.0, 20.0], [5.0, 10.0])  # half of 4 epochs of 10 steps, half a second a step
    # 20 steps of the teacher, then 30 each of baseline and distilled student.
    assert estimate_run_seconds_left({"big": big}, RECIPE) == pytest.approx(0.5 * (20 + 30 + 30))


def test_time_left_is_by_the_speed_of_each_training():
    curves = {"big": curve([10, 20, 30, 40], [10, 20, 30, 40]), "baseline": curve([10, 20, 30], [1.0, 1.0, 2.0])}
    # 2 seconds for 30 steps of the baseline; the student has the mean speed.
    assert estimate_run_seconds_left(curves, RECIPE) == pytest.approx(30 * (1.0 + 2 / 30) / 2)


def test_time_left_adds_the_seconds_of_all_stages():
    stages = {"warmup": 0.0, "distill": 10.0}
    big = TrainingCurve("big", (10.0, 20.0, 30.0), {}, stages, {"seconds": (5.0, 20.0, 35.0)})
    # 5 + 35 seconds for 30 steps, although the second stage begins above the end of the first.
    recipe = {**RECIPE, "teacher_training": {"steps": 60}, "stages": [{"name": "distill", "steps": 30}]}
    assert estimate_run_seconds_left({"big": big}, recipe) == pytest.approx(40 / 30 * (30 + 30 + 30))


def test_time_left_is_unknown_without_a_training_or_a_length():
    assert estimate_run_seconds_left({}, RECIPE) is None
    assert estimate_run_seconds_left({"big": curve([10.0], [math.nan])}, RECIPE) is None
    assert estimate_run_seconds_left({"big": curve([10.0], [1.0])}, {**RECIPE, "stages": [{"name": "d"}]}) is None


def test_a_finished_run_has_metric_gain_and_verdict():
    split = {"num_samples": 100, "metrics": {"per": 0.18}}
    record = parse_record({
        "schema": 3, "name": "speech", "primary_metric": "per",
        "metric_info": {"per": {"label": "P", "phrase": "phoneme error rate", "higher_is_better": False, "unit": "%"}},
        "models": {"distilled": {"role": "distilled", "test": split}},
        "verdict": {"text": "", "gain": 12.0, "interval": [9.0, 15.0]},
    })  # fmt: skip
    summary = summarize_record(record)
    assert summary[:5] == ("phoneme error rate 18.0 %", 0.18, "+12.0 points", 12.0, "improves")


def test_a_study_has_those_of_the_selected_variant_and_the_time_left(tmp_path):
    (tmp_path / "trials").mkdir()
    info = {"accuracy": {"label": "Accuracy", "phrase": "accuracy", "unit": "%", "higher_is_better": True}}
    (tmp_path / "trials" / "task.json").write_text(json.dumps({"primary_metric": "accuracy", "metric_info": info}))
    trials = [
        {"variant": "kd", "folder": "trials", "state": "done", "seconds": 20.0},
        {"variant": "kd", "folder": "trials/kd/1", "state": "waiting", "seconds": None},
    ]
    variant = {"accuracy": {"mean": 0.95}, "gain": {"mean": 2.0}, "verdict": {"outcome": "inconclusive"}}
    study = {"trials": trials, "results": {"selected": {"variant": "kd"}, "variants": {"kd": variant}}}
    summary = summarize_study(tmp_path, study)
    assert summary == ("accuracy 95.0 % (kd)", 0.95, "+2.0 points", 2.0, "inconclusive", 20.0)
    assert summarize_study(tmp_path, {"trials": trials[1:], "results": {}}).seconds_left is None
