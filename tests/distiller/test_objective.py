"""An objective is the weighted sum of its terms, whose parts add up to the total."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck import schedule
from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.distiller import Objective
from limbeck.losses import CrossEntropy, Gram, Hint, SoftTarget
from limbeck.testing import make_exchange


def number(value):
    return lambda exchange: torch.tensor(value)


def test_the_total_is_the_sum_of_weight_times_term():
    loss = Objective({"a": number(2.0), "b": number(3.0), "c": number(5.0)}, {"a": 0.5, "b": 10.0})(make_exchange())
    # 0.5 · 2 + 10 · 3 + 1 · 5 = 36.
    assert float(loss.total) == 36.0
    assert {name: float(part) for name, part in loss.parts.items()} == {"a": 1.0, "b": 30.0, "c": 5.0}
    assert loss.weights == {"a": 0.5, "b": 10.0, "c": 1.0}


def test_the_parts_add_up_to_the_total_and_carry_no_gradient():
    said = make_exchange()
    objective = Objective(
        {"truth": CrossEntropy(), "soft": SoftTarget(), "gram": Gram("mid"), "hint": Hint("mid")},
        {"truth": 0.1, "soft": schedule.cosine(0.9, 0.1), "hint": 100},
    )
    objective.prepare(said)
    loss = objective(said)
    assert float(sum(loss.parts.values())) == pytest.approx(float(loss.total.detach()), rel=1e-6)
    assert loss.total.requires_grad
    assert not any(part.requires_grad for part in loss.parts.values())


def test_the_gradient_is_the_weighted_sum_of_the_terms_gradients():
    said, terms, weights = make_exchange(), {"truth": CrossEntropy(), "soft": SoftTarget()}, {"truth": 0.3, "soft": 2.0}
    (total,) = torch.autograd.grad(Objective(terms, weights)(said).total, said.student.rows())
    one = [torch.autograd.grad(term(said), said.student.rows())[0] * weights[name] for name, term in terms.items()]
    torch.testing.assert_close(total, one[0] + one[1])


def test_a_weight_is_read_at_this_moment():
    objective = Objective({"a": number(1.0)}, {"a": schedule.warmup(8.0, over=0.5)})
    values = [float(objective(make_exchange(progress=Progress(step=step, steps=4))).total) for step in range(5)]
    assert values == [0.0, 4.0, 8.0, 8.0, 8.0]


def test_only_terms_that_learn_need_preparing():
    assert Objective({"soft": SoftTarget()}).ready
    learning = Objective({"soft": SoftTarget(), "hint": Hint("mid")})
    assert not learning.ready
    learning.prepare(make_exchange())
    assert learning.ready


def test_a_term_of_ones_own_that_is_a_module_brings_its_parameters():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, exchange):
            return self.scale * exchange.student.rows().square().mean()

    objective = Objective({"own": Scaled(), "soft": SoftTarget()})
    assert [name for name, _ in objective.named_parameters()] == ["learned.own.scale"]
    assert objective.ready


def test_a_term_that_is_no_number_is_refused_by_name_and_shape():
    with pytest.raises(LimbeckError, match=r"the term 'rows' gave a tensor of shape \[6\], and a loss is one number"):
        Objective({"rows": lambda exchange: exchange.student.rows().sum(1)})(make_exchange())


@pytest.mark.parametrize("name", ["keys", "pop", "a.b", "", "training"])
def test_a_name_that_pytorch_keeps_is_refused_for_a_term_that_learns(name):
    with pytest.raises(LimbeckError, match="which PyTorch keeps: choose another"):
        Objective({name: Hint("mid")})
    assert list(Objective({name: SoftTarget()}).terms) == [name]


@pytest.mark.parametrize(
    ("terms", "weights", "sentence"),
    [
        ({}, None, "needs at least one term"),
        ({"soft": SoftTarget}, None, r"the term 'soft' is <class .*SoftTarget'>, and a term is an object such as"),
        ({"soft": 3.0}, None, "the term 'soft' is 3.0, and a term is an object"),
        ({"soft": SoftTarget()}, {"sotf": 1.0}, "the weight 'sotf' belongs to no term; the terms are: soft"),
    ],
)
def test_what_makes_no_objective_is_refused(terms, weights, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        Objective(terms, weights)


def test_an_objective_prints_its_formula():
    objective = Objective({"a": SoftTarget(tau=2.0), "b": CrossEntropy()}, {"a": schedule.linear(100.0, 0.0), "b": 0.1})
    assert str(objective) == (
        "(100→0)·a + 0.1·b, with a = SoftTarget(tau=2.0, teacher=None), b = CrossEntropy(label_smoothing=0.0)"
    )


TWO = {"mid": (8, 4, 4), "late": (8, 4, 4)}
NARROW = {"mid": (4, 4, 4), "late": (4, 4, 4)}


def shaped(objective, teacher_taps=NARROW):
    objective.prepare(make_exchange(student_taps=TWO, teacher_taps=teacher_taps))
    return objective


@pytest.mark.parametrize("when", ["before it is shaped", "after"])
def test_what_a_term_learned_goes_on_in_the_next_objective(when):
    torch.manual_seed(0)
    first = shaped(Objective({"hint": Hint("mid"), "gram": Gram("mid")}))
    second = Objective({"hint": Hint("mid"), "gram": Gram("late"), "other": Hint("mid")})
    second = shaped(second.follow(first)) if when == "before it is shaped" else shaped(second).follow(first)
    ours, theirs = (
        {name: term.projection.layer.weight for name, term in made.terms.items()} for made in (second, first)
    )
    assert torch.equal(ours["hint"], theirs["hint"])
    assert not torch.equal(ours["other"], theirs["hint"])
    # Another setting (the tap) is another term, whatever its name.
    assert not torch.equal(ours["gram"], theirs["gram"])


def test_a_projection_of_another_shape_begins_afresh():
    second = Objective({"hint": Hint("mid")}).follow(shaped(Objective({"hint": Hint("mid")})))
    shaped(second, {"mid": (6, 4, 4)})
    assert second.terms["hint"].projection.layer.weight.shape == (6, 8, 1, 1)


def test_the_next_objective_learns_without_changing_the_earlier_one():
    first = shaped(Objective({"hint": Hint("mid")}))
    second = shaped(Objective({"hint": Hint("mid")})).follow(first)
    before = first.terms["hint"].projection.layer.weight.clone()
    with torch.no_grad():
        second.terms["hint"].projection.layer.weight.add_(1)
    assert torch.equal(first.terms["hint"].projection.layer.weight, before)
