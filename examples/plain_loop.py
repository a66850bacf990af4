"""A Distiller in a plain PyTorch loop: a student on its own, then the same student with a teacher.

    python examples/plain_loop.py [STEPS]

The data are scikit-learn's digits, 100 of them with a label. The teacher and the student alone learn from those; the
distilled student, in as many steps, also from the pictures without a label, about which only the teacher speaks.
"""

import sys

import torch

import limbeck
from limbeck.data import Augmentation, Digits, affine
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.models import small_cnn

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 300
torch.set_num_threads(1)  # networks this small lose more time to handing work over than they win

data = Digits(num_labeled=100, augment=Augmentation((affine(degrees=10, translate=0.06),))).load(seed=0)
task = limbeck.tasks.Classification(classes=len(data.class_names))


def train(distiller, *, pictures):
    stream = data.batches(batch_size=64, subset=pictures)
    distiller.prepare(stream.batch(0))  # shapes the projection of FitNetLoss, so that the optimizer sees it
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=STEPS)
    distiller.train()
    for step in range(STEPS):
        distiller.progress = limbeck.Progress(step, STEPS)  # the clock that schedules read
        loss = distiller(stream.batch(step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        scheduler.step()
    return distiller.student


@torch.no_grad()
def accuracy(network):
    network.eval()
    right = [network(batch["input"]).argmax(dim=1) == batch["target"] for batch in data.validation_batches()]
    return torch.cat(right).float().mean().item()


def student():
    torch.manual_seed(1)  # the same start each time
    return small_cnn(width=8)


torch.manual_seed(0)
target = {"target": CrossEntropyLoss()}
teacher = train(limbeck.Distiller(small_cnn(width=32), objective=target, task=task), pictures="labeled")
alone = train(limbeck.Distiller(student(), objective=target, task=task), pictures="labeled")

distiller = limbeck.Distiller(
    student(),
    teacher,
    objective={"kd": KDLoss(temperature=4.0), "fitnet": FitNetLoss(layer="mid")},
    weights={"fitnet": limbeck.schedules.linear(1.0, 0.0)},
    feature_layers={"student": {"mid": "block2"}, "teacher": {"mid": "block2"}},
    task=task,
)
distilled = train(distiller, pictures="all")

for name, network in (("teacher", teacher), ("student alone", alone), ("distilled", distilled)):
    print(f"validation accuracy, {name}: {accuracy(network):.4f}")

# A checkpoint holds the student and what the terms learned, never the teacher.
learned = [name for name in distiller.state_dict() if not name.startswith("student.")]
print("beside the student's weights, distiller.state_dict() holds:", ", ".join(learned))
