"""Warnings for teachers: each one where its rule is broken, and only there."""

import math
from dataclasses import replace

import pytest

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.teachers import SelectionRules, TeacherSimilarity, TeacherStats, teacher_warnings

METRIC = MetricSpec(name="top1", label="Top-1")
STUDENT = TeacherStats(value=0.80, ece=0.02, latency_ms=1.0, num_parameters=1000)


def teacher(**changes):
    return TeacherStats(**{"value": 0.90, "ece": 0.02, "latency_ms": 5.0, "num_parameters": 9000, **changes})


def warnings_for(*, rules=None, student=STUDENT, metric=METRIC, with_assistants=(), **changes):
    return teacher_warnings(
        {"big": teacher(**changes)}, student, metric=metric, rules=rules, with_assistants=with_assistants
    )


def test_a_good_teacher_gets_no_warning():
    assert warnings_for() == []


def test_a_margin_of_just_five_points_is_enough():
    assert warnings_for(value=0.85) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"value": 0.84}, "'big' is too close to the baseline on validation: +4.0 points, the threshold is 5"),
        ({"value": 0.78}, "'big' is 2.0 points worse than the baseline on validation"),
        ({"latency_ms": 31.0}, "'big' is too slow: 31 ms per sample, and the budget is 30 ms (30 times the student)"),
        ({"latency_ms": 9.0, "rules": SelectionRules(latency_budget=8.0)}, "too slow: 9 ms per sample, and the budget "
            "is 8 ms;"),
        ({"ece": 0.14}, "teacher 'big' is badly calibrated (ECE 0.14"),
        ({"num_parameters": 21_000}, "21 times the parameters of the student"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_one_sentence(changes, says):
    (messages,) = warnings_for(**changes)
    assert says in messages
    assert "\n" not in messages


def test_the_margin_is_in_the_unit_and_direction_of_the_metric():
    rmse = MetricSpec(name="rmse", label="RMSE", unit="", higher_is_better=False, digits=2, min_gap=0.02)
    assert warnings_for(metric=rmse, value=0.5, student=STUDENT) == []
    (message,) = warnings_for(metric=rmse, value=0.7)
    assert message == "teacher 'big' is too close to the baseline on validation: +0.10, the threshold is 0.2"
    (message,) = warnings_for(metric=rmse, value=0.95)
    assert message.startswith("teacher 'big' is 0.15 worse than the baseline on validation")


def test_teachers_without_classes_are_too_similar_by_their_values_by_sample():
    pair = TeacherSimilarity(first="one", second="two", agreement=None, cka=0.97, correlation=0.99)
    both = {"one": teacher(), "two": teacher()}
    (message,) = teacher_warnings(both, STUDENT, metric=METRIC, similarities=[pair])
    assert "their Top-1 by sample has a correlation of 0.99 with CKA 0.97; remove one" in message
    unknown = replace(pair, correlation=None)
    assert teacher_warnings(both, STUDENT, metric=METRIC, similarities=[unknown]) == []


def test_a_size_warning_names_remedies_until_one_is_used():
    (messages,) = warnings_for(num_parameters=21_000)
    assert "`assistants:`" in messages
    assert "`train_fraction:`" in messages
    assert warnings_for(num_parameters=21_000, with_assistants=["big"]) == []


def test_teachers_within_the_budget_can_be_too_slow_together():
    both = {"one": teacher(latency_ms=20.0), "two": teacher(latency_ms=11.0)}
    (messages,) = teacher_warnings(both, STUDENT, metric=METRIC)
    assert "too slow together: 31 ms" in messages
    assert teacher_warnings(both, STUDENT, metric=METRIC, rules=SelectionRules(latency_budget=31.0)) == []


@pytest.mark.parametrize(
    ("agreement", "cka", "warned"),
    [(0.987, 0.97, True), (0.987, 0.90, False), (0.97, 0.97, False), (0.99, None, False)],
)
def test_two_teachers_are_too_similar_by_predictions_and_by_features(agreement, cka, warned):
    both = {"one": teacher(), "two": teacher()}
    pair = TeacherSimilarity(first="one", second="two", agreement=agreement, cka=cka)
    messages = teacher_warnings(both, STUDENT, metric=METRIC, similarities=[pair])
    assert len(messages) == warned
    assert not warned or "agree on 98.7 % of the validation samples with CKA 0.97" in messages[0]


def test_without_a_baseline_there_is_no_warning_on_the_margin():
    unknown = TeacherStats(value=None, ece=None, latency_ms=1.0, num_parameters=1000)
    assert warnings_for(student=unknown, value=0.1) == []


@pytest.mark.parametrize(
    "wrong", [{"latency_budget": 0.0}, {"latency_budget": math.nan}, {"min_margin": -1.0}, {"min_margin": math.inf}]
)
def test_a_rule_that_is_no_number_is_refused(wrong):
    with pytest.raises(LimbeckError, match="omit it to use"):
        SelectionRules(**wrong)
