"""Latencies in turns: the order of calls, and what is told of them."""

import time

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import measure_latencies


def test_calls_come_in_blocks_by_turns():
    made = []
    found = measure_latencies(
        {"a": lambda: made.append("a"), "b": lambda: made.append("b")}, rounds=2, calls_per_round=2
    )
    assert "".join(made) == "aaabbbaaabbb"
    assert found["a"]["num_repeats"] == 4


def test_a_slower_call_is_found_to_be_slower():
    found = measure_latencies({"slow": lambda: time.sleep(0.004), "fast": lambda: None}, rounds=3, calls_per_round=3)
    assert 4 <= found["slow"]["median"] <= found["slow"]["p95"]
    assert found["fast"]["median"] < 1


def test_a_slow_call_is_not_begun_again_once_its_time_is_spent():
    found = measure_latencies({"slow": lambda: time.sleep(0.02)}, rounds=50, calls_per_round=50, max_seconds=0.1)
    assert 1 <= found["slow"]["num_repeats"] < 10


def test_threads_are_put_back_after_an_error():
    before = torch.get_num_threads()

    def fail():
        assert torch.get_num_threads() == 1
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        measure_latencies({"bad": fail})
    assert torch.get_num_threads() == before
    with pytest.raises(LimbeckError, match="rounds and calls_per_round must be at least 1"):
        measure_latencies({}, rounds=0)
