"""The verdict follows the interval, and nothing else."""

from __future__ import annotations

import math

import pytest

from limbeck.report.verdict import RULE, classify_interval, format_verdict, format_vs_no_assistants
from limbeck.tasks.classification.metrics import ACCURACY

MODELS = {
    "teacher": {"role": "teacher", "test": {"metrics": {"accuracy": 0.99}, "num_samples": 360}},
    "baseline": {"role": "baseline", "test": {"metrics": {"accuracy": 0.932}, "num_samples": 360}},
    "distilled": {"role": "distilled", "test": {"metrics": {"accuracy": 0.963}, "num_samples": 360}},
}


def test_interval_above_zero_improves_with_every_number_stated():
    assert format_verdict(MODELS, 3.1, (0.4, 5.8), 0.72, metric=ACCURACY) == (
        "Distillation improves accuracy: the student gains 3.1 points over the baseline (96.3 % against 93.2 %), "
        "95 % interval +0.4 to +5.8, n = 360, and recovers 72 % of the gap to its teacher."
    )


@pytest.mark.parametrize(
    ("gain", "interval", "says"),
    [
        (-2.0, (-3.0, -1.0), "The assistants degrade accuracy: −2.0 points against the same student without them"),
        (0.4, (-0.5, 1.2), "The assistants make no significant difference: the difference to the same student"),
        (0.4, (0.0, 1.2), "+0.4 points, and its 95 % interval, 0.0 to +1.2, includes zero."),
    ],
)
def test_assistants_are_judged_by_the_same_rule(gain, interval, says):
    assert says in format_vs_no_assistants(gain, interval, metric=ACCURACY)


def test_interval_below_zero_degrades():
    assert format_verdict(MODELS, -3.1, (-5.8, -0.4), None, metric=ACCURACY).startswith(
        "Distillation degrades accuracy: the student loses 3.1 points"
    )


@pytest.mark.parametrize("interval", [(-0.1, 5.0), (-5.0, 0.1), (0.0, 3.0), (-3.0, 0.0), (0.0, 0.0)])
def test_interval_with_zero_is_inconclusive_however_large_the_gain(interval):
    sentence = format_verdict(MODELS, 4.9, interval, 0.9, metric=ACCURACY)
    assert sentence.startswith("No significant difference between distilled and baseline (n = 360)")
    assert "improves" not in sentence
    assert "recovers" not in sentence


def test_a_gain_beyond_the_teacher_is_stated():
    assert "exceeds its teacher (125 % of the gap)" in format_verdict(MODELS, 3.1, (0.4, 5.8), 1.25, metric=ACCURACY)


@pytest.mark.parametrize("gap", [None, math.nan])
def test_without_a_gap_none_is_stated(gap):
    assert "gap" not in format_verdict(MODELS, 3.1, (0.4, 5.8), gap, metric=ACCURACY)


@pytest.mark.parametrize("interval", [None, (None, 3.0), (math.nan, 1.0), ()])
def test_no_interval_is_no_verdict(interval):
    assert classify_interval(interval) == "unknown"
    assert format_verdict(MODELS, 3.1, interval, 0.7, metric=ACCURACY).startswith(
        "Whether distillation improves accuracy is unknown"
    )


def test_reason_why_nothing_is_known_is_the_true_one():
    without = {name: model for name, model in MODELS.items() if name != "baseline"}
    shut = {name: {**model, "test": None} for name, model in MODELS.items()}
    assert "was not trained without a teacher" in format_verdict(without, None, None, None, metric=ACCURACY)
    assert "was not opened" in format_verdict(shut, None, None, None, metric=ACCURACY)


def test_rule_names_all_three_outcomes():
    assert all(word in RULE for word in ("improves", "degrades", "no significant difference"))
