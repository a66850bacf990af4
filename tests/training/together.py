"""Trainings for one or two processes: python together.py OUT, in each of two. The first writes what they ended with."""

import sys
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

import limbeck
from limbeck.data import Digits, Views, affine
from limbeck.distiller import GradNorm, LossRatio, Uncertainty
from limbeck.losses import CrossEntropy, Hint, Similarity, SoftTarget
from limbeck.temperature import Learned, LossAdaptive
from limbeck.training import Training, launched
from limbeck.training.distributed import from_all
from limbeck.training.metric_accumulator import measure

TASK = limbeck.tasks.Classification(10)
BALANCES = (GradNorm, LossRatio, Uncertainty)


class FewAtATime:
    """Digits with a validation part of several batches, so that each process has some."""

    def __init__(self, labels=None):
        self.data = Digits(labels=labels, views=Views((affine(),))).load(seed=0)
        self.stream = self.data.stream

    def validation_batches(self, **place):
        return self.data.validation_batches(batch=75, **place)


def network(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def distiller(objective, **more):
    torch.manual_seed(0)
    student, teacher = network(8), network(16)
    taps = {"student": {"mid": "1"}, "teacher": {"mid": "1"}}
    return limbeck.Distiller(student, teacher, objective=objective, task=TASK, taps=taps, **more)


def train(made, fabric, *, batch, labels=None, out=None, steps=12, resume=False, **more):
    """The final weights and the last row of figures."""
    settings = Training(
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), batch=batch // fabric.world_size, clip=1.0, **more
    )
    run = limbeck.fit(
        made, FewAtATime(labels), steps=steps, steps_per_epoch=6, training=settings, fabric=fabric, out=out,
        resume=resume, watchers=[],
    )  # fmt: skip
    return {"weights": made.state_dict(), "row": run.history[-1]}


def means():
    """Losses that are a mean over all rows."""
    return {"soft": SoftTarget(), "hint": Hint("mid")}


def relations():
    """A term on pairs of samples, one on the labelled rows only, and one that learns: all on the whole batch."""
    return {"alike": Similarity("mid"), "truth": CrossEntropy(), "hint": Hint("mid")}


def plain(fabric, **more):
    return train(distiller(means()), fabric, batch=32, **more)


def gathered(fabric, *, gather=("alike", "truth", "hint")):
    made = distiller(relations(), weights={"alike": 30.0}, gather=gather)
    return train(made, fabric, batch=32, labels=100)


def moving(fabric, balance):
    """Temperatures and weights that move by what all processes see."""
    terms = {
        "soft": SoftTarget(tau=LossAdaptive(rate=0.1, high=9.0)), "hard": SoftTarget(tau=Learned(ramp=0.5)),
        "hint": Hint("mid"),
    }  # fmt: skip
    return train(distiller(terms, weights=balance()), fabric, batch=32)


def same_figures(fabric):
    """Validation dealt out to the processes against validation of everything in each, bit for bit."""
    made, data = distiller({"truth": CrossEntropy()}), FewAtATime()
    place = {"rank": fabric.global_rank, "world": fabric.world_size}
    share = list(data.validation_batches(**place))
    assert 0 < len(share) < 5
    dealt = measure(made.student, share, TASK, fabric.to_device, partial(from_all, fabric))
    assert dealt == measure(made.student, data.validation_batches(), TASK, fabric.to_device)


def main():
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    own = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    own.launch()
    found = {"plain": plain(own, out=out / "plain"), "gathered": gathered(launched())}
    found["apart"] = gathered(launched(), gather=())
    found |= {kind.__name__: moving(launched(), kind) for kind in BALANCES}
    same_figures(own)
    if own.global_rank == 0:
        torch.save(found, out / "found.pt")


if __name__ == "__main__":
    main()
