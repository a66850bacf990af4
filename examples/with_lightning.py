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
torch.set_num_threads(1)  # networks this small lose more time to handing work over than they win
L.seed_everything(0, verbose=False)

bunch = load_digits()
pictures = TensorDataset(torch.tensor(bunch.images).float().unsqueeze(1) / 16, torch.tensor(bunch.target))
train, validation = torch.utils.data.random_split(pictures, [1400, len(pictures) - 1400])
task = limbeck.tasks.Classification(classes=10)


class Distillation(L.LightningModule):
    """The distiller, and what Lightning asks of it."""

    def __init__(self, distiller):
        super().__init__()
        self.distiller = distiller

    def training_step(self, batch):
        steps = int(self.trainer.estimated_stepping_batches)
        self.distiller.progress = limbeck.Progress(self.global_step, steps, self.current_epoch, EPOCHS)
        loss = self.distiller(batch)
        self.log_dict({f"loss/{name}": part for name, part in loss.by_loss.items()})
        return loss.total

    def validation_step(self, batch):
        inputs, target = batch
        right = self.distiller.student(inputs).argmax(dim=1) == target
        self.log("accuracy", right.float().mean())

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


teaching = limbeck.Distiller(small_cnn(width=32), objective={"target": CrossEntropyLoss()}, task=task)
taught = fit(teaching).callback_metrics["accuracy"].item()
distiller = limbeck.Distiller(
    small_cnn(width=8),
    teaching.student,
    objective={"target": CrossEntropyLoss(), "kd": KDLoss(temperature=4.0), "fitnet": FitNetLoss(layer="mid")},
    weights={"target": 0.1, "kd": 0.9, "fitnet": limbeck.schedules.linear(1.0, 0.0)},
    feature_layers={"student": {"mid": "block2"}, "teacher": {"mid": "block2"}},
    task=task,
)
trainer = fit(distiller)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "last.ckpt"
    trainer.save_checkpoint(path)  # weights, optimizer, loop; trainer.fit(..., ckpt_path=path) goes on from it
    held = torch.load(path, weights_only=True)["state_dict"]
print(f"validation accuracy, teacher: {taught:.4f}")
print(f"validation accuracy, distilled: {trainer.callback_metrics['accuracy'].item():.4f}")
learned = [name for name in held if not name.startswith("distiller.student.")]
print("beside the student's weights, the checkpoint holds:", ", ".join(learned))
