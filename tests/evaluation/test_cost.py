"""Costs worked by hand, and a model that comes out as it went in."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import count_flops, count_parameters, measure_cost, measure_latency, weights_file_size
from limbeck.models import save_weights, small_cnn


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v)


def test_attention_is_counted():
    # 5 tokens of width 8 in 2 heads: the projection, then q·kᵀ and p·v
    assert count_flops(Attention(), torch.zeros(1, 5, 8)) == (2 * 5 * 8 * 24 + 2 * (2 * 5 * 5 * 8), None)


def test_attention_inside_torchs_own_encoder_is_counted():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    by_hand = 2 * 5 * 8 * 24 + 2 * (2 * 5 * 5 * 8) + 2 * 5 * 8 * 8 + 2 * (2 * 5 * 8 * 16)
    assert count_flops(layer, torch.zeros(1, 5, 8)) == (by_hand, None)


def test_convolutions_count_two_for_each_multiply_add_whatever_the_batch():
    network = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 36, 3))
    by_hand = 2 * (6 * 36 * 2 * 9) + 2 * (6 * 36 * 3)
    assert count_flops(network, torch.zeros(1, 4, 8, 8)) == (by_hand, None)
    assert count_flops(network, torch.zeros(5, 4, 8, 8)) == (by_hand, None)


def test_a_network_that_looks_at_values_has_no_count_and_a_sentence():
    class Looks(nn.Linear):
        def forward(self, x):
            return super().forward(x) if float(x.sum()) >= 0 else x

    count, warning = count_flops(Looks(3, 2), torch.zeros(1, 3))
    assert count is None
    assert warning.startswith("the FLOPs of Looks are unknown, since it does not run on the meta device")
    found = measure_cost(Looks(3, 2), torch.zeros(1, 3))
    assert (found["flops"], found["warnings"]) == (None, [warning])
    assert found["latency_ms"]["median"] > 0


def test_a_shared_parameter_counts_once():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    assert count_parameters(network) == 16 + 8


def test_the_bytes_are_those_of_the_file(tmp_path):
    shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    shared[1].weight = shared[0].weight
    for network in (small_cnn(), small_cnn().half(), shared):
        assert weights_file_size(network) == save_weights(network, tmp_path / "w.safetensors").stat().st_size


def test_latency_is_in_milliseconds_and_p95_the_nearest_rank():
    turns = iter([0.0] * 2 + [0.02] * 2 + [0.002] * 18)
    found = measure_latency(lambda: time.sleep(next(turns)), warmup=2, repeats=20, batch_size=4)
    assert 2.0 <= found["median"] < 15
    assert found["p95"] >= 20
    assert (found["num_repeats"], found["batch_size"], found["num_threads"]) == (20, 4, 1)


def test_a_slow_call_is_timed_within_the_budget():
    start = time.perf_counter()
    found = measure_latency(lambda: time.sleep(0.02), max_seconds=0.2)
    assert time.perf_counter() - start < 0.4
    assert 1 <= found["num_repeats"] <= 10


def test_the_threads_are_those_asked_for_and_then_those_before():
    before = torch.get_num_threads()
    other = 3 if before != 3 else 2
    seen = []
    measure_latency(lambda: seen.append(torch.get_num_threads()), num_threads=other, repeats=3)
    assert set(seen) == {other}
    assert torch.get_num_threads() == before

    def fails():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        measure_latency(fails, num_threads=other)
    assert torch.get_num_threads() == before


def test_cost_leaves_the_model_as_it_was():
    network = small_cnn()
    network.block1.eval()
    modes = [module.training for module in network.modules()]
    weights = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in network.state_dict().items()}
    found = measure_cost(network, torch.zeros(3, 1, 8, 8))
    assert [module.training for module in network.modules()] == modes
    for name, tensor in network.state_dict().items():
        assert tensor.data_ptr() == weights[name][0]
        assert torch.equal(tensor, weights[name][1])
    assert found.keys() == {"parameters", "flops", "bytes", "latency_ms", "warnings"}
    assert found["parameters"] == 1698
    assert found["flops"] == 2 * (64 * 8 * 9 + 64 * 8 * 8 * 9 + 16 * 12 * 8 * 9 + 12 * 10)
    assert found["latency_ms"]["batch_size"] == 1


def test_the_modes_are_put_back_when_the_model_fails():
    network = small_cnn()
    with pytest.raises(RuntimeError):
        measure_cost(network, torch.zeros(1, 2, 8, 8))
    assert all(module.training for module in network.modules())


def test_what_cannot_be_measured_is_told_in_a_sentence():
    with pytest.raises(LimbeckError, match="at least one input"):
        count_flops(nn.Linear(3, 2), torch.zeros(0, 3))
    with pytest.raises(LimbeckError, match="repeats must be at least 1"):
        measure_latency(lambda: None, repeats=0)
