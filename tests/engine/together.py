"""A training for one or two processes: torchrun together.py OUT BATCH. The first process writes the final weights."""

import sys

import torch
from lightning_fabric import Fabric
from torch import nn

import limbeck
from limbeck.data import Digits, Views, affine
from limbeck.engine import Training
from limbeck.terms import Hint, SoftTarget


def main():
    out, batch = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=64 // 2 // batch, strategy="ddp" if batch == 16 else "auto")
    fabric.launch()
    data = Digits(views=Views((affine(),))).load(seed=0)
    torch.manual_seed(0)
    student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(64, w), nn.ReLU(), nn.Linear(w, 10)) for w in (8, 16))
    distiller = limbeck.Distiller(
        student, teacher, objective={"soft": SoftTarget(), "hint": Hint("mid")}, task=limbeck.tasks.Classification(10),
        taps={"student": {"mid": "1"}, "teacher": {"mid": "1"}},
    )  # fmt: skip
    training = Training(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1), batch=batch)
    limbeck.fit(distiller, data, steps=12, training=training, fabric=fabric, out=out, watchers=[])
    if fabric.global_rank == 0:
        torch.save(distiller.state_dict(), f"{out}/final.pt")


if __name__ == "__main__":
    main()
