"""Both libraries of losses.py in one process: METHODS SETTINGS OUT; values first, then alternating timed calls."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from losses_pairs import Pair, pairs
from torch import Tensor

TURN = 4  # calls


def compute_values(pair: Pair) -> dict:
    """Both losses of the same tensors, and their formulas in NumPy."""
    ours, gradients = compute_value(pair.ours, pair.learned)
    theirs, their_gradients = compute_value(pair.theirs, pair.learned)
    results = {"ours": ours, "theirs": theirs, "ours_in_float64": pair.paper()}
    results["theirs_in_float64"] = results["ours_in_float64"] if pair.their_paper is None else pair.their_paper()
    if pair.their_paper is None:
        results["gradients_apart"] = max(
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(gradients, their_gradients, strict=True)
        )
    return results | {"why": pair.why}


def measure_seconds(pair: Pair, repeats: int, budget: float) -> list[tuple[float, float]]:
    """For each repeat, the median seconds of a call of limbeck and of torchdistill.

    They alternate after four calls, of which the first is not counted, since the caches hold the memory of the other.

    Args:
        pair: a method.
        repeats: number of repeats.
        budget: seconds of a repeat, with one turn of each library at least.
    """
    sides = (pair.ours, pair.theirs)
    pair_seconds = max(sum(time_call(side, pair.learned) for side in sides) for _ in range(3))
    pair_seconds = min(pair_seconds, sum(time_call(side, pair.learned) for side in sides))
    turns = max(1, int(budget / pair_seconds / TURN))
    results = []
    for _ in range(repeats):
        durations: tuple[list[float], list[float]] = ([], [])
        for turn in range(turns):
            for side in (0, 1) if turn % 2 else (1, 0):
                durations[side].extend([time_call(sides[side], pair.learned) for _ in range(TURN)][1:])
        results.append((statistics.median(durations[0]), statistics.median(durations[1])))
    return results


def time_call(loss: Callable[[], Tensor], learned: tuple[Tensor, ...]) -> float:
    """Seconds of a forward and a backward pass."""
    for tensor in learned:
        tensor.grad = None
    start = time.perf_counter()
    loss().backward()
    return time.perf_counter() - start


def compute_value(loss: Callable[[], Tensor], learned: tuple[Tensor, ...]) -> tuple[float, list[Tensor]]:
    """The value and the gradients."""
    value = loss()
    return value.item(), list(torch.autograd.grad(value, learned))


def main(methods: list[str], settings: dict) -> dict:
    torch.set_num_threads(1)
    results = {"torchdistill": metadata.version("torchdistill"), "methods": {}}
    for name, (make_pair, shape) in pairs().items():
        if methods and name not in methods:
            continue
        torch.manual_seed(0)
        pair = make_pair(*shape)
        result = compute_values(pair) | {"shape": "×".join(map(str, shape))}
        gc.collect()
        gc.disable()
        result["seconds"] = measure_seconds(pair, settings["repeats"], settings["budget"])
        gc.enable()
        results["methods"][name] = result
    return results


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(main(json.loads(sys.argv[1]), json.loads(sys.argv[2]))))
