"""The same Distiller inside a LightningModule; Lightning's Trainer owns the loop, devices and checkpoints.

    pip install lightning
    python examples/with_lightning.py [EPOCHS]

The data are scikit-learn's digits in a plain DataLoader of (input, target).
"""

import sys
import tempfile
from pathlib import Path

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import limbeck
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.models import small_cnn

EPOCHS = int(sys.argv[1]) if len(sys.argv) > 1 else 8
torch.set_num_threads(1)  # more threads are slower for networks this small
L.seed_everything(0, verbose=False)

bunch = load_digits()
images = TensorDataset(torch.tensor(bunch.images).float().unsqueeze(1) / 16, torch.tensor(bunch.target))
train, validation = torch.utils.data.random_split(images, [1400, len(images) - 1400])
task = limbeck.tasks.Classification(classes=10)


class Distillation(L.LightningModule):
    """The distiller as a LightningModule."""

    def __init__(self, distiller):
        super().__init__()
        self.distiller = distiller

    def training_step(self, batch):
        steps = int(self.trainer.estimated_stepping_batches)
        self.distiller.progress = limbeck.Progress(self.global_step, steps, self.current_epoch, EPOCHS)
        loss = self.distiller(batch)
        self.log_dict({f"loss/{name}": loss_value for name, loss_value in loss.by_loss.items()})
        return loss.total

    def validation_step(self, batch):
        inputs, target = batch
        correct = self.distiller.student(inputs).argmax(dim=1) == target
        self.log("accuracy", correct.float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.distiller.parameters(), lr=0.01)


def fit(distiller):
    loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
    distiller.prepare(next(iter(loader)))  # shapes the projection of FitNetLoss, before Lightning builds the optimizer
    trainer = L.Trainer(
        max_epochs=EPOCHS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Distillation(distiller), loader, DataLoader(validation, batch_size=len(validation)))
    return trainer


teacher_distiller = limbeck.Distiller(small_cnn(width=32), objective={"target": CrossEntropyLoss()}, task=task)
teacher_accuracy = fit(teacher_distiller).callback_metrics["accuracy"].item()
distiller = limbeck.Distiller(
    small_cnn(width=8),
    teacher_distiller.student,
    objective={"target": CrossEntropyLoss(), "kd": KDLoss(temperature=4.0), "fitnet": FitNetLoss(layer="mid")},
    weights={"target": 0.1, "kd": 0.9, "fitnet": limbeck.schedules.linear(1.0, 0.0)},
    feature_layers={"student": {"mid": "block2"}, "teacher": {"mid": "block2"}},
    task=task,
)
trainer = fit(distiller)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "last.ckpt"
    trainer.save_checkpoint(path)  # weights, optimizer, loop; resume with trainer.fit(..., ckpt_path=path)
    state = torch.load(path, weights_only=True)["state_dict"]
print(f"validation accuracy, teacher: {teacher_accuracy:.4f}")
print(f"validation accuracy, distilled: {trainer.callback_metrics['accuracy'].item():.4f}")
extra_keys = [name for name in state if not name.startswith("distiller.student.")]
print("in addition to the student, the checkpoint contains:", ", ".join(extra_keys))
