"""Each rule speaks on one side of its number and is silent on the other."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from limbeck.core.errors import LimbeckError
from limbeck.report import diagnosis
from limbeck.tasks.classification.metrics import ACCURACY


@pytest.mark.parametrize(
    ("rule", "broken", "kept"),
    [
        (diagnosis.check_loss_scale, ("kd", 0.99, 100.0), ("kd", 1.0, 100.0)),
        (
            lambda a, b: diagnosis.check_teacher_metric("big", a, b, metric=ACCURACY, reference="the student"),
            (0.79, 0.80),
            (0.80, 0.80),
        ),
        (diagnosis.check_teacher_entropy, ("kd", 0.981, 30.0), ("kd", 0.98, 30.0)),
        (partial(diagnosis.check_capacity_gap, metric=ACCURACY), ("big", 20.1, 0.24), ("big", 20.0, 0.24)),
        (partial(diagnosis.check_capacity_gap, metric=ACCURACY), ("big", 20.1, -0.5), ("big", 20.1, 0.25)),
        (diagnosis.check_feature_alignment, ("fitnet", 1.0, 0.91), ("fitnet", 1.0, 0.9)),
        (diagnosis.check_projection_rank, ("fitnet", 6.3, 64), ("fitnet", 6.4, 64)),
    ],
    ids=["too small", "worse", "flat", "gap by size", "gap by share", "features", "projection"],
)
def test_a_rule_fires_above_its_threshold_and_not_at_it(rule, broken, kept):
    message = rule(*broken)
    assert message is not None
    assert "\n" not in message
    assert rule(*kept) is None


def test_a_loss_without_gradient_is_reported():
    assert diagnosis.check_loss_scale("kd", 0.0, 1.0).startswith("the loss 'kd' does nothing: its gradient is 0")
    assert diagnosis.check_loss_scale("kd", 0.0, 0.0) is None, "where no loss has a gradient, none is smaller"


def test_every_sentence_tells_its_figures_and_the_rule():
    assert "200 times too small" in diagnosis.check_loss_scale("kd", 0.5, 100.0)
    assert "(the threshold is 100 times)" in diagnosis.check_loss_scale("kd", 0.5, 100.0)
    assert "−5.0 points" in diagnosis.check_teacher_metric("big", 0.75, 0.80, metric=ACCURACY, reference="the baseline")
    assert "99.5 % of the entropy" in diagnosis.check_teacher_entropy("kd", 0.995, 40.0)
    assert "50 times the parameters of the student, which recovered 10 %" in diagnosis.check_capacity_gap(
        "big", 50.0, 0.1, metric=ACCURACY
    )
    assert "from 2 to 1.9" in diagnosis.check_feature_alignment("fitnet", 2.0, 1.9)
    assert "effective rank is 1.2 of 64" in diagnosis.check_projection_rank("fitnet", 1.2, 64)


def test_the_effective_rank_counts_equal_directions():
    random = np.random.default_rng(0)
    orthogonal, _ = np.linalg.qr(random.normal(size=(12, 12)))
    assert diagnosis.effective_rank(np.linalg.svd(orthogonal)[1].tolist()) == pytest.approx(12.0)
    one = np.outer(random.normal(size=5), random.normal(size=7))
    assert diagnosis.effective_rank(np.linalg.svd(one)[1].tolist()) == pytest.approx(1.0)
    assert diagnosis.effective_rank([0.0, 0.0]) == 0.0
    with pytest.raises(LimbeckError, match="finite singular values"):
        diagnosis.effective_rank([math.inf, 1.0])


def test_a_loss_that_is_turned_off_later_is_judged_by_the_time_it_was_on():
    magnitudes = {"kd": [4.0, 4.0, 0.0, 0.0], "target": [1.0, 1.0, 8.0, 8.0]}
    result = diagnosis.compare_with_largest(magnitudes, {"kd": [1.0, 1.0, 0.0, 0.0], "target": [1.0] * 4})
    assert result == [("kd", 4.0, 4.0), ("target", 8.0, 8.0)]
    assert diagnosis.compare_with_largest({"kd": [math.nan]}, {}) == []
