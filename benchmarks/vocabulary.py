"""Peak memory and time of cross-entropy and KD with a large vocabulary: in chunks of rows, against all logits at once.

One step is the forward and the backward pass of 0.1 · cross-entropy + 0.9 · KD from the same hidden states and heads,
without the networks below. `chunks` is limbeck.losses.linear_distillation_loss, `logits` computes the logits of student
and teacher and then limbeck.losses.cross_entropy_loss and kd_loss. Both give the same value and gradients, which is
checked in a process of its own.

The peak of each side is measured in fresh processes, by the largest resident set after the step minus that before it,
which has the hidden states and heads; the gradient of the student's head is in the peak of both. Seconds are of the
steps of --repeats alternating pairs in one process, after one pair that is not counted. A row is the mean of the
ratios, chunks over logits.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from results import make_row, write_rows
from torch import Tensor
from torch.nn import functional as F

from limbeck.losses import LinearLogits, cross_entropy_loss, kd_loss, linear_distillation_loss

TARGET_WEIGHT, TEACHER_WEIGHT, TEMPERATURE = 0.1, 0.9, 2.0
MEMORY_REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    parser.add_argument("--student-width", type=int, default=256)
    parser.add_argument("--teacher-width", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.part is not None:
        print(json.dumps(PARTS[options.part](options)))
        return
    run_part("check", options)
    megabytes = {side: [run_part(side, options) for _ in range(MEMORY_REPEATS)] for side in STEPS}
    seconds = run_part("seconds", options)
    data = (
        f"{options.tokens:,} tokens, vocabulary {options.vocabulary:,}, widths {options.student_width} and "
        f"{options.teacher_width}, float32, CPU"
    )
    rows = [
        make_row("vocabulary_memory_ratio", ratios(megabytes), unit="of the memory", aim="<= 0.2", data=data, digits=3),
        make_row("vocabulary_time_ratio", ratios(seconds), unit="of the time", aim="<= 1", data=data, digits=3),
    ]
    medians = {"megabytes": megabytes, "seconds": seconds}
    write_rows(
        rows, **{name: {side: statistics.median(of) for side, of in sides.items()} for name, sides in medians.items()}
    )


def make_inputs(options: argparse.Namespace) -> tuple[LinearLogits, LinearLogits, Tensor]:
    """Student, teacher and target, written in place, so that nothing larger is made before the step."""
    torch.manual_seed(0)

    def make_logits(width: int) -> LinearLogits:
        hidden = torch.empty(options.tokens, width).normal_()
        return LinearLogits(hidden, torch.empty(options.vocabulary, width).normal_(std=width**-0.5))

    student, teacher = make_logits(options.student_width), make_logits(options.teacher_width)
    student.hidden.requires_grad_()
    student.weight.requires_grad_()
    return student, teacher, torch.randint(options.vocabulary, (options.tokens,))


def chunks_step(student: LinearLogits, teacher: LinearLogits, target: Tensor) -> Tensor:
    loss = linear_distillation_loss(
        student, teacher, target, target_weight=TARGET_WEIGHT, teacher_weight=TEACHER_WEIGHT, temperature=TEMPERATURE
    )
    loss.backward()
    return loss.detach()


def logits_step(student: LinearLogits, teacher: LinearLogits, target: Tensor) -> Tensor:
    logits, teacher_logits = (F.linear(linear.hidden, linear.weight) for linear in (student, teacher))
    divergence = kd_loss(logits, teacher_logits, temperature=TEMPERATURE)
    loss = TARGET_WEIGHT * cross_entropy_loss(logits, target) + TEACHER_WEIGHT * divergence
    loss.backward()
    return loss.detach()


STEPS = {"chunks": chunks_step, "logits": logits_step}


def clear_gradients(student: LinearLogits) -> None:
    student.hidden.grad = student.weight.grad = None


def check(options: argparse.Namespace) -> None:
    """Both sides have the same value and gradients."""
    options.tokens = min(options.tokens, 256)
    student, teacher, target = make_inputs(options)
    results = []
    for step in STEPS.values():
        clear_gradients(student)
        results.append((step(student, teacher, target), student.hidden.grad, student.weight.grad))
    for chunks, logits in zip(*results, strict=True):
        assert float((chunks - logits).abs().max()) <= 1e-5 * float(logits.abs().max())


def peak_megabytes(options: argparse.Namespace, side: str) -> float:
    """Megabytes that one step adds to the largest resident set of this process."""
    small = argparse.Namespace(**vars(options) | {"tokens": 8, "vocabulary": 64})
    STEPS[side](*make_inputs(small))  # loads the libraries of matrix products
    inputs = make_inputs(options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    STEPS[side](*inputs)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def step_seconds(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of the steps of both sides, alternating."""
    student, teacher, target = make_inputs(options)
    seconds: dict[str, list[float]] = {side: [] for side in STEPS}
    for repeat in range(options.repeats + 1):
        for side, step in STEPS.items():
            clear_gradients(student)
            start = time.perf_counter()
            step(student, teacher, target)
            if repeat:
                seconds[side].append(time.perf_counter() - start)
    return seconds


PARTS = {
    "check": check,
    "chunks": lambda options: peak_megabytes(options, "chunks"),
    "logits": lambda options: peak_megabytes(options, "logits"),
    "seconds": step_seconds,
}


def run_part(part: str, options: argparse.Namespace):
    """One part in a fresh process."""
    settings = {name: value for name, value in vars(options).items() if name != "part"}
    words = [str(word) for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
    command = [sys.executable, __file__, *words, "--part", part]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def ratios(sides: dict[str, list[float]]) -> list[float]:
    return [chunks / logits for chunks, logits in zip(sides["chunks"], sides["logits"], strict=True)]


if __name__ == "__main__":
    main()
