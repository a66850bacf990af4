"""Frozen modules do not change in any loop, and are restored afterwards."""

import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.training import freeze_modules


@pytest.fixture
def network():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))
    return nn.Sequential(first, nn.Linear(5, 4), nn.BatchNorm1d(4))


def step(network):
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    network.train()(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()


def moved(network, before):
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def copied(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_only_what_is_free_moves_weights_and_statistics(network):
    before = copied(network)
    with freeze_modules(network, ["0"]):
        step(network)
    assert moved(network, before) == {name for name in before if not name.startswith("0.")}
    before = copied(network)
    step(network)
    assert moved(network, before) == set(before)


def test_frozen_dropout_is_off(network):
    with freeze_modules(network, ["0"]):
        network.train()
        outputs = [network[0](torch.ones(2, 4)) for _ in range(2) if network(torch.ones(2, 4)) is not None]
    assert torch.equal(*outputs)


def test_what_was_frozen_before_stays_so_and_the_mode_is_the_networks(network):
    network[0][0].requires_grad_(False)
    with freeze_modules(network, ["0", "0.1"]):
        network.train()
        network(torch.ones(2, 4))
    assert [p.requires_grad for p in network[0].parameters()] == [False, False, True, True]
    assert all(module.training for module in network.modules())
    network.eval()
    with freeze_modules(network, ["0"]):
        pass
    assert not any(module.training for module in network.modules())
    assert not network._forward_pre_hooks


def test_an_error_inside_frees_it_as_well(network):
    with pytest.raises(RuntimeError, match="stop"), freeze_modules(network, ["0"]):
        raise RuntimeError("stop")
    assert all(p.requires_grad for p in network.parameters())


def test_a_path_that_is_nowhere_names_the_nearest(network):
    with pytest.raises(LimbeckError, match=r"no module '0\.3'; near it: 0\.[012]"), freeze_modules(network, ["0.3"]):
        pass
