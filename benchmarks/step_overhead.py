"""What `limbeck.fit` costs beside a bare PyTorch loop doing the same work: the ratio of their step times.

Both train the same student with the same frozen teacher on the same batches (views included), with the same loss,
optimizer and schedule, one thread, and both keep the running loss. The steps of the two alternate; each turn gives one
ratio, of the medians of its steps. The networks are the main job's (digits), where a step is a few milliseconds and any
overhead shows most.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from alternating import Alternating
from results import row, write
from torch.nn import functional as F

import limbeck
from limbeck.data import Augmentation, Digits, affine
from limbeck.losses import KDLoss
from limbeck.models import small_cnn
from limbeck.training import TrainingConfig

STEPS, TURNS, BATCH = 250, 12, 64


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    return small_cnn(width=8), small_cnn(width=64)


def optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.01)


def schedule(optimizer, steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=steps)


def bare(data) -> Iterator[None]:
    """The bare loop, one step at each `next`."""
    student, teacher = networks()
    student.train()
    teacher.eval().requires_grad_(False)
    stream = data.batches(batch_size=BATCH)
    ours = optimizer(student.parameters())
    theirs = schedule(ours, STEPS)
    total, tau = torch.zeros(()), 4.0
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
        yield


def turn(data) -> tuple[float, float]:
    """Median milliseconds of a step, of fit and of the bare loop."""
    student, teacher = networks()
    distiller = limbeck.Distiller(
        student, teacher, objective={"kd": KDLoss(temperature=4.0)}, task=limbeck.tasks.Classification(classes=10)
    )
    training = TrainingConfig(optimizer=optimizer, scheduler=schedule, batch_size=BATCH)
    both = Alternating(data.batches(batch_size=BATCH), bare(data))
    limbeck.fit(distiller, both, steps=STEPS, steps_per_epoch=STEPS, training=training, callbacks=[])
    return both.medians()


def main() -> None:
    torch.set_num_threads(1)
    data = Digits(num_labeled=100, augment=Augmentation((affine(10, (0.9, 1.1), 0.06),))).load(seed=0)
    turn(data)
    turns = [turn(data) for _ in range(TURNS)]
    ratios = [ours / theirs for ours, theirs in turns]
    write(
        [row("fit_over_bare_loop", ratios, unit="ratio", aim="<= 1.03", data="digits")],
        median_milliseconds_a_step={"fit": [t[0] for t in turns], "bare": [t[1] for t in turns]},
    )


if __name__ == "__main__":
    main()
