"""Your own networks and your own pictures, in Python: train, choose on validation, export to ONNX.

    python examples/own_model.py [--pictures FOLDER] [--out DIR] [--steps N]

FOLDER holds one folder a class, ``FOLDER/<class>/*.png``, or ``FOLDER/{train,val,test}/<class>/*.png``. Without it,
scikit-learn's digits are written into a temporary one, as PNG. The same by recipe: ``own_model.yaml``.
"""

import argparse
import copy
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import limbeck
from limbeck.data import Augmentation, ImageFolder, affine
from limbeck.evaluation import classification_metrics, collect_logits
from limbeck.export import to_onnx
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.training import TrainingConfig


class Teacher(nn.Module):
    """Two convolutions and the mean over the picture."""

    def __init__(self, classes, channels=1, width=32):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, pictures):
        maps = nn.functional.max_pool2d(self.stem(pictures), 2)
        return self.head(self.body(maps).mean(dim=(2, 3)))


class Student(nn.Module):
    """The same idea, narrower and at half the size."""

    def __init__(self, classes, channels=1, width=12):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        )  # fmt: skip
        self.classify = nn.Linear(width, classes)

    def forward(self, pictures):
        return self.classify(self.features(pictures).mean(dim=(2, 3)))


class Deployed(nn.Module):
    """The student as it is handed over: takes pixels in 0..1 and normalises them itself."""

    def __init__(self, network, normalization):
        super().__init__()
        self.network, self.normalization = network, normalization

    def forward(self, pixels):
        return self.network(self.normalization.apply(pixels))


def write_digits(root):
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for number, (picture, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((picture * 255 / 16).round().astype("uint8")).save(folder / f"{number}.png")
    return root


def main(pictures, out, steps):
    torch.set_num_threads(1)  # networks this small lose more time to handing work over than they win
    views = Augmentation((affine(degrees=10, translate=0.06),))
    # With num_labeled=200, only so many keep their label, and the teacher speaks about all. Leave it out for your own.
    data = ImageFolder(root=str(pictures), size=8, channels=1, num_labeled=200, normalize="data", augment=views).load(
        seed=0
    )
    classes = len(data.class_names)
    task = limbeck.tasks.Classification(classes=classes)
    target = {"target": CrossEntropyLoss()}
    training = TrainingConfig(
        optimizer=partial(torch.optim.AdamW, lr=0.02),
        scheduler=lambda optimizer, steps: OneCycleLR(optimizer, max_lr=0.02, total_steps=steps),
        batch_size=64,
    )

    def fit(distiller, phase, **how):
        run = limbeck.fit(distiller, data, training=training, run_dir=out, phase=phase, steps_per_epoch=50, **how)
        return run.student

    torch.manual_seed(0)
    teaching = limbeck.Distiller(Teacher(classes), objective=target, task=task)
    teacher = fit(teaching, "teacher", steps=steps // 2, subset="labeled")
    # A teacher that is trained already: limbeck.models.load_weights(Teacher(classes), "teacher.safetensors")

    start = Student(classes)
    baseline = limbeck.Distiller(copy.deepcopy(start), objective=target, task=task)
    distiller = limbeck.Distiller(
        start,
        teacher,
        objective={**target, "kd": KDLoss(temperature=4.0), "fitnet": FitNetLoss(layer="late")},
        weights={"target": 0.1, "kd": 0.9, "fitnet": limbeck.schedules.linear(1.0, 0.0)},
        feature_layers={"student": {"late": "features"}, "teacher": {"late": "body"}},
        task=task,
    )
    networks = {
        "teacher": teacher,
        "baseline": fit(baseline, "baseline", steps=steps, subset="labeled"),
        "distilled": fit(distiller, "distilled", steps=steps),
    }
    for name, network in networks.items():
        found = classification_metrics(
            *collect_logits(network, data.validation_batches(), task), class_names=data.class_names
        )
        print(f"validation, {name}: accuracy {found['accuracy']:.4f}, calibration error {found['ece']:.4f}")

    pixels = data.validation.read(torch.arange(len(data.validation)))
    student = Deployed(networks["distilled"], data.normalization)
    written = to_onnx(student, pixels[:1], out / "student.onnx", check_inputs=pixels)
    print(f"{out / written['file']}: the same labels as torch on {written['label_agreement']:.0%} of the pictures")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Distil your own networks on your own pictures.")
    parser.add_argument("--pictures", type=Path, help="a folder with one folder a class; without it: digits")
    parser.add_argument("--out", type=Path, default=Path("runs/own_model"), help="the run folder")
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps of the student")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        main(given.pictures or write_digits(Path(folder) / "digits"), given.out, given.steps)
