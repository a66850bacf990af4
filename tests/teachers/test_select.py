"""Selections with a known result; the budget and the rules are respected; each reason is correct."""

import math

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.core.metric_spec import MetricSpec
from limbeck.teachers import Candidate, NLLCriterion, SelectionRules, TeacherSimilarity, greedy_select

METRIC = MetricSpec(name="top1", label="Top-1")
TARGET = torch.arange(200) % 4


def make_probabilities(wrong=(), *, sure=0.9, n=200, classes=4):
    """Probability ``sure`` for the target, and for the next class instead on the samples in ``wrong``."""
    place = TARGET[:n].clone()
    place[list(wrong)] = (place[list(wrong)] + 1) % classes
    rest = (1 - sure) / (classes - 1)
    return torch.full((n, classes), rest).scatter(1, place[:, None], sure)


def candidate(*args, margin=9.0, latency=1.0, **options):
    return Candidate(margin=margin, latency_ms=latency), make_probabilities(*args, **options)


def select(pairs, *, budget=math.inf, target=TARGET, **options):
    def metric_of_logits(logits):
        return float((logits.argmax(dim=1) == target)[target >= 0].double().mean())

    candidates, probabilities = ({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))
    criterion = NLLCriterion(probabilities, target, metric=METRIC, metric_of_logits=metric_of_logits)
    return greedy_select(candidates, criterion, metric=METRIC, latency_budget=budget, **options)


def test_a_single_candidate_is_selected():
    selection = select({"only": candidate(range(20))})
    assert selection.selected == ("only",)
    assert selection.reasons["only"].startswith("selected first: lowest NLL (0.")
    assert selection.steps[0].gain is None
    assert selection.steps[0].value == 0.9


def test_two_candidates_with_different_errors_are_selected_and_a_copy_is_not():
    selection = select({"a": candidate(range(20)), "copy": candidate(range(20)), "b": candidate(range(30, 52))})
    assert selection.selected == ("a", "b")
    assert "not significant (n = 200)" in selection.reasons["copy"]


def test_the_gain_and_its_error_are_those_of_paired_samples():
    selection = select({"a": candidate(range(20)), "b": candidate(range(30, 52))})
    first, both = (
        -torch.stack(each).double().mean(0).gather(1, TARGET[:, None])[:, 0].log()
        for each in (
            [make_probabilities(range(20))],
            [make_probabilities(range(20)), make_probabilities(range(30, 52))],
        )
    )
    step = selection.steps[1]
    assert step.gain == pytest.approx(float((first - both).mean()))
    error = 1.96 * float((first - both).std()) / 200**0.5
    assert step.gain_interval == pytest.approx((step.gain - error, step.gain + error))
    assert step.criterion_value == pytest.approx(float(both.mean()))
    assert step.gain_interval[0] > 0


def test_a_candidate_without_a_significant_gain_is_not_selected():
    """One sample of 200 put right lowers the NLL, and could be chance."""
    selection = select({"a": candidate(range(20)), "b": candidate(range(1, 20))})
    assert selection.selected == ("b",)
    assert selection.reasons["a"].startswith("not selected: +0.0 points, NLL +0.003 ±")


def test_the_reason_states_that_a_candidate_makes_the_ensemble_worse():
    selection = select({"good": candidate(range(5)), "bad": candidate(range(150))})
    assert selection.selected == ("good",)
    assert selection.reasons["bad"].endswith("worse with it")


def test_the_budget_is_obeyed():
    three = {
        "a": candidate(range(20), latency=5.0),
        "b": candidate(range(30, 52), latency=5.0),
        "slow": candidate((), latency=40.0),
    }
    selection = select(three, budget=20.0)
    assert selection.selected == ("a", "b")
    assert selection.steps[-1].latency_ms == 10.0
    assert selection.reasons["slow"] == "too slow: 40 ms of a budget of 20 ms"
    tight = select(three, budget=9.0)
    assert tight.selected == ("a",)
    assert tight.reasons["b"] == "too slow with the selected ones: 5 ms, and 4 ms of 9 ms remain"
    assert select(three, budget=1.0).selected == ()


