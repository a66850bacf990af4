"""The recipes that come along: the full-scale ones run their first steps on a few pictures."""

import numpy as np
import pytest
from PIL import Image

from limbeck.programs import distill


@pytest.fixture
def few_pictures(tmp_path):
    """A folder of pictures in the layout of CIFAR-100 as a folder: 100 classes, a few 32×32 pictures each."""
    draw = np.random.default_rng(0)
    # The teacher takes 7 GFLOPs a picture: 100 classes to train on, and a test part of ten pictures.
    for part, labels, many in (("train", 100, 2), ("test", 10, 1)):
        for label in range(labels):
            folder = tmp_path / "cifar100" / part / f"class{label:02d}"
            folder.mkdir(parents=True)
            for number in range(many):
                Image.fromarray(draw.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "cifar100"


def test_the_full_scale_recipe_runs_its_first_twenty_steps(few_pictures, tmp_path):
    settings = [
        f"data.root={few_pictures}", "data.validation=0.05", "training.optimizer.lr=0.001",
        "teaching={steps: 1, objective: {truth: CrossEntropy}}",
        "stages.0.epochs=null", "stages.0.steps=20", "training.batch=2", "training.precision=32-true",
        "training.workers=0", "control=none", "export.to=[]",
    ]  # fmt: skip
    record = distill("cifar100_resnet152_resnet18", settings, out=tmp_path / "run", watchers=[])
    assert record["models"]["distilled"]["steps"] == 20
    assert record["models"]["teacher"]["parameters"] == pytest.approx(58.3e6, rel=0.01)
    assert record["models"]["distilled"]["parameters"] == pytest.approx(11.2e6, rel=0.01)


@pytest.mark.parametrize("settings", [["data.take=600"]])
def test_fashion_mnist_runs_from_the_debian_package_or_a_data_root(tmp_path, settings):
    from limbeck.core.errors import LimbeckError
    from limbeck.data import FashionMNIST

    try:
        FashionMNIST(root="/usr/share/datasets").load()
    except LimbeckError:
        pytest.skip("Fashion-MNIST is not here: apt install dataset-fashion-mnist")
    short = ["teaching.steps=3", "stages.0.steps=3", "export.to=[]", "control=none", "threads=1"]
    short += ["teachers.teacher.width=8", "student.hidden=[8]"]
    record = distill("fashion_mnist", [*settings, *short], out=tmp_path / "run", watchers=[])
    assert record["data"]["train"] == 600
