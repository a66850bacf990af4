"""Gathering: the same rows in every process, summed gradients, and the identity in one process."""

from pathlib import Path

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.distiller import Objective, gather_context
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.testing import make_context
from limbeck.utils.all_gather import all_gather, gather_sizes, get_rank, get_world_size, single_process


def test_two_processes_gather_the_same_rows_and_sum_gradients(ranks):
    run = ranks(Path(__file__).with_name("gathers.py"))
    assert run.wait() == [0, 0], run.output()


def test_gathering_in_one_process_is_the_identity():
    tensor, context = torch.zeros(3), make_context()
    assert all_gather(tensor) is tensor
    assert gather_context(context) is context
    assert (get_world_size(), get_rank(), gather_sizes([5])) == (1, 0, [[5]])
    with single_process():
        assert get_world_size() == 1


def test_gathered_loss_is_equal_in_one_process():
    context, losses = make_context(), {"kd": KDLoss(), "target": CrossEntropyLoss()}
    assert torch.equal(Objective(losses, gather_distributed=["kd"])(context).total, Objective(losses)(context).total)


def test_gathered_losses_keep_their_parameters():
    objective = Objective({"fitnet": FitNetLoss("mid")}, gather_distributed=["fitnet"])
    objective.prepare(make_context())
    assert [name for name, _ in objective.named_parameters()] == [
        "trainable.fitnet.projection.layer.weight", "trainable.fitnet.projection.layer.bias",
    ]  # fmt: skip


def test_objective_lists_its_gathered_losses():
    losses = {"kd": KDLoss(), "target": CrossEntropyLoss()}
    assert str(Objective(losses, gather_distributed=["target"])).endswith("; gathered: target")
    with pytest.raises(LimbeckError, match="gather_distributed names 'kd2', which is no loss; the losses are: kd"):
        Objective(losses, gather_distributed=["kd2"])
