"""Distill custom networks on custom images in Python: train, evaluate on validation, export to ONNX.

    python examples/own_model.py [--images FOLDER] [--out DIR] [--steps N]

FOLDER has one folder per class, ``FOLDER/<class>/*.png``, or ``FOLDER/{train,val,test}/<class>/*.png``; the default is
a temporary folder with scikit-learn's digits as PNG. The same by recipe: ``own_model.yaml``.
"""

import argparse
import copy
import tempfile
from functools import partial
from pathlib import Path

import torch
from own_networks import Student, Teacher
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import limbeck
from limbeck.data import Augmentation, ImageFolder, affine
from limbeck.evaluation import classification_metrics, collect_logits
from limbeck.export import to_onnx
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.training import TrainingConfig


class Deployed(nn.Module):
    """The deployed student: takes pixels in 0..1 and normalizes them."""

    def __init__(self, network, normalization):
        super().__init__()
        self.network, self.normalization = network, normalization

    def forward(self, pixels):
        return self.network(self.normalization.apply(pixels))


def write_digits(root):
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for index, (pixels, label) in enumerate(zip(bunch.images, bunch.target, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).round().astype("uint8")).save(folder / f"{index}.png")
    return root


def main(image_dir, out, steps):
    torch.set_num_threads(1)  # more threads are slower for networks this small
    augment = Augmentation((affine(degrees=10, translate=0.06),))
    # num_labeled=200 hides the other labels; KD uses all images. Omit it for your data.
    data = ImageFolder(
        root=str(image_dir), size=8, channels=1, num_labeled=200, normalize="data", augment=augment
    ).load(seed=0)
    classes = len(data.class_names)
    task = limbeck.tasks.Classification(classes=classes)
    target = {"target": CrossEntropyLoss()}
    training = TrainingConfig(
        optimizer=partial(torch.optim.AdamW, lr=0.02),
        scheduler=lambda optimizer, steps: OneCycleLR(optimizer, max_lr=0.02, total_steps=steps),
        batch_size=64,
    )

    def fit(distiller, phase, **settings):
        run = limbeck.fit(distiller, data, training=training, run_dir=out, phase=phase, steps_per_epoch=50, **settings)
        return run.student

    torch.manual_seed(0)
    teacher_distiller = limbeck.Distiller(Teacher(classes), objective=target, task=task)
    teacher = fit(teacher_distiller, "teacher", steps=steps // 2, subset="labeled")
    # For a trained teacher: limbeck.models.load_weights(Teacher(classes), "teacher.safetensors")

    student = Student(classes)
    baseline = limbeck.Distiller(copy.deepcopy(student), objective=target, task=task)
    distiller = limbeck.Distiller(
        student,
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
        metrics = classification_metrics(
            *collect_logits(network, data.validation_batches(), task), class_names=data.class_names
        )
        print(f"validation, {name}: accuracy {metrics['accuracy']:.4f}, calibration error {metrics['ece']:.4f}")

    pixels = data.validation.read(torch.arange(len(data.validation)))
    student = Deployed(networks["distilled"], data.normalization)
    report = to_onnx(student, pixels[:1], out / "student.onnx", check_inputs=pixels)
    print(f"{out / report['file']}: same labels as torch on {report['label_agreement']:.0%} of the images")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Distill custom networks on custom images.")
    parser.add_argument("--images", type=Path, help="a folder with one folder per class; default: digits")
    parser.add_argument("--out", type=Path, default=Path("runs/own_model"), help="run folder")
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps of the student")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        main(options.images or write_digits(Path(folder) / "digits"), options.out, options.steps)
