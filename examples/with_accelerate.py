"""The same Distiller in a loop of Hugging Face Accelerate, which handles devices, processes and precision.

    pip install accelerate
    python examples/with_accelerate.py [EPOCHS]        # or: accelerate launch examples/with_accelerate.py

The data are scikit-learn's digits in a plain DataLoader of (input, target).
"""

import sys
import tempfile
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import limbeck
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.models import small_cnn

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 8
torch.set_num_threads(1)  # more threads are slower for networks this small
torch.manual_seed(0)

bunch = load_digits()
images = TensorDataset(torch.tensor(bunch.images).float().unsqueeze(1) / 16, torch.tensor(bunch.target))
train, validation = torch.utils.data.random_split(images, [1400, len(images) - 1400])
accelerator = Accelerator()
task = limbeck.tasks.Classification(classes=10)


def fit(distiller):
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    distiller.prepare(next(iter(loader)))  # shapes the projection of FitNetLoss, before the optimizer and before DDP
    optimizer = torch.optim.AdamW(distiller.parameters(), lr=0.01)
    model, optimizer, loader = accelerator.prepare(distiller, optimizer, loader)
    model.train()
    steps = EPOCHS * len(loader)
    for epoch in range(EPOCHS):
        for index, batch in enumerate(loader):
            distiller.progress = limbeck.Progress(epoch * len(loader) + index, steps, epoch, EPOCHS)
            loss = model(batch)
            accelerator.backward(loss.total)
            optimizer.step()
            optimizer.zero_grad()
    return distiller.student


@torch.no_grad()
def accuracy(network):
    inputs, target = (tensor.to(accelerator.device) for tensor in next(iter(DataLoader(validation, len(validation)))))
    return (network.eval()(inputs).argmax(dim=1) == target).float().mean().item()


teacher = fit(limbeck.Distiller(small_cnn(width=32), objective={"target": CrossEntropyLoss()}, task=task))
accelerator.free_memory()  # drops the training of the teacher, so that the checkpoint below contains only the student's
distiller = limbeck.Distiller(
    small_cnn(width=8),
    teacher,
    objective={"target": CrossEntropyLoss(), "kd": KDLoss(temperature=4.0), "fitnet": FitNetLoss(layer="mid")},
    weights={"target": 0.1, "kd": 0.9, "fitnet": limbeck.schedules.linear(1.0, 0.0)},
    feature_layers={"student": {"mid": "block2"}, "teacher": {"mid": "block2"}},
    task=task,
)
student = fit(distiller)

with tempfile.TemporaryDirectory() as folder:
    accelerator.save_state(folder)  # weights, optimizer, random states; resume with accelerator.load_state(folder)
    state = load_file(Path(folder) / "model.safetensors")
accelerator.print(f"validation accuracy, teacher: {accuracy(teacher):.4f}")
accelerator.print(f"validation accuracy, distilled: {accuracy(student):.4f}")
extra_keys = sorted(name for name in state if not name.startswith("student."))
accelerator.print("in addition to the student, the checkpoint contains:", ", ".join(extra_keys))
