"""The verdict over seeds follows both intervals, and states how many seeds would show a difference."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from limbeck.evaluation import gap_recovered_ci, paired_mean_ci, required_num_seeds
from limbeck.report import verdict
from limbeck.report.verdict import RULE_OVER_SEEDS, classify_gain_over_seeds
from limbeck.tasks.classification.metrics import ACCURACY

format_verdict_over_seeds = partial(verdict.format_verdict_over_seeds, metric=ACCURACY)

IMPROVES = {
    "mean": 3.1,
    "std": 0.5,
    "low": 2.7,
    "high": 3.5,
    "t_low": 2.48,
    "t_high": 3.72,
    "p_value": 0.0002,
    "num_seeds": 5,
}
DEGRADES = {
    "mean": -3.1,
    "std": 0.5,
    "low": -3.5,
    "high": -2.7,
    "t_low": -3.72,
    "t_high": -2.48,
    "p_value": 0.0002,
    "num_seeds": 5,
}
INCONCLUSIVE = {
    "mean": 0.4,
    "std": 0.6,
    "low": 0.1,
    "high": 0.9,
    "t_low": -1.09,
    "t_high": 1.89,
    "p_value": 0.37,
    "num_seeds": 3,
}


def test_both_intervals_above_zero_improve_with_every_number_stated():
    gap = {"fraction": 0.72, "low": 0.6, "high": 0.84, "num_seeds": 5}
    assert format_verdict_over_seeds(
        "distilled", "student_only", IMPROVES, gap_recovered=gap, seeds_needed=2, values=(0.963, 0.932)
    ) == (
        "distilled improves over student_only: +3.10 points (96.3 % against 93.2 %), 95 % interval +2.70 to +3.50 by "
        "bootstrap and +2.48 to +3.72 by Student's t, n = 5 seeds, and recovers 72 % of the gap to its teacher "
        "(95 % interval 60 % to 84 %)."
    )


def test_both_intervals_below_zero_degrade_without_a_gap_statement():
    sentence = format_verdict_over_seeds(
        "dkd", "student_only", DEGRADES, gap_recovered={"fraction": -0.7, "low": -0.9, "high": -0.5, "num_seeds": 5}
    )
    assert sentence == (
        "dkd degrades against student_only: −3.10 points, 95 % interval −3.50 to −2.70 by bootstrap and −3.72 to −2.48 "
        "by Student's t, n = 5 seeds."
    )


@pytest.mark.parametrize(
    "ends",
    [(0.1, 0.9, -0.1, 1.1), (-0.1, 0.9, 0.1, 0.7), (0.0, 0.9, 0.1, 0.7), (-0.9, -0.1, -1.1, 0.0),
     (0.1, 0.9, -0.9, -0.1)],
)  # fmt: skip
def test_one_interval_with_zero_is_enough_to_be_inconclusive(ends):
    gain = {**INCONCLUSIVE, **dict(zip(("low", "high", "t_low", "t_high"), ends, strict=True))}
    assert classify_gain_over_seeds(gain) == "inconclusive"
    sentence = format_verdict_over_seeds("dkd", "student_only", gain, gap_recovered={"fraction": 0.5}, seeds_needed=20)
    assert sentence.startswith(
        "no significant difference between dkd and student_only (n = 3 seeds): the difference is +0.40 points, 95 %"
    )
    assert sentence.endswith("; about 20 seeds would show a difference of this size at this spread.")
    assert "improves" not in sentence
    assert "gap" not in sentence


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        (1234, "about 1,234 seeds would show"),
        (None, "no number of seeds up to 10,000 would show"),
        (3, "more than 3 seeds would show"),
        (2, "more than 3 seeds would show"),
    ],
)
def test_inconclusive_states_how_many_seeds_would_show_a_difference(seeds, says):
    assert says in format_verdict_over_seeds("dkd", "student_only", INCONCLUSIVE, seeds_needed=seeds)


def test_one_seed_is_no_verdict():
    gain = paired_mean_ci([96.3], [93.2])
    assert classify_gain_over_seeds(gain) == "unknown"
    assert format_verdict_over_seeds("dkd", "student_only", gain) == (
        "Whether dkd improves over student_only is unknown: one seed (+3.10 points) does not show what another would "
        "change; run at least two."
    )


@pytest.mark.parametrize(
    ("gain", "says"),
    [
        (None, "no seed has metrics of both."),
        ({**IMPROVES, "num_seeds": 0}, "no seed has metrics of both."),
        ({**IMPROVES, "t_low": None}, "holds no gain with its intervals."),
        ({**IMPROVES, "high": math.nan}, "holds no gain with its intervals."),
    ],
)
def test_no_interval_is_no_verdict(gain, says):
    assert classify_gain_over_seeds(gain) == "unknown"
    assert format_verdict_over_seeds("dkd", "student_only", gain).endswith(says)


@pytest.mark.parametrize("ours", [[93.0, 92.0], [91.0, 90.0]])
def test_two_seeds_that_differ_by_the_same_prove_nothing(ours):
    gain = paired_mean_ci(ours, [91.0, 90.0])
    assert classify_gain_over_seeds(gain) == "inconclusive"
    sentence = format_verdict_over_seeds("dkd", "student_only", gain, seeds_needed=2)
    assert sentence.endswith(
        "all 2 seeds differ by exactly the same, so the spread between seeds is unknown: run more."
    )


def test_above_the_teacher_is_stated_and_an_unknown_bound_is_omitted():
    gap = {"fraction": 1.25, "low": 0.9, "high": None, "num_seeds": 5}
    assert format_verdict_over_seeds("dkd", "student_only", IMPROVES, gap_recovered=gap).endswith(
        ", n = 5 seeds, and exceeds its teacher: 125 % of the gap."
    )
    for none in (None, {"fraction": None}, {"fraction": math.nan}):
        assert format_verdict_over_seeds("dkd", "student_only", IMPROVES, gap_recovered=none).endswith("n = 5 seeds.")


def test_results_of_a_study_become_a_sentence():
    baseline, distilled = [0.90, 0.91, 0.92, 0.91], [0.93, 0.93, 0.95, 0.94]
    gain = paired_mean_ci([100 * top for top in distilled], [100 * top for top in baseline])
    gap = gap_recovered_ci(baseline, distilled, 0.96)
    sentence = format_verdict_over_seeds(
        "distilled", "student_only", gain, gap_recovered=gap, seeds_needed=required_num_seeds([3.0, 2.0, 3.0, 3.0])
    )
    assert sentence.startswith(
        "distilled improves over student_only: +2.75 points, 95 % interval +2.25 to +3.00 by bootstrap"
    )
    assert "recovers 55 % of the gap to its teacher (95 % interval 45 % to 67 %)" in sentence


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_variants_rarely_differ_significantly_also_where_accuracies_are_coarse(seeds):
    rng, significant = np.random.default_rng(0), 0
    for trial in range(600):
        ours, theirs = np.round(rng.normal(90.0, 0.5, (2, seeds)) * 3.6) / 3.6  # 360 test samples
        significant += (
            classify_gain_over_seeds(paired_mean_ci(ours, theirs, n_resamples=200, seed=trial)) != "inconclusive"
        )
    assert significant / 600 < 0.07


def test_rule_names_all_outcomes_and_both_intervals():
    assert all(
        word in RULE_OVER_SEEDS
        for word in ("improves", "degrades", "no significant difference", "bootstrap", "Student")
    )
