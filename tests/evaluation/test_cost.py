"""Cost against values by hand: FLOPs, memory, latency."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import (
    cost,
    count_flops,
    count_parameters,
    hash_structure,
    measure_cost,
    measure_latencies,
    measure_latencies_by_structure,
    measure_latency,
    measure_peak_memory,
    median_interval,
    weights_file_size,
)
from limbeck.models import save_weights, small_cnn
from limbeck.teachers import ExternalTeacher

pytestmark = pytest.mark.usefixtures("all_calls")


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
    expected = 2 * 5 * 8 * 24 + 2 * (2 * 5 * 5 * 8) + 2 * 5 * 8 * 8 + 2 * (2 * 5 * 8 * 16)
    assert count_flops(layer, torch.zeros(1, 5, 8)) == (expected, None)


def test_convolutions_count_two_for_each_multiply_add_whatever_the_batch():
    network = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 36, 3))
    expected = 2 * (6 * 36 * 2 * 9) + 2 * (6 * 36 * 3)
    assert count_flops(network, torch.zeros(1, 4, 8, 8)) == (expected, None)
    assert count_flops(network, torch.zeros(5, 4, 8, 8)) == (expected, None)


def test_a_network_that_does_not_run_has_a_warning_instead_of_flops():
    count, warning = count_flops(nn.Linear(3, 2), torch.zeros(1, 4))
    assert count is None
    assert warning.startswith("the FLOPs of Linear are unknown, since it does not run on its first sample")


def test_a_value_dependent_network_is_counted_on_its_own_device():
    class ValueDependent(nn.Linear):
        def forward(self, x):
            return super().forward(x) if float(x.sum()) >= 0 else x

    result = measure_cost(ValueDependent(3, 2), torch.zeros(1, 3))
    assert (result["flops"], result["warnings"]) == (12, [])
    assert result["latency_ms"]["median"] > 0


def test_a_shared_parameter_counts_once():
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    assert count_parameters(network) == 16 + 8


def test_weights_file_size_is_that_of_the_saved_file(tmp_path):
    shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    shared[1].weight = shared[0].weight
    for network in (small_cnn(), small_cnn().half(), shared):
        assert weights_file_size(network) == save_weights(network, tmp_path / "w.safetensors").stat().st_size


def test_latency_is_in_milliseconds_and_p95_the_nearest_rank():
    delays = iter([0.0] * 2 + [0.02] * 2 + [0.002] * 18)
    result = measure_latency(lambda: time.sleep(next(delays)), warmup=2, repeats=20, batch_size=4)
    assert 2.0 <= result["median"] < 15
    assert result["p95"] >= 20
    assert (result["num_repeats"], result["batch_size"], result["num_threads"]) == (20, 4, 1)


def test_a_slow_call_is_timed_within_the_budget():
    start = time.perf_counter()
    result = measure_latency(lambda: time.sleep(0.02), max_seconds=0.2)
    assert time.perf_counter() - start < 0.4
    assert 1 <= result["num_repeats"] <= 10


def test_latency_sets_and_restores_the_number_of_threads():
    before = torch.get_num_threads()
    num_threads = 3 if before != 3 else 2
    seen = []
    measure_latency(lambda: seen.append(torch.get_num_threads()), num_threads=num_threads, repeats=3)
    assert set(seen) == {num_threads}
    assert torch.get_num_threads() == before

    def fails():
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        measure_latency(fails, num_threads=num_threads)
    assert torch.get_num_threads() == before


def test_measure_cost_does_not_change_the_model():
    network = small_cnn()
    network.block1.eval()
    modes = [module.training for module in network.modules()]
    weights = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in network.state_dict().items()}
    result = measure_cost(network, torch.zeros(3, 1, 8, 8))
    assert [module.training for module in network.modules()] == modes
    for name, tensor in network.state_dict().items():
        assert tensor.data_ptr() == weights[name][0]
        assert torch.equal(tensor, weights[name][1])
    assert result.keys() == {"architecture", "parameters", "flops", "bytes", "latency_ms", "warnings"}
    assert result["parameters"] == 1698
    assert result["flops"] == 2 * (64 * 8 * 9 + 64 * 8 * 8 * 9 + 16 * 12 * 8 * 9 + 12 * 10)
    assert result["latency_ms"]["batch_size"] == 1


def test_networks_of_equal_structure_are_measured_once(monkeypatch):
    calls = []
    monkeypatch.setattr(cost, "measure_latencies", lambda fns, **_: calls.append(list(fns)) or {key: {} for key in fns})
    networks = {"baseline": small_cnn(), "distilled": small_cnn(), "wide": small_cnn(width=16)}
    with torch.no_grad():
        for parameter in networks["distilled"].parameters():
            parameter.add_(1.0)
    assert measure_latencies_by_structure(networks, torch.zeros(1, 1, 8, 8)).keys() == networks.keys()
    measured = [hash_structure(networks[name]) for name in ("baseline", "wide")]
    assert calls == [measured]
    measure_latencies_by_structure(networks, torch.zeros(1, 1, 8, 8), known={measured[0]: {"median": 1.0}})
    assert calls[1] == measured[1:]


def test_two_external_teachers_are_two_architectures():
    teachers = [ExternalTeacher(lambda x: x, name="t", fingerprint=text) for text in ("file a", "file b", "file a")]
    first, second, again = map(hash_structure, teachers)
    assert first == again != second


def test_interval_of_a_median_is_by_order_statistics():
    # With 20 values, P(Binomial(20, 1/2) <= 5) = 0.0207: the 6th and the 15th bound the median with 95 %.
    assert median_interval([*range(20, 0, -1)]) == (6, 15)
    assert median_interval([5.0, 1.0, 3.0, 2.0, 4.0]) == (1.0, 5.0)
    result = measure_latencies({"a": lambda: None}, rounds=20, calls_per_round=1)
    assert result["a"]["low"] <= result["a"]["median"] <= result["a"]["high"]


def test_modes_are_restored_when_the_model_raises():
    network = small_cnn()
    with pytest.raises(RuntimeError):
        measure_cost(network, torch.zeros(1, 2, 8, 8))
    assert all(module.training for module in network.modules())


def test_invalid_cost_arguments_raise():
    with pytest.raises(LimbeckError, match="at least one input"):
        count_flops(nn.Linear(3, 2), torch.zeros(0, 3))
    with pytest.raises(LimbeckError, match="repeats must be at least 1"):
        measure_latency(lambda: None, repeats=0)


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


def test_peak_memory_restores_modes():
    network = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    measure_peak_memory(network, torch.zeros(1, 2))
    assert network.training
    assert network[0].training


def test_calls_alternate_in_blocks():
    calls = []
    result = measure_latencies(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, calls_per_round=2
    )
    assert "".join(calls) == "aaabbbaaabbb"
    assert result["a"]["num_repeats"] == 4


def test_slow_call_has_the_higher_latency():
    result = measure_latencies({"slow": lambda: time.sleep(0.004), "fast": lambda: None}, rounds=3, calls_per_round=3)
    assert 4 <= result["slow"]["median"] <= result["slow"]["p95"]
    assert result["fast"]["median"] < 1


def test_slow_call_stops_at_max_seconds():
    result = measure_latencies({"slow": lambda: time.sleep(0.02)}, rounds=50, calls_per_round=50, max_seconds=0.1)
    assert 1 <= result["slow"]["num_repeats"] < 10


def test_number_of_threads_is_restored_after_an_error():
    before = torch.get_num_threads()

    def fail():
        assert torch.get_num_threads() == 1
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        measure_latencies({"bad": fail})
    assert torch.get_num_threads() == before
    with pytest.raises(LimbeckError, match="rounds and calls_per_round must be at least 1"):
        measure_latencies({}, rounds=0)
