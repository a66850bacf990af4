"""The recipes that come along: the full-scale ones run their first steps on a few pictures."""

import numpy as np
import pytest
from PIL import Image

from limbeck.programs import distill, study


@pytest.fixture
def few_pictures(tmp_path):
    """A folder of pictures in the layout of CIFAR-100 as a folder: 100 classes, a few 32×32 pictures each."""
    # The teacher takes 7 GFLOPs a picture: 100 classes to train on, and a test part of ten pictures.
    return drawn(tmp_path / "cifar100", (("train", 100, 2), ("test", 10, 1)))


def drawn(root, parts):
    draw = np.random.default_rng(0)
    for part, labels, many in parts:
        for label in range(labels):
            folder = root / part / f"class{label:02d}"
            folder.mkdir(parents=True)
            for number in range(many):
                Image.fromarray(draw.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    return root


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


def test_the_chain_runs_its_first_steps(tmp_path):
    root = drawn(tmp_path / "cifar10", (("train", 10, 4), ("test", 10, 1)))
    settings = [
        f"data.root={root}", "teaching={steps: 2, objective: {truth: CrossEntropy}}", "stages.0.epochs=null",
        "stages.0.steps=3", "training.batch=4", "training.precision=32-true", "training.workers=0", "export.to=[]",
        "threads=1",
    ]  # fmt: skip
    record = distill("cifar10_chain", settings, out=tmp_path / "run", watchers=[])
    assert [(name, model["steps"]) for name, model in record["models"].items()] == [
        ("teacher", 2), ("mid", 3), ("alone", 3), ("direct", 3), ("distilled", 3),
    ]  # fmt: skip
    assert record["models"]["mid"]["parameters"] == pytest.approx(0.46e6, rel=0.02)


def test_the_cached_recipe_asks_its_teacher_once_about_each_view(tmp_path):
    root = drawn(tmp_path / "cifar10", (("train", 10, 4), ("test", 10, 1)))
    settings = [
        f"data.root={root}", f"cache.root={tmp_path / 'answers'}", "teaching.epochs=1",
        "stages.0.epochs=6", "training.optimizer.lr=0.001",
        "training.batch=4", "training.precision=32-true", "training.workers=0", "export.to=[]", "threads=1",
        "control=none",
    ]  # fmt: skip
    kept = distill("cifar10_cached", settings, out=tmp_path / "run", watchers=[])["cache"]["teacher"]
    assert (kept["asked"], kept["read"], kept["complete"]) == (36 * 4, 36 * 2, True)


def test_two_stages_run_their_first_steps_with_a_frozen_block(tmp_path):
    short = ["teaching.steps=3", "stages.0.steps=3", "stages.1.steps=4", "stages.1.frozen=[block1]", "export.to=[]"]
    record = distill("digits_two_stages", [*short, "control=none"], out=tmp_path / "run", watchers=[])
    assert record["models"]["distilled"]["steps"] == 7


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


def test_the_study_of_tiny_imagenet_trains_every_arm(tmp_path):
    root = drawn(tmp_path / "tiny", (("train", 4, 10), ("val", 4, 1)))
    settings = [
        f"data.root={root}", "data.only=null", f"cache.root={tmp_path / 'answers'}", "teaching.epochs=1",
        "stages.0.epochs=2", "training.optimizer.lr=0.001", "training.batch=8", "training.scheduler=null",
        "teaching.training={}", "teachers.teacher.engine=eager", "teachers.teacher.depth=10",
        "teachers.teacher.width=1", "data.validation=0.2",
    ]  # fmt: skip
    found = study("tinyimagenet_first", settings, seeds=1, out=tmp_path / "study", watchers=[])
    arms = ["teacher", "alone", "longer", "smoothed", "distilled"]
    assert list(found["results"]["arms"]) == arms
