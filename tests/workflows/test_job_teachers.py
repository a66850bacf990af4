"""A recipe sets the backend of a teacher, and names teachers that are no network; the run copes with both."""

from __future__ import annotations

import json

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.models import small_cnn
from limbeck.models.onnx_graph import export_onnx_bytes
from limbeck.recipe import load_recipe, resolve_recipe
from limbeck.teachers import ExternalTeacher
from limbeck.workflows import distill
from limbeck.workflows._job.job import Job

RECIPE = """
plugins: [of_my_own]
task: Classification
data: {use: Digits, num_labeled: 100, num_samples: 200}
teachers: {big: TEACHER}
student: {use: small_cnn, width: 4}
stages:
  - name: first
    steps: 4
    objective: {target: CrossEntropyLoss}
  - name: second
    steps: 4
    objective: {kd: {use: KDLoss, temperature: 4}}
training: {optimizer: {use: SGD, lr: 0.05}, batch_size: 32}
num_threads: 1
"""
TEACHING = "teacher_training: {steps: 4, objective: {target: CrossEntropyLoss}}"
OWN = """
from collections.abc import Callable

import torch

class Network(torch.nn.Sequential):
    def __init__(self, classes=10):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, classes))

def asking(sharpness=1.0, classes=10) -> Callable:
    return lambda images: sharpness * images.flatten(1)[:, :classes]

def odds(classes=10) -> Callable:
    return lambda images: images.flatten(1)[:, :classes].softmax(1).numpy()

def nothing() -> torch.nn.Module:
    return 5
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch, trusted_plugins):
    (tmp_path / "of_my_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def made(teacher, more=""):
        path = tmp_path / "recipe.yaml"
        path.write_text(RECIPE.replace("TEACHER", teacher) + more)
        return path

    return made


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "teacher.onnx"
    path.write_bytes(export_onnx_bytes(small_cnn(width=8).eval(), torch.zeros(2, 1, 8, 8), name="small_cnn"))
    return path


def test_the_record_names_the_backend_and_its_speedup(recipe, tmp_path, capsys):
    path = recipe("{use: small_cnn, width: 12, backend: onnxruntime}", TEACHING)
    record = distill(path, ["baselines=[]"], run_dir=tmp_path / "run", callbacks=[])
    result = record["models"]["big"]["backend"]
    assert result["backend"] == result["requested"] == "onnxruntime"
    assert result["input_shape"] == [32, 1, 8, 8]
    assert result["max_difference"]["onnxruntime"] <= 1e-4
    assert result["speedup"] == pytest.approx(
        result["latency_ms"]["eager"] / result["latency_ms"]["onnxruntime"], rel=0.01
    )
    assert f"run by onnxruntime at {result['speedup']:.1f} times" in record["models"]["big"]["title"]
    assert capsys.readouterr().out.count("big: outputs computed by onnxruntime") == 1
    assert (tmp_path / "run" / "checkpoint" / "big.safetensors").exists()


def test_a_file_teaches_a_whole_run_and_has_no_parameters_to_count_or_keep(recipe, file, tmp_path, capsys):
    record = distill(recipe(f"{{use: onnx, path: {file}}}"), ["baselines=[]"], run_dir=tmp_path / "run", callbacks=[])
    model = record["models"]["big"]
    assert [model[name] for name in ("parameters", "flops", "bytes", "steps")] == [None] * 4
    torch.manual_seed(0)
    network = small_cnn(width=8).eval()
    data = Job.from_recipe(load_recipe(recipe(f"{{use: onnx, path: {file}}}")), tmp_path / "other").data
    right = [network(batch["input"]).argmax(1) == batch["target"] for batch in data.validation_batches()]
    assert model["validation"]["metrics"]["accuracy"] == pytest.approx(float(torch.cat(right).float().mean()))
    assert model["test"]["metrics"]["accuracy"] is not None
    assert not (tmp_path / "run" / "checkpoint" / "big.safetensors").exists()
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(" big"))
    assert row.split()[-3] == "–"  # parameters, before the latency
    assert json.loads((tmp_path / "run" / "record.json").read_text())["models"]["big"]["backend"]["backend"] == "eager"


@pytest.mark.parametrize(
    "teacher",
    [
        "{use: 'of_my_own:asking', sharpness: 2}",
        "{use: from_callable, fn: {use: 'of_my_own:odds'}, output_type: probabilities, input_type: pixels}",
    ],
)
def test_a_callable_of_ones_own_is_a_teacher_that_is_not_taught(teacher, recipe, tmp_path):
    job = Job.from_recipe(load_recipe(recipe(teacher, TEACHING)), tmp_path / "run")
    network = job.build_teacher("big")
    assert isinstance(network, ExternalTeacher)
    batch = job.data.batches(batch_size=4).batch(0)
    pixels = batch["input"] * torch.tensor(job.data.normalization.std) + torch.tensor(job.data.normalization.mean)
    expected = {
        "logits": 2 * batch["input"].flatten(1)[:, :10], "probabilities": pixels.flatten(1)[:, :10].log_softmax(1),
    }[network.output_type]  # fmt: skip
    torch.testing.assert_close(network(batch["input"]), expected)
    job.validate()


def test_a_network_of_ones_own_still_needs_weights_or_teaching(recipe, tmp_path):
    job = Job.from_recipe(load_recipe(recipe("{use: 'of_my_own:Network'}")), tmp_path / "run")
    with pytest.raises(LimbeckError, match="has no weights, and there is no `teacher_training`"):
        job.validate()
    assert (
        Job.from_recipe(load_recipe(recipe("{use: 'of_my_own:Network'}", TEACHING)), tmp_path / "run")
        .build_teacher("big")[1]
        .out_features
    )


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        ("{use: 'of_my_own:nothing'}", "gave a int, not a torch.nn.Module"),
        (
            "{use: 'of_my_own:asking', weights: a.pt}",
            r"big.weights: of_my_own:asking gave no network, so leave weights",
        ),
        (
            "{use: 'of_my_own:asking', backend: fold_batchnorm}",
            r"big.backend: of_my_own:asking gave no network, so leave backend",
        ),
    ],
)
def test_what_a_function_built_is_looked_at_before_training(teacher, sentence, recipe, tmp_path):
    with pytest.raises(LimbeckError, match=sentence):
        Job.from_recipe(load_recipe(recipe(teacher, TEACHING)), tmp_path / "run").validate()


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        ("{use: onnx, path: a.onnx, weights: b.pt}", "teachers.big.weights: onnx has no weights to read"),
        ("{use: onnx, path: a.onnx, backend: auto}", "teachers.big.backend: onnx has its own runtime"),
        ("{use: onnx}", "teachers.big: onnx needs 'path', a path"),
        ("{use: inference_server, url: 'http://host'}", "teachers.big: inference_server needs 'model', text"),
        ("{use: onnx, path: a.onnx, runtime: trt}", "'trt' is not one of 'onnxruntime', 'openvino'"),
        ("{use: small_cnn, backend: fast}", "teachers.big.backend: 'fast' is not one of 'auto', 'eager'"),
        ("{use: onyx, path: a.onnx}", "no model or teacher is named 'onyx'; available: onnx"),
    ],
)
def test_a_mistake_in_a_teacher_is_one_sentence(teacher, sentence, recipe):
    with pytest.raises(LimbeckError, match=sentence):
        resolve_recipe(load_recipe(recipe(teacher, TEACHING)))


def test_a_backend_is_a_teachers_setting_only(recipe):
    with pytest.raises(LimbeckError, match="`backend` is a setting of teachers only"):
        resolve_recipe(load_recipe(recipe("{use: small_cnn}", TEACHING), ["student.backend=auto"]))


def test_features_of_a_file_cannot_be_tapped(recipe):
    settings = ["stages.1.feature_layers={student: {mid: block2}, big: {mid: block2}}"]
    with pytest.raises(LimbeckError, match=r"stages\.1\.feature_layers\.big: onnx has outputs only"):
        resolve_recipe(load_recipe(recipe("{use: onnx, path: a.onnx}"), settings))


def test_an_engine_that_cannot_be_tapped_is_refused_before_training(recipe, tmp_path):
    settings = ["stages.1.feature_layers={student: {mid: block2}, big: {mid: block2}}"]
    job = Job.from_recipe(
        load_recipe(recipe("{use: small_cnn, backend: compile}", TEACHING), settings), tmp_path / "run"
    )
    with pytest.raises(LimbeckError, match="backend must be eager, fold_batchnorm or auto to read features"):
        job.validate()
