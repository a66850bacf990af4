"""Distill custom networks on custom images in Python: train, compare with the baseline, export to ONNX.

    python examples/own_model.py [--images FOLDER] [--out DIR] [--steps N]

FOLDER has one folder per class, ``FOLDER/<class>/*.png``, or ``FOLDER/{train,val,test}/<class>/*.png``; the default is
a temporary folder with scikit-learn's digits as PNG. The same by recipe: ``own_model.yaml``.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from own_networks import Student, Teacher
from torch.optim.lr_scheduler import OneCycleLR

import limbeck
from limbeck.data import Augmentation, ImageFolder, affine
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.training import TrainingConfig


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
    training = TrainingConfig(
        optimizer="AdamW", lr=0.02, batch_size=64,
        scheduler=lambda optimizer, steps: OneCycleLR(optimizer, max_lr=0.02, total_steps=steps),
    )  # fmt: skip

    torch.manual_seed(0)
    teacher_distiller = limbeck.Distiller(Teacher(classes), objective=CrossEntropyLoss(), task=task)
    teacher = limbeck.fit(
        teacher_distiller, data, steps=steps // 2, subset="labeled", training=training, run_dir=out, phase="teacher"
    ).student
    # For a trained teacher: limbeck.models.load_weights(Teacher(classes), "teacher.safetensors")

    distiller = limbeck.Distiller(
        Student(classes),
        teacher,
        objective={"target": CrossEntropyLoss(), "kd": KDLoss(temperature=4.0), "fitnet": FitNetLoss(layer="late")},
        weights={"target": 0.1, "kd": 0.9, "fitnet": limbeck.schedules.linear(1.0, 0.0)},
        feature_layers={"student": {"late": "features"}, "teacher": {"late": "body"}},
        task=task,
    )
    # Trains the baseline too, exports the student to ONNX and opens the test split once.
    result = limbeck.distill(distiller, data, steps=steps, training=training, run_dir=out)
    for name, model in result.record["models"].items():
        metrics = model["validation"]["metrics"]
        print(f"validation, {name}: accuracy {metrics['accuracy']:.4f}, calibration error {metrics['ece']:.4f}")
    print(result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Distill custom networks on custom images.")
    parser.add_argument("--images", type=Path, help="a folder with one folder per class; default: digits")
    parser.add_argument("--out", type=Path, default=Path("runs/own_model"), help="run folder")
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps of the student")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        main(options.images or write_digits(Path(folder) / "digits"), options.out, options.steps)
