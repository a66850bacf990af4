"""Images per second of two processes, one thread each, over those of one: `two_processes_over_one`.

Both are measured in one launch of two processes with alternating turns: both train by DDP, or rank zero trains while
the other waits idle. So a change in the load of the machine affects both alike.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import torch
from results import make_row, write_rows

import limbeck
from limbeck.data import from_tensors
from limbeck.losses import KDLoss
from limbeck.models import resnet20, resnet56
from limbeck.training import TrainingConfig, init_processes, make_fabric, make_single_device_fabric

BATCH = 64


def measure_throughput(data, fabric, steps: int) -> float:
    """Images per second of the training, teacher included, after two warm-up steps."""
    torch.manual_seed(0)
    student, teacher = resnet20(classes=10, channels=3), resnet56(classes=10, channels=3)
    distiller = limbeck.Distiller(
        student, teacher, objective={"kd": KDLoss(temperature=4.0)}, task=limbeck.tasks.Classification(classes=10)
    )
    training = TrainingConfig(optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), batch_size=BATCH)
    starts: list[float] = []
    student.register_forward_pre_hook(lambda module, _: starts.append(time.perf_counter()) if module.training else None)
    run = limbeck.fit(distiller, data, steps=steps + 2, training=training, fabric=fabric, callbacks=[])
    # From the start of the third step to that of the last: no warm-up and no validation.
    return (run.steps - 3) * BATCH * fabric.world_size / (starts[run.steps - 1] - starts[2])


def run_worker(turns: int, steps: int) -> None:
    """Run in each of the two processes."""
    torch.set_num_threads(1)
    processes = init_processes()
    data = from_tensors(torch.rand(2000, 3, 32, 32), torch.arange(2000) % 10)
    single, double = [], []
    for _ in range(turns):
        double.append(measure_throughput(data, make_fabric(), steps))
        single.append(processes.run_on_rank_zero(lambda: measure_throughput(data, make_single_device_fabric(), steps)))
    if processes.rank == 0:
        data_text = f"random images of 32 px, resnet56 to resnet20, batch {BATCH} per process"
        ratios = [double_rate / single_rate for double_rate, single_rate in zip(double, single, strict=True)]
        write_rows(
            [
                make_row(
                    "two_processes_over_one", ratios, unit="ratio of images per second", aim="report", data=data_text
                )
            ],
            images_per_second={"one": single, "two": double},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        sys.argv.remove("--worker")  # the row shows the command of a user
        run_worker(options.turns, options.steps)
        return
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, __file__, "--worker", *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