def test_a_candidate_too_close_to_the_baseline_is_not_added():
    selection = select({"a": candidate(range(20)), "near": candidate(range(30, 40), margin=1.3)})
    assert selection.selected == ("a",)
    assert selection.reasons["near"] == "too close to the baseline: +1.3 points, the threshold is 5"


def test_the_best_too_close_candidate_is_selected_where_no_other_is_left():
    near = {"worse": candidate(range(22), margin=1.3), "better": candidate(range(20, 40), margin=2.3)}
    selection = select({**near, "slow": candidate((), latency=9.0)}, budget=5.0)
    assert selection.selected == ("better",)
    assert selection.reasons["better"] == (
        "selected although too close to the baseline: +2.3 points, the threshold is 5; no other candidate is left"
    )
    assert selection.reasons["worse"].startswith("too close")


def test_a_candidate_below_the_baseline_is_never_selected():
    selection = select({"below": candidate(range(20), margin=-1.0)})
    assert selection.selected == ()
    assert selection.reasons["below"] == "not better than the baseline (-1.0 points)"


def test_the_margin_is_a_setting():
    assert (
        select({"near": candidate(margin=1.3)}, rules=SelectionRules(min_margin=1.0))
        .reasons["near"]
        .startswith("selected first")
    )


def test_a_too_similar_candidate_is_not_selected_even_with_a_gain():
    pair = TeacherSimilarity(first="b", second="a", agreement=0.987, cka=0.97)
    by_value = TeacherSimilarity(first="a", second="b", agreement=None, cka=0.97, correlation=0.99)
    two = {"a": candidate(range(20)), "b": candidate(range(30, 52))}
    assert select(two).selected == ("a", "b")
    selection = select(two, similarities=[pair])
    assert selection.selected == ("a",)
    assert selection.reasons["b"] == "too similar: agrees with a on 98.7 %, CKA 0.97"
    reasons = select(two, similarities=[by_value]).reasons
    assert reasons["b"] == "too similar: correlates with a by sample (0.99), CKA 0.97"


def test_ties_are_resolved_by_latency_then_by_order():
    two = {"late": candidate(range(20), latency=2.0), "early": candidate(range(20), latency=1.0)}
    assert select(two).selected == ("early",)
    same = {"first": candidate(range(20)), "second": candidate(range(20))}
    assert select(same).selected == ("first",)


def test_samples_without_a_label_are_ignored():
    hidden = TARGET.clone()
    hidden[:50] = -100
    selection = select({"a": candidate(range(50)), "b": candidate(range(60, 64))}, target=hidden)
    assert selection.selected[0] == "a"
    assert selection.steps[0].value == 1.0


def test_the_nll_of_a_target_with_probability_zero_is_bounded():
    selection = select({"certain": candidate(range(1), sure=1.0)})
    assert selection.steps[0].criterion_value == pytest.approx(-math.log(1e-12) / 200)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p.fill_(math.nan), "NaN or infinity"),
        (lambda p: p.index_fill_(0, torch.tensor([3]), math.inf), "NaN or infinity"),
        (lambda p: p * 2, "sum to 1 in each row"),
        (lambda p: p - 1, "sum to 1 in each row"),
        (lambda p: p[:-1], r"\[199, 4\]"),
        (lambda p: torch.cat([p, p], dim=1) / 2, "the same number of classes"),
    ],
)
def test_rows_that_are_no_probabilities_are_refused(change, says):
    bad = (Candidate(margin=9.0, latency_ms=1.0), change(make_probabilities()))
    with pytest.raises(LimbeckError, match=says):
        select({"good": candidate(), "bad": bad})


def test_missing_candidates_and_labels_are_refused():
    with pytest.raises(LimbeckError, match="at least one candidate"):
        select({})
    with pytest.raises(LimbeckError, match="needs labeled samples"):
        select({"a": candidate()}, target=torch.full((200,), -100))
    with pytest.raises(LimbeckError, match="latency nan"):
        select({"a": candidate(latency=math.nan)})
