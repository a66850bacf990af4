"""Pictures a second of two processes, one thread each, over those of one: `two_processes_over_one`.

Both are one launch of two processes, and the turns alternate: in the one, both train together by DDP; in the other, the
first trains by itself while the second waits without using a core. So a change in the machine's load meets both alike.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import torch
from results import row, write

import limbeck
from limbeck.data import from_tensors
from limbeck.losses import KDLoss
from limbeck.models import resnet20, resnet56
from limbeck.training import TrainingConfig, init_processes, make_fabric, make_single_device_fabric

BATCH = 64


def pictures_a_second(data, fabric, steps: int) -> float:
    """Of the whole training, teacher included, after two steps to warm up."""
    torch.manual_seed(0)
    student, teacher = resnet20(classes=10, channels=3), resnet56(classes=10, channels=3)
    distiller = limbeck.Distiller(
        student, teacher, objective={"kd": KDLoss(temperature=4.0)}, task=limbeck.tasks.Classification(classes=10)
    )
    training = TrainingConfig(optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), batch_size=BATCH)
    begun: list[float] = []
    student.register_forward_pre_hook(lambda module, _: begun.append(time.perf_counter()) if module.training else None)
    run = limbeck.fit(distiller, data, steps=steps + 2, training=training, fabric=fabric, callbacks=[])
    # From the beginning of the third step to that of the last: neither warming up nor validating.
    return (run.steps - 3) * BATCH * fabric.world_size / (begun[run.steps - 1] - begun[2])


def work(turns: int, steps: int) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    processes = init_processes()
    data = from_tensors(torch.rand(2000, 3, 32, 32), torch.arange(2000) % 10)
    ones, twos = [], []
    for _ in range(turns):
        twos.append(pictures_a_second(data, make_fabric(), steps))
        ones.append(processes.run_on_rank_zero(lambda: pictures_a_second(data, make_single_device_fabric(), steps)))
    if processes.rank == 0:
        what = f"random pictures of 32 px, resnet56 teaching resnet20, batch {BATCH} for each process"
        ratios = [two / one for two, one in zip(twos, ones, strict=True)]
        write(
            [row("two_processes_over_one", ratios, unit="ratio of pictures a second", aim="report", data=what)],
            pictures_a_second={"one": ones, "two": twos},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        sys.argv.remove("--worker")  # the figure tells the command that a reader would give
        work(options.turns, options.steps)
        return
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, __file__, "--worker", *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
