"""Selection where greedy's answer is known; the budget and the rules are obeyed; each reason says what happened."""

import math

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.teachers import Candidate, SelectionRules, TeacherSimilarity, greedy_select

TRUTH = torch.arange(200) % 4


def answers(wrong=(), *, sure=0.9, n=200, classes=4):
    """Probability ``sure`` for the truth, and for the next class instead on the samples in ``wrong``."""
    place = TRUTH[:n].clone()
    place[list(wrong)] = (place[list(wrong)] + 1) % classes
    rest = (1 - sure) / (classes - 1)
    return torch.full((n, classes), rest).scatter(1, place[:, None], sure)


def candidate(*args, margin=9.0, latency=1.0, **options):
    return Candidate(probabilities=answers(*args, **options), margin=margin, latency_ms=latency)


def chosen(candidates, *, budget=math.inf, **options):
    return greedy_select(candidates, TRUTH, latency_budget=budget, **options)


def test_a_single_candidate_is_kept():
    found = chosen({"only": candidate(range(20))})
    assert found.selected == ("only",)
    assert found.reasons["only"].startswith("selected first: lowest NLL (0.")
    assert found.steps[0].nll_gain is None
    assert found.steps[0].accuracy == 0.9


def test_two_that_err_on_different_samples_are_taken_and_a_copy_is_not():
    found = chosen({"a": candidate(range(20)), "copy": candidate(range(20)), "b": candidate(range(30, 52))})
    assert found.selected == ("a", "b")
    assert "not significant (n = 200)" in found.reasons["copy"]


def test_the_gain_and_its_error_are_those_of_paired_samples():
    found = chosen({"a": candidate(range(20)), "b": candidate(range(30, 52))})
    first, both = (
        -torch.stack(each).double().mean(0).gather(1, TRUTH[:, None])[:, 0].log()
        for each in ([answers(range(20))], [answers(range(20)), answers(range(30, 52))])
    )
    step = found.steps[1]
    assert step.nll_gain == pytest.approx(float((first - both).mean()))
    assert step.nll_gain_stderr == pytest.approx(float((first - both).std()) / 200**0.5)
    assert step.nll == pytest.approx(float(both.mean()))
    assert step.nll_gain > 1.96 * step.nll_gain_stderr


def test_a_gain_within_the_noise_of_the_samples_is_not_taken():
    """One sample of 200 put right lowers the NLL, and could be chance."""
    found = chosen({"a": candidate(range(20)), "b": candidate(range(1, 20))})
    assert found.selected == ("b",)
    assert found.reasons["a"].startswith("not selected: +0.0 points, NLL +0.003 ±")


def test_one_that_makes_the_ensemble_worse_is_said_to():
    found = chosen({"good": candidate(range(5)), "bad": candidate(range(150))})
    assert found.selected == ("good",)
    assert found.reasons["bad"].endswith("worse with it")


def test_the_budget_is_obeyed():
    three = {
        "a": candidate(range(20), latency=5.0),
        "b": candidate(range(30, 52), latency=5.0),
        "slow": candidate((), latency=40.0),
    }
    found = chosen(three, budget=20.0)
    assert found.selected == ("a", "b")
    assert found.steps[-1].latency_ms == 10.0
    assert found.reasons["slow"] == "too slow: 40 ms of a budget of 20 ms"
    tight = chosen(three, budget=9.0)
    assert tight.selected == ("a",)
    assert tight.reasons["b"] == "too slow with the selected ones: 5 ms, and 4 ms of 9 ms remain"
    assert chosen(three, budget=1.0).selected == ()


def test_one_too_close_to_the_student_is_not_added():
    found = chosen({"a": candidate(range(20)), "near": candidate(range(30, 40), margin=1.3)})
    assert found.selected == ("a",)
    assert found.reasons["near"] == "too close to the baseline: +1.3 points, the rule is 5"


def test_the_best_that_is_too_close_teaches_where_nothing_else_is_left():
    near = {"worse": candidate(range(22), margin=1.3), "better": candidate(range(20, 40), margin=2.3)}
    found = chosen({**near, "slow": candidate((), latency=9.0)}, budget=5.0)
    assert found.selected == ("better",)
    assert found.reasons["better"] == (
        "selected although too close to the baseline: +2.3 points, the rule is 5; no other candidate is left"
    )
    assert found.reasons["worse"].startswith("too close")


def test_one_below_the_student_never_teaches():
    found = chosen({"below": candidate(range(20), margin=-1.0)})
    assert found.selected == ()
    assert found.reasons["below"] == "not above the baseline (-1.0 points)"


def test_the_margin_is_a_setting():
    assert (
        chosen({"near": candidate(margin=1.3)}, rules=SelectionRules(min_margin=1.0))
        .reasons["near"]
        .startswith("selected first")
    )


def test_one_that_is_too_alike_is_left_out_though_it_would_help():
    pair = TeacherSimilarity(first="b", second="a", agreement=0.987, cka=0.97)
    two = {"a": candidate(range(20)), "b": candidate(range(30, 52))}
    assert chosen(two).selected == ("a", "b")
    found = chosen(two, similarities=[pair])
    assert found.selected == ("a",)
    assert found.reasons["b"] == "too similar: agrees with a on 98.7 %, CKA 0.97"


def test_equals_are_decided_by_latency_then_by_order():
    two = {"late": candidate(range(20), latency=2.0), "early": candidate(range(20), latency=1.0)}
    assert chosen(two).selected == ("early",)
    same = {"first": candidate(range(20)), "second": candidate(range(20))}
    assert chosen(same).selected == ("first",)


def test_samples_without_a_label_do_not_vote():
    hidden = TRUTH.clone()
    hidden[:50] = -100
    found = greedy_select({"a": candidate(range(50)), "b": candidate(range(60, 64))}, hidden, latency_budget=9.0)
    assert found.selected[0] == "a"
    assert found.steps[0].accuracy == 1.0


def test_an_impossible_truth_counts_heavily_and_not_for_ever():
    found = chosen({"certain": candidate(range(1), sure=1.0)})
    assert found.steps[0].nll == pytest.approx(-math.log(1e-12) / 200)


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
def test_answers_that_are_no_probabilities_are_refused(change, says):
    bad = Candidate(probabilities=change(answers()), margin=9.0, latency_ms=1.0)
    with pytest.raises(LimbeckError, match=says):
        chosen({"good": candidate(), "bad": bad})


def test_nothing_to_choose_from_or_by_is_refused():
    with pytest.raises(LimbeckError, match="at least one candidate"):
        chosen({})
    with pytest.raises(LimbeckError, match="needs labeled samples"):
        greedy_select({"a": candidate()}, torch.full((200,), -100), latency_budget=9.0)
    with pytest.raises(LimbeckError, match="latency nan"):
        chosen({"a": candidate(latency=math.nan)})
