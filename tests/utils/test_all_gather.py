"""Gathering: the same whole in every process, the sum of gradients back; nothing at all where there is one process."""

from pathlib import Path

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.distiller import Objective, gather_context
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.testing import make_context
from limbeck.utils.all_gather import all_gather, gather_sizes, get_rank, get_world_size, single_process


def test_two_processes_gather_the_same_whole_and_give_gradients_back(ranks):
    run = ranks(Path(__file__).with_name("gathers.py"))
    assert run.wait() == [0, 0], run.output()


def test_one_process_gathers_nothing():
    tensor, exchange = torch.zeros(3), make_context()
    assert all_gather(tensor) is tensor
    assert gather_context(exchange) is exchange
    assert (get_world_size(), get_rank(), gather_sizes([5])) == (1, 0, [[5]])
    with single_process():
        assert get_world_size() == 1


def test_a_gathered_term_costs_the_same_in_one_process():
    exchange, terms = make_context(), {"kd": KDLoss(), "target": CrossEntropyLoss()}
    assert torch.equal(Objective(terms, gather_distributed=["kd"])(exchange).total, Objective(terms)(exchange).total)


def test_gathered_terms_keep_what_they_learn():
    objective = Objective({"fitnet": FitNetLoss("mid")}, gather_distributed=["fitnet"])
    objective.prepare(make_context())
    assert [name for name, _ in objective.named_parameters()] == [
        "trainable.fitnet.projection.layer.weight", "trainable.fitnet.projection.layer.bias",
    ]  # fmt: skip


def test_an_objective_tells_what_it_gathers():
    terms = {"kd": KDLoss(), "target": CrossEntropyLoss()}
    assert str(Objective(terms, gather_distributed=["target"])).endswith("; gathered: target")
    with pytest.raises(LimbeckError, match="gather_distributed names 'kd2', and no term is; the terms are: kd"):
        Objective(terms, gather_distributed=["kd2"])
