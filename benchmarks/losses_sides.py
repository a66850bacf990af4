"""Both sides of losses.py in one process: METHODS SETTINGS OUT; values first, then forward and backward in turns."""

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


def values(pair: Pair) -> dict:
    """Both losses of the same tensors, beside what NumPy makes of their formulas."""
    ours, own = called(pair.ours, pair.learned)
    theirs, its = called(pair.theirs, pair.learned)
    found = {"ours": ours, "theirs": theirs, "ours_in_float64": pair.paper()}
    found["theirs_in_float64"] = found["ours_in_float64"] if pair.other is None else pair.other()
    if pair.other is None:
        found["gradients_apart"] = max(
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(own, its, strict=True)
        )
    return found | {"why": pair.why}


def seconds(pair: Pair, repeats: int, budget: float) -> list[tuple[float, float]]:
    """For each repeat, the median seconds of a call of ours and of theirs.

    Both take turns of four calls, of which the first is not counted: it finds the other side's memory in the caches.

    Arguments:
        pair: a method.
        repeats: how many.
        budget: seconds that a repeat may take, though each side has a turn at least.
    """
    sides = (pair.ours, pair.theirs)
    once = max(sum(timed(side, pair.learned) for side in sides) for _ in range(3))
    once = min(once, sum(timed(side, pair.learned) for side in sides))
    turns = max(1, int(budget / once / TURN))
    found = []
    for _ in range(repeats):
        took: tuple[list[float], list[float]] = ([], [])
        for turn in range(turns):
            for side in (0, 1) if turn % 2 else (1, 0):
                took[side].extend([timed(sides[side], pair.learned) for _ in range(TURN)][1:])
        found.append((statistics.median(took[0]), statistics.median(took[1])))
    return found


def timed(loss: Callable[[], Tensor], learned: tuple[Tensor, ...]) -> float:
    """Seconds of a forward and a backward pass."""
    for tensor in learned:
        tensor.grad = None
    begun = time.perf_counter()
    loss().backward()
    return time.perf_counter() - begun


def called(loss: Callable[[], Tensor], learned: tuple[Tensor, ...]) -> tuple[float, list[Tensor]]:
    """The value and the gradients."""
    value = loss()
    return value.item(), list(torch.autograd.grad(value, learned))


def main(methods: list[str], settings: dict) -> dict:
    torch.set_num_threads(1)
    found = {"torchdistill": metadata.version("torchdistill"), "methods": {}}
    for name, (make, shape) in pairs().items():
        if methods and name not in methods:
            continue
        torch.manual_seed(0)
        pair = make(*shape)
        said = values(pair) | {"shape": "×".join(map(str, shape))}
        gc.collect()
        gc.disable()
        said["seconds"] = seconds(pair, settings["repeats"], settings["budget"])
        gc.enable()
        found["methods"][name] = said
    return found


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(main(json.loads(sys.argv[1]), json.loads(sys.argv[2]))))
