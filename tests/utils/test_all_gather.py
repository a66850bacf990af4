"""Gathering: the same whole in every process, the sum of gradients back; nothing at all where there is one process."""

from pathlib import Path

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.distiller import Objective, gathered
from limbeck.losses import CrossEntropy, Hint, SoftTarget
from limbeck.testing import make_exchange
from limbeck.utils.all_gather import apart, counts, gather, place, world


def test_two_processes_gather_the_same_whole_and_give_gradients_back(ranks):
    run = ranks(Path(__file__).with_name("gathers.py"))
    assert run.wait() == [0, 0], run.said()


def test_one_process_gathers_nothing():
    tensor, exchange = torch.zeros(3), make_exchange()
    assert gather(tensor) is tensor
    assert gathered(exchange) is exchange
    assert (world(), place(), counts([5])) == (1, 0, [[5]])
    with apart():
        assert world() == 1


def test_a_gathered_term_costs_the_same_in_one_process():
    exchange, terms = make_exchange(), {"soft": SoftTarget(), "truth": CrossEntropy()}
    assert torch.equal(Objective(terms, gather=["soft"])(exchange).total, Objective(terms)(exchange).total)


def test_gathered_terms_keep_what_they_learn():
    objective = Objective({"hint": Hint("mid")}, gather=["hint"])
    objective.prepare(make_exchange())
    assert [name for name, _ in objective.named_parameters()] == [
        "learned.hint.projection.layer.weight", "learned.hint.projection.layer.bias",
    ]  # fmt: skip


def test_an_objective_tells_what_it_gathers():
    terms = {"soft": SoftTarget(), "truth": CrossEntropy()}
    assert str(Objective(terms, gather=["truth"])).endswith("; gathered: truth")
    with pytest.raises(LimbeckError, match="gather names 'soff', and no term is; the terms are: soft"):
        Objective(terms, gather=["soff"])
