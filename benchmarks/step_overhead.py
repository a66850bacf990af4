"""Step time of `limbeck.fit` divided by that of a bare PyTorch loop doing the same work.

Both train the same student with the same frozen teacher on the same batches (views included), with the same loss,
optimizer and schedule, one thread, and both keep the running loss. Their steps alternate; each turn gives the ratio of
the medians. The networks are those of the digits recipe, where a step takes a few milliseconds, so that any overhead is
visible.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from alternating import Alternating
from results import make_row, write_rows
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


def bare_loop(data) -> Iterator[None]:
    """The bare loop; runs one step per `next`."""
    student, teacher = networks()
    student.train()
    teacher.eval().requires_grad_(False)
    stream = data.batches(batch_size=BATCH)
    student_optimizer = optimizer(student.parameters())
    scheduler = schedule(student_optimizer, STEPS)
    total, temperature = torch.zeros(()), 4.0
    for step in range(STEPS):
        batch = stream.batch(step)
        logits = student(batch["input"])
        with torch.no_grad():
            teacher_logits = teacher(batch["input"])
        log_q, log_p = F.log_softmax(logits / temperature, 1), F.log_softmax(teacher_logits / temperature, 1)
        loss = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * temperature**2
        student_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        student_optimizer.step()
        scheduler.step()
        total += loss.detach()
        yield


def turn(data) -> tuple[float, float]:
    """Median milliseconds of a step, of fit and of the bare loop."""
    student, teacher = networks()
    distiller = limbeck.Distiller(
        student, teacher, objective={"kd": KDLoss(temperature=4.0)}, task=limbeck.tasks.Classification(classes=10)
    )
    training = TrainingConfig(optimizer=optimizer, scheduler=schedule, batch_size=BATCH)
    alternating = Alternating(data.batches(batch_size=BATCH), bare_loop(data))
    limbeck.fit(distiller, alternating, steps=STEPS, steps_per_epoch=STEPS, training=training, callbacks=[])
    return alternating.medians()


def main() -> None:
    torch.set_num_threads(1)
    data = Digits(num_labeled=100, augment=Augmentation((affine(10, (0.9, 1.1), 0.06),))).load(seed=0)
    turn(data)
    turns = [turn(data) for _ in range(TURNS)]
    ratios = [fit / bare for fit, bare in turns]
    write_rows(
        [make_row("fit_over_bare_loop", ratios, unit="ratio", aim="<= 1.03", data="digits")],
        median_milliseconds_per_step={"fit": [fit for fit, _ in turns], "bare": [bare for _, bare in turns]},
    )


if __name__ == "__main__":
    main()
