"""Peak memory by hand."""

import torch
from torch import nn

from limbeck.evaluation import measure_peak_memory


def test_a_chain_keeps_two_activations_alive():
    network = nn.Sequential(*[nn.Linear(100, 100, bias=False) for _ in range(5)])
    # Weights, the first sample, and at each later layer what it takes and what it gives.
    assert measure_peak_memory(network, torch.zeros(3, 100)) == 5 * 40_000 + 400 + 2 * 400


def test_a_skip_connection_keeps_more_alive():
    class Skip(nn.Module):
        def forward(self, x):
            first = x + 1
            return first + ((first * 2) * 3)

    # The input, then `first`, its double and its sixfold at once.
    assert measure_peak_memory(Skip(), torch.zeros(1, 50)) == 200 + 3 * 200


def test_buffers_count_and_shared_weights_count_once():
    shared = nn.Linear(10, 10, bias=False)
    network = nn.Sequential(shared, shared)
    assert measure_peak_memory(network, torch.zeros(1, 10)) == 400 + 40 + 80
    network.register_buffer("more", torch.zeros(100))
    assert measure_peak_memory(network, torch.zeros(1, 10)) == 400 + 40 + 80 + 400


def test_modes_are_put_back():
    network = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    measure_peak_memory(network, torch.zeros(1, 2))
    assert network.training
    assert network[0].training
