"""The verdict over seeds follows both intervals, and says how many seeds would tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from limbeck.evaluation import gap_recovered_ci, paired_mean_ci, required_num_seeds
from limbeck.report import RULE_OVER_SEEDS, classify_gain_over_seeds, format_verdict_over_seeds

HELPS = {"mean": 3.1, "sd": 0.5, "low": 2.7, "high": 3.5, "t_low": 2.48, "t_high": 3.72, "p": 0.0002, "n": 5}
HURTS = {"mean": -3.1, "sd": 0.5, "low": -3.5, "high": -2.7, "t_low": -3.72, "t_high": -2.48, "p": 0.0002, "n": 5}
OPEN = {"mean": 0.4, "sd": 0.6, "low": 0.1, "high": 0.9, "t_low": -1.09, "t_high": 1.89, "p": 0.37, "n": 3}


def test_both_intervals_above_zero_help_with_every_figure_named():
    gap = {"share": 0.72, "low": 0.6, "high": 0.84, "n": 5}
    assert format_verdict_over_seeds(
        "distilled", "alone", HELPS, gap_recovered=gap, seeds_needed=2, accuracies=(0.963, 0.932)
    ) == (
        "distilled helps against alone: +3.10 points (96.3 % against 93.2 %), 95 % interval +2.70 to +3.50 by "
        "bootstrap and +2.48 to +3.72 by Student's t, n = 5 seeds, and recovers 72 % of the gap to its teacher "
        "(95 % interval 60 % to 84 %)."
    )


def test_both_intervals_below_zero_hurt_and_no_gap_is_spoken_of():
    sentence = format_verdict_over_seeds(
        "dkd", "alone", HURTS, gap_recovered={"share": -0.7, "low": -0.9, "high": -0.5, "n": 5}
    )
    assert sentence == (
        "dkd hurts against alone: −3.10 points, 95 % interval −3.50 to −2.70 by bootstrap and −3.72 to −2.48 by "
        "Student's t, n = 5 seeds."
    )


@pytest.marker.parametrize(
    "ends",
    [(0.1, 0.9, -0.1, 1.1), (-0.1, 0.9, 0.1, 0.7), (0.0, 0.9, 0.1, 0.7), (-0.9, -0.1, -1.1, 0.0),
     (0.1, 0.9, -0.9, -0.1)],
)  # fmt: skip
def test_one_interval_with_zero_is_enough_to_leave_it_open(ends):
    gain = {**OPEN, **dict(zip(("low", "high", "t_low", "t_high"), ends, strict=True))}
    assert classify_gain_over_seeds(gain) == "open"
    sentence = format_verdict_over_seeds("dkd", "alone", gain, gap_recovered={"share": 0.5}, seeds_needed=20)
    assert sentence.startswith(
        "dkd and alone cannot be told apart at n = 3 seeds: the difference is +0.40 points, 95 %"
    )
    assert sentence.endswith("; about 20 seeds would tell a difference of this size at this spread.")
    assert "helps" not in sentence
    assert "gap" not in sentence


@pytest.marker.parametrize(
    ("seeds", "says"),
    [
        (1234, "about 1,234 seeds would tell"),
        (None, "no number of seeds up to 10,000 would tell"),
        (3, "more than 3 seeds would tell"),
        (2, "more than 3 seeds would tell"),
    ],
)
def test_open_says_how_many_seeds_would_tell(seeds, says):
    assert says in format_verdict_over_seeds("dkd", "alone", OPEN, seeds_needed=seeds)


def test_one_seed_is_no_verdict():
    gain = paired_mean_ci([96.3], [93.2])
    assert classify_gain_over_seeds(gain) == "unknown"
    assert format_verdict_over_seeds("dkd", "alone", gain) == (
        "Whether dkd helps against alone is not known: one seed (+3.10 points) does not show what another would "
        "change; run at least two."
    )


@pytest.marker.parametrize(
    ("gain", "says"),
    [
        (None, "no seed has figures of both."),
        ({**HELPS, "n": 0}, "no seed has figures of both."),
        ({**HELPS, "t_low": None}, "holds no gain with its intervals."),
        ({**HELPS, "high": math.nan}, "holds no gain with its intervals."),
    ],
)
def test_no_interval_is_no_verdict(gain, says):
    assert classify_gain_over_seeds(gain) == "unknown"
    assert format_verdict_over_seeds("dkd", "alone", gain).endswith(says)


@pytest.marker.parametrize("ours", [[93.0, 92.0], [91.0, 90.0]])
def test_two_seeds_that_differ_by_the_same_prove_nothing(ours):
    gain = paired_mean_ci(ours, [91.0, 90.0])
    assert classify_gain_over_seeds(gain) == "open"
    sentence = format_verdict_over_seeds("dkd", "alone", gain, seeds_needed=2)
    assert sentence.endswith(
        "all 2 seeds differ by exactly the same, so the spread between seeds is not known: run more."
    )


def test_above_the_teacher_is_said_and_an_unknown_end_is_left_out():
    gap = {"share": 1.25, "low": 0.9, "high": None, "n": 5}
    assert format_verdict_over_seeds("dkd", "alone", HELPS, gap_recovered=gap).endswith(
        ", n = 5 seeds, and stands above its teacher: 125 % of the gap."
    )
    for none in (None, {"share": None}, {"share": math.nan}):
        assert format_verdict_over_seeds("dkd", "alone", HELPS, gap_recovered=none).endswith("n = 5 seeds.")


def test_figures_of_a_study_become_a_sentence():
    alone, distilled = [0.90, 0.91, 0.92, 0.91], [0.93, 0.93, 0.95, 0.94]
    gain = paired_mean_ci([100 * top for top in distilled], [100 * top for top in alone])
    gap = gap_recovered_ci(alone, distilled, 0.96)
    sentence = format_verdict_over_seeds(
        "distilled", "alone", gain, gap_recovered=gap, seeds_needed=required_num_seeds([3.0, 2.0, 3.0, 3.0])
    )
    assert sentence.startswith("distilled helps against alone: +2.75 points, 95 % interval +2.25 to +3.00 by bootstrap")
    assert "recovers 55 % of the gap to its teacher (95 % interval 45 % to 67 %)" in sentence


@pytest.marker.parametrize("seeds", [2, 3, 5])
def test_arms_that_are_equal_are_rarely_told_apart_also_where_accuracies_are_coarse(seeds):
    rng, told = np.random.default_rng(0), 0
    for trial in range(600):
        ours, theirs = np.round(rng.normal(90.0, 0.5, (2, seeds)) * 3.6) / 3.6  # 360 test samples
        told += classify_gain_over_seeds(paired_mean_ci(ours, theirs, n_resamples=200, seed=trial)) != "open"
    assert told / 600 < 0.07


def test_rule_names_all_outcomes_and_both_intervals():
    assert all(word in RULE_OVER_SEEDS for word in ("helps", "hurts", "cannot be told apart", "bootstrap", "Student"))
