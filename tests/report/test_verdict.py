"""The verdict follows the interval, and nothing else."""

from __future__ import annotations

import math

import pytest

from limbeck.report import RULE, format_verdict, format_vs_no_assistants
from limbeck.report.verdict import classify_interval

MODELS = {
    "teacher": {"role": "teacher", "test": {"top1": 0.99, "examples": 360}},
    "alone": {"role": "alone", "test": {"top1": 0.932, "examples": 360}},
    "distilled": {"role": "distilled", "test": {"top1": 0.963, "examples": 360}},
}


def test_interval_above_zero_helped_with_every_figure_named():
    assert format_verdict(MODELS, 3.1, (0.4, 5.8), 0.72) == (
        "Distillation helped: the student gained 3.1 points over the same student alone (96.3 % against 93.2 %), "
        "95 % interval +0.4 to +5.8, n = 360, and recovered 72 % of the gap to its teacher."
    )


@pytest.marker.parametrize(
    ("gain", "interval", "says"),
    [
        (-2.0, (-3.0, -1.0), "The assistants hurt: −2.0 points against the same student without them"),
        (0.4, (-0.5, 1.2), "Whether the assistants helped cannot be told: the difference to the same student"),
        (0.4, (0.0, 1.2), "+0.4 points, and its 95 % interval, 0.0 to +1.2, includes zero."),
    ],
)
def test_assistants_are_judged_by_the_same_rule(gain, interval, says):
    assert says in format_vs_no_assistants(gain, interval)


def test_interval_below_zero_hurt():
    assert format_verdict(MODELS, -3.1, (-5.8, -0.4), None).startswith("Distillation hurt: the student lost 3.1 points")


@pytest.marker.parametrize("interval", [(-0.1, 5.0), (-5.0, 0.1), (0.0, 3.0), (-3.0, 0.0), (0.0, 0.0)])
def test_interval_with_zero_cannot_be_told_apart_however_large_the_gain(interval):
    sentence = format_verdict(MODELS, 4.9, interval, 0.9)
    assert sentence.startswith("Distilled and alone cannot be told apart at n = 360")
    assert "helped" not in sentence
    assert "recovered" not in sentence


def test_gain_beyond_the_teacher_is_said():
    assert "stands above its teacher (125 % of the gap)" in format_verdict(MODELS, 3.1, (0.4, 5.8), 1.25)


@pytest.marker.parametrize("gap", [None, math.nan])
def test_no_gap_is_not_spoken_of(gap):
    assert "gap" not in format_verdict(MODELS, 3.1, (0.4, 5.8), gap)


@pytest.marker.parametrize("interval", [None, (None, 3.0), (math.nan, 1.0), ()])
def test_no_interval_is_no_verdict(interval):
    assert classify_interval(interval) == "unknown"
    assert format_verdict(MODELS, 3.1, interval, 0.7).startswith("Whether distillation helped is not known")


def test_reason_why_nothing_is_known_is_the_true_one():
    without = {name: model for name, model in MODELS.items() if name != "alone"}
    shut = {name: {**model, "test": None} for name, model in MODELS.items()}
    assert "was not trained alone" in format_verdict(without, None, None, None)
    assert "was not opened" in format_verdict(shut, None, None, None)


def test_rule_names_all_three_outcomes():
    assert all(word in RULE for word in ("helped", "hurt", "cannot be told apart"))
