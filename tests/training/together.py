"""Trainings for one or two processes: python together.py OUT, in each of two. The first writes what they ended with."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import nn

import limbeck
from limbeck.core.metric_spec import MetricSpec
from limbeck.core.task import reduce_statistics
from limbeck.data import Augmentation, Digits, affine
from limbeck.distiller import GradNorm, LossRatioWeighting, UncertaintyWeighting
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss, SPLoss
from limbeck.losses.temperature import Learned, LossAdaptive
from limbeck.training import TrainingConfig, make_fabric
from limbeck.training.epoch_validation import run_validation

TASK = limbeck.tasks.Classification(10)
BALANCES = (GradNorm, LossRatioWeighting, UncertaintyWeighting)


MARGIN = MetricSpec(name="margin_error", label="Margin error", unit="", higher_is_better=False)


@dataclass(frozen=True)
class MarginError:
    """A task with one monitored metric, of which lower is better: a ratio of sums over samples."""

    classes: int
    primary_metric = MARGIN
    monitored_metrics = (MARGIN,)
    metric_specs = (MARGIN,)
    supervised_loss = "CrossEntropyLoss"

    def __getattr__(self, name):
        return getattr(limbeck.tasks.Classification(self.classes), name)

    def outputs(self, network, batch):
        return TASK.outputs(network, batch)

    def target(self, batch):
        return TASK.target(batch)

    def monitor(self, network, batch):
        logits = self.outputs(network, batch).require_logits()
        right = logits.gather(1, self.target(batch)[:, None])
        return torch.cat([logits.amax(dim=1, keepdim=True) - right, logits.abs().amax(dim=1, keepdim=True)], dim=1)

    score = monitor

    def metric_value(self, statistics, weights=None, *, metric=None):
        return reduce_statistics(statistics, weights, lambda sums: sums[..., 0] / sums[..., 1])

    metrics = score


class FewAtATime:
    """Digits with a validation part of several batches, so that each process has some."""

    def __init__(self, num_labeled=None):
        self.data = Digits(num_labeled=num_labeled, augment=Augmentation((affine(),))).load(seed=0)
        self.batches = self.data.batches

    def validation_batches(self, **place):
        return self.data.validation_batches(batch_size=75, **place)


def network(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def distiller(objective, **more):
    torch.manual_seed(0)
    student, teacher = network(8), network(16)
    taps = {"student": {"mid": "1"}, "teacher": {"mid": "1"}}
    return limbeck.Distiller(student, teacher, objective=objective, task=TASK, feature_layers=taps, **more)


def train(made, fabric, *, batch, num_labeled=None, out=None, steps=12, resume=False, **more):
    """The final weights and the last row of figures."""
    settings = TrainingConfig(
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        batch_size=batch // fabric.world_size,
        max_grad_norm=1.0,
        **more,
    )
    run = limbeck.training.fit(
        made, FewAtATime(num_labeled), steps=steps, steps_per_epoch=6, training=settings, fabric=fabric, run_dir=out,
        resume=resume, callbacks=[],
    )  # fmt: skip
    return {"weights": made.state_dict(), "row": run.history[-1]}


def means():
    """Losses that are a mean over all rows."""
    return {"soft": KDLoss(), "hint": FitNetLoss("mid")}


def relations():
    """A term on pairs of samples, one on the labelled rows only, and one that learns: all on the whole batch."""
    return {"alike": SPLoss("mid"), "truth": CrossEntropyLoss(), "hint": FitNetLoss("mid")}


def plain(fabric, **more):
    return train(distiller(means()), fabric, batch=32, **more)


def gathered(fabric, *, gather_distributed=("alike", "truth", "hint")):
    made = distiller(relations(), weights={"alike": 30.0}, gather_distributed=gather_distributed)
    return train(made, fabric, batch=32, num_labeled=100)


def moving(fabric, balance):
    """Temperatures and weights that move by what all processes see."""
    terms = {
        "soft": KDLoss(temperature=LossAdaptive(rate=0.1, high=9.0)),
        "hard": KDLoss(temperature=Learned(warmup_fraction=0.5)),
        "hint": FitNetLoss("mid"),
    }  # fmt: skip
    return train(distiller(terms, weights=balance()), fabric, batch=32)


def same_figures(fabric):
    """Validation dealt out to the processes against validation of everything in each, bit for bit."""
    made, data = distiller({"truth": CrossEntropyLoss()}), FewAtATime()
    place = {"rank": fabric.global_rank, "world_size": fabric.world_size}
    share = list(data.validation_batches(**place))
    assert 0 < len(share) < 5
    one = Fabric(accelerator="cpu", devices=1)
    for task in (TASK, MarginError(10)):
        dealt = run_validation(made.student, share, task, fabric)
        assert dealt == run_validation(made.student, data.validation_batches(), task, one)
        assert set(dealt) == {f"val/{metric.name}" for metric in task.monitored_metrics}


def main():
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    own = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    own.launch()
    results = {"plain": plain(own, out=out / "plain"), "gathered": gathered(make_fabric())}
    results["apart"] = gathered(make_fabric(), gather_distributed=())
    results |= {kind.__name__: moving(make_fabric(), kind) for kind in BALANCES}
    same_figures(own)
    if own.global_rank == 0:
        torch.save(results, out / "results.pt")


if __name__ == "__main__":
    main()
