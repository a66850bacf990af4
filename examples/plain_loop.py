"""A Distiller in a plain PyTorch loop: a student without a teacher, then the same student with one.

    python examples/plain_loop.py [STEPS]

The data are scikit-learn's digits, 100 of them labeled. The teacher and the baseline are trained on those; the student
is distilled, in as many steps, on the unlabeled images too.
"""

import sys

import torch

import limbeck
from limbeck.data import Augmentation, Digits, affine
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.models import small_cnn

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 300
torch.set_num_threads(1)  # more threads are slower for networks this small

data = Digits(num_labeled=100, augment=Augmentation((affine(degrees=10, translate=0.06),))).load(seed=0)
task = limbeck.tasks.Classification(classes=len(data.class_names))


def train(distiller, *, subset):
    stream = data.batches(batch_size=64, subset=subset)
    distiller.prepare(stream.batch(0))  # shapes the projection of FitNetLoss, so that the optimizer sees it
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=STEPS)
    distiller.train()
    for step in range(STEPS):
        distiller.progress = limbeck.Progress(step, STEPS)  # read by schedules
        loss = distiller(stream.batch(step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        scheduler.step()
    return distiller.student


@torch.no_grad()
def accuracy(network):
    network.eval()
    correct = [network(batch["input"]).argmax(dim=1) == batch["target"] for batch in data.validation_batches()]
    return torch.cat(correct).float().mean().item()


def make_student():
    torch.manual_seed(1)  # the same initial weights for both
    return small_cnn(width=8)


torch.manual_seed(0)
target = {"target": CrossEntropyLoss()}
teacher = train(limbeck.Distiller(small_cnn(width=32), objective=target, task=task), subset="labeled")
baseline = train(limbeck.Distiller(make_student(), objective=target, task=task), subset="labeled")

distiller = limbeck.Distiller(
    make_student(),
    teacher,
    objective={"kd": KDLoss(temperature=4.0), "fitnet": FitNetLoss(layer="mid")},
    weights={"fitnet": limbeck.schedules.linear(1.0, 0.0)},
    feature_layers={"student": {"mid": "block2"}, "teacher": {"mid": "block2"}},
    task=task,
)
distilled = train(distiller, subset="all")

for name, network in (("teacher", teacher), ("baseline", baseline), ("distilled", distilled)):
    print(f"validation accuracy, {name}: {accuracy(network):.4f}")

# A checkpoint holds the student and trainable losses, never the teacher.
extra_keys = [name for name in distiller.state_dict() if not name.startswith("student.")]
print("in addition to the student, distiller.state_dict() contains:", ", ".join(extra_keys))
