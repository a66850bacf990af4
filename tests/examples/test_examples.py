"""Every example runs as a user would run it, with fewer steps."""

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import onnxruntime
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

LOOPS = [
    pytest.param("plain_loop.py", "120", id="plain"),
    pytest.param("with_accelerate.py", "3", id="accelerate", marks=pytest.mark.skipif(
        find_spec("accelerate") is None, reason="accelerate is not installed: pip install accelerate")),
    pytest.param("with_lightning.py", "3", id="lightning", marks=pytest.mark.skipif(
        find_spec("lightning") is None, reason="lightning is not installed: pip install lightning")),
]  # fmt: skip

# Runs a script and then looks at the distiller it leaves behind, against what stood there before training.
PROBE = """
import runpy, sys
import torch
import limbeck

begun, prepare = {}, limbeck.Distiller.prepare

def noted(distiller, batch):
    prepare(distiller, batch)
    tensors = {f"term {n}": p for n, p in distiller.objective.named_parameters()}
    for name, teacher in distiller.teachers.items():
        teacher.network.zero_grad()  # what is left of its own training
        tensors |= {f"{name} {n}": t for n, t in teacher.network.state_dict().items()}
    begun.clear()
    begun.update({n: (t, t.detach().clone()) for n, t in tensors.items()})
    return distiller

limbeck.Distiller.prepare = noted
script, *sys.argv[1:] = sys.argv[1:]
distiller = runpy.run_path(script, run_name="__main__")["distiller"]

moved = {name for name, (now, then) in begun.items() if not torch.equal(now.detach().cpu(), then)}
assert moved == {n for n in begun if n.startswith("term ")} != set(), moved
teacher = distiller.teachers["teacher"].network
assert not any(m.training for m in teacher.modules())
assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
assert distiller.progress.step == distiller.progress.steps - 1
"""


def check_output(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def accuracies(text):
    lines = re.findall(r"^validation.*?, ([a-z ]+): (?:accuracy )?([01]\.\d+)", text, re.MULTILINE)
    return {name: float(value) for name, value in lines}


@pytest.mark.parametrize(("script", "length"), LOOPS)
def test_the_distiller_works_unchanged_in_any_loop(script, length, run_python):
    """Its projection learns, its teacher stays as it was and out of the checkpoint, schedules run to the end."""
    text = check_output(run_python("-c", PROBE, EXAMPLES / script, length))
    accuracy = accuracies(text)
    assert accuracy["distilled"] > accuracy.get("baseline", 0.5)
    held = re.search(r"in addition to the student, .* contains?: (.+)", text)[1].split(", ")
    assert {name.partition("objective.")[2] for name in held} == {
        "trainable.fitnet.projection.layer.weight", "trainable.fitnet.projection.layer.bias",
    }  # fmt: skip


@pytest.fixture(scope="module")
def image_dir(tmp_path_factory):
    sys.path.insert(0, str(EXAMPLES))
    try:
        from own_model import write_digits
    finally:
        sys.path.remove(str(EXAMPLES))
    return write_digits(tmp_path_factory.mktemp("images"))


def test_own_networks_and_images_in_python(tmp_path, run_python):
    text = check_output(run_python(EXAMPLES / "own_model.py", "--out", tmp_path / "run", "--steps", "240"))
    accuracy = accuracies(text)
    assert accuracy["distilled"] > accuracy["baseline"]
    session = onnxruntime.InferenceSession(tmp_path / "run" / "student.onnx")
    assert session.get_inputs()[0].shape[1:] == [1, 8, 8]
    assert {"metrics.csv", "checkpoint", "student.onnx", "report.html"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }


def test_own_networks_and_images_by_recipe(tmp_path, image_dir, run_python):
    done = run_python(
        "distill", EXAMPLES / "own_model.yaml", "--trust", "--data-root", image_dir, "--out", tmp_path / "run",
        "teacher_training.steps=10", "stages.0.steps=20", first=f"sys.path.insert(0, {str(EXAMPLES)!r})",
    )  # fmt: skip
    check_output(done)
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["models"]["teacher"]["title"] == "Teacher teacher: own_networks:Teacher(width=32)"
    assert [model["steps"] for model in record["models"].values()] == [10, 20, 20]
    assert record["data"]["classes"] == list("0123456789")
    assert record["export"]["onnx"]["label_agreement"] == 1.0


def test_without_its_folder_on_the_path_the_recipe_says_what_to_do(tmp_path, image_dir, run_python):
    done = run_python("distill", EXAMPLES / "own_model.yaml", "--data-root", image_dir, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert "put its folder on PYTHONPATH" in done.stderr
    assert not (tmp_path / "run").exists()
