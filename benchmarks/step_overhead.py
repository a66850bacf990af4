"""What `limbeck.fit` costs beside a bare PyTorch loop doing the same work: the ratio of their step times.

Both train the same student with the same frozen teacher on the same batches (views included), with the same loss,
optimizer and schedule, one thread, and both keep the running loss. The two are run in turns, several times; each turn
gives one ratio. The figure is for the main job's networks (digits), where a step is a few milliseconds and any overhead
shows most.
"""

from __future__ import annotations

import time

import torch
from results import row, write
from torch.nn import functional as F

import limbeck
from limbeck.data import Digits, Views, affine
from limbeck.engine import Training
from limbeck.models import small_cnn
from limbeck.terms import SoftTarget

STEPS, TURNS, BATCH = 100, 40, 64


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    return small_cnn(width=8), small_cnn(width=64)


def optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.01)


def schedule(optimizer, steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=steps)


def bare(data) -> float:
    student, teacher = networks()
    student.train()
    teacher.eval().requires_grad_(False)
    stream = data.stream(batch=BATCH)
    ours = optimizer(student.parameters())
    theirs = schedule(ours, STEPS)
    total, tau = torch.zeros(()), 4.0
    begun = time.perf_counter()
    for step in range(STEPS):
        batch = stream.batch(step)
        logits = student(batch["input"])
        with torch.no_grad():
            soft = teacher(batch["input"])
        log_q, log_p = F.log_softmax(logits / tau, 1), F.log_softmax(soft / tau, 1)
        loss = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * tau**2
        ours.zero_grad(set_to_none=True)
        loss.backward()
        ours.step()
        theirs.step()
        total += loss.detach()
    return time.perf_counter() - begun


def fit(data) -> float:
    student, teacher = networks()
    distiller = limbeck.Distiller(
        student, teacher, objective={"soft": SoftTarget(tau=4.0)}, task=limbeck.tasks.Classification(classes=10)
    )
    training = Training(optimizer=optimizer, scheduler=schedule, batch=BATCH)
    clock = Clock()
    limbeck.fit(distiller, Unvalidated(data), steps=STEPS, steps_per_epoch=STEPS, training=training, watchers=[clock])
    return clock.seconds


class Unvalidated:
    """The same training batches and no validation part: validating is work of its own, and no part of a step."""

    def __init__(self, data) -> None:
        self.stream = data.stream

    def validation_batches(self):
        return iter(())


class Clock:
    """A watcher that takes the time from the first step to the last."""

    def begin(self, *, title, step, steps) -> None:
        self.begun = time.perf_counter()

    def step(self, step, figures) -> None:
        self.seconds = time.perf_counter() - self.begun

    def epoch(self, rows) -> None: ...

    def end(self) -> None: ...


def main() -> None:
    torch.set_num_threads(1)
    data = Digits(labels=100, views=Views((affine(10, (0.9, 1.1), 0.06),))).load(seed=0)
    bare(data), fit(data)
    turns = []
    for turn in range(TURNS):
        first, second = (bare, fit) if turn % 2 else (fit, bare)
        times = {first: first(data)}
        times[second] = second(data)
        turns.append((times[fit], times[bare]))
    ratios = [ours / theirs for ours, theirs in turns]
    steps = [1000 * seconds / STEPS for pair in zip(*turns, strict=True) for seconds in pair]
    write(
        [row("fit_over_bare_loop", ratios, unit="ratio", aim="<= 1.03", data="digits")],
        milliseconds_a_step={"fit": steps[:TURNS], "bare": steps[TURNS:]},
    )


if __name__ == "__main__":
    main()
