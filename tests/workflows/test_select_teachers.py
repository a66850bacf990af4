"""Choosing teachers end to end on digits: what is written, what is kept, and that the test part stays shut."""

import importlib
import json
import linecache
import math
import shutil
import signal
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image

import limbeck
from limbeck.cli import main
from limbeck.models import load_weights, save_weights, small_cnn
from limbeck.models.weights import read_metadata
from limbeck.recipe import load_recipe
from limbeck.training.callbacks import Callback
from limbeck.workflows import distill, select_teachers

RECIPE = """
name: tiny
task: Classification
data: {use: Digits, num_labeled: 200, num_samples: 200}
teachers:
  big: {use: small_cnn, width: 16}
  flat: {use: mlp, hidden: [64]}
student: {use: small_cnn, width: 2}
teacher_training: {steps: 60, objective: {target: CrossEntropyLoss}}
stages:
  - {name: only, steps: 12, objective: {kd: {use: KDLoss, temperature: 4}}}
training: {optimizer: {use: AdamW, lr: 0.02}, batch_size: 32}
num_threads: 1
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the recipe, where commands run."""
    path = tmp_path_factory.mktemp("choosing")
    (path / "tiny.yaml").write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def selection(home):
    return select_teachers(home / "tiny.yaml", output_dir=home / "chosen", callbacks=[])


@pytest.fixture(scope="module")
def run(home):
    """The whole main job of the same recipe, in a folder that no command finds by itself."""
    distill(home / "tiny.yaml", run_dir=home / "run", callbacks=[])
    return home / "run"


@pytest.fixture
def here(home, selection, tmp_path, monkeypatch):
    """A copy of it all, with another call's networks in it."""
    shutil.copytree(home, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def trained_names(folder):
    return sorted(path.name.rpartition("-")[0] for path in (folder / "trained").iterdir())


def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def test_the_file_holds_the_selection(home, selection):
    written = json.loads((home / "chosen" / "teacher_selection.json").read_text())
    assert written == json.loads(json.dumps(selection))
    assert finite(written)
    assert (written["kind"], written["schema"]) == ("teacher_selection", 3)
    assert list(written["candidates"]) == ["big", "flat"]
    assert (home / "chosen" / "teacher_selection.svg").exists()
    assert not list((home / "chosen").rglob("*.partial"))


def test_the_test_split_is_not_read(home, selection):
    assert selection["test_set"] == {"num_reads": 0}
    assert not list((home / "chosen").rglob("test_access.json"))
    assert "test" not in selection["candidates"]["big"]


def test_metrics_are_those_of_the_saved_networks_on_the_validation_split(home, selection):
    data = limbeck.data.Digits(num_labeled=200, num_samples=200).load(seed=0)
    network = load_weights(small_cnn(width=16), selection["candidates"]["big"]["weights"]).eval()
    pixels, target = data.validation.read(torch.arange(len(data.validation))), data.validation.target
    with torch.no_grad():
        logits = network(data.normalization.apply(pixels))
    big, baseline = selection["candidates"]["big"], selection["baseline"]
    assert big["validation"]["metrics"]["accuracy"] == pytest.approx(
        float((logits.argmax(1) == target).double().mean())
    )
    assert big["margin"] == pytest.approx(
        100 * (big["validation"]["metrics"]["accuracy"] - baseline["validation"]["metrics"]["accuracy"])
    )
    assert big["margin_interval"][0] <= big["margin"] <= big["margin_interval"][1]
    assert (big["family"], big["feature_layer"]) == ("small_cnn", "fc:input")
    assert selection["candidates"]["flat"]["family"] == "mlp"
    assert big["peak_memory"] > 4 * big["parameters"]


def test_the_selection_keeps_the_budget_and_gives_reasons(selection):
    chosen = selection["selection"]["selected"]
    assert chosen
    assert all(selection["candidates"][name]["is_selected"] for name in chosen)
    assert selection["rules"]["latency_budget"] == pytest.approx(30 * selection["baseline"]["latency_ms"]["median"])
    assert selection["selection"]["steps"][-1]["latency_ms"] <= selection["rules"]["latency_budget"]
    assert selection["candidates"][chosen[0]]["reason"].startswith("selected first")
    assert [pair["cka_input"] for pair in selection["pairs"]] == ["features"]


def test_the_baseline_is_that_of_distill(here, selection, run):
    record = json.loads((run / "record.json").read_text())
    assert record["models"]["baseline"]["validation"] == selection["baseline"]["validation"]
    assert record["models"]["baseline"]["steps"] == selection["baseline"]["steps"] == 12
    assert record["models"]["big"]["validation"] == selection["candidates"]["big"]["validation"]
    assert [text for text in record["warnings"] if "times the parameters" in text] == [
        text for text in selection["warnings"] if "times the parameters" in text
    ]
    taken = select_teachers(here / "tiny.yaml", output_dir=str(here / "other"), baseline_run=str(run), callbacks=[])
    assert taken["baseline"]["validation"] == selection["baseline"]["validation"]
    assert taken["baseline"]["source"] == str(run)
    assert taken["candidates"]["big"]["margin_interval"] is None
    assert {path.name.split("-")[0] for path in (here / "other" / "trained").iterdir()} == {"big", "flat"}


def test_distill_prints_what_its_record_holds(here, run, capsys):
    record = json.loads((run / "record.json").read_text())
    assert record["warnings"]
    assert main(["distill", "tiny.yaml", "--out", str(run), "--resume"]) == 0
    printed = capsys.readouterr().out
    assert all(f"warning: {text}\n" in printed for text in record["warnings"])


def test_networks_of_a_finished_run_are_reused(here, run):
    shutil.copytree(run, here / "runs" / "tiny")
    selection = select_teachers(here / "tiny.yaml", output_dir=here / "other", callbacks=[])
    assert selection["baseline"]["source"] == "runs/tiny"
    assert selection["candidates"]["big"]["weights"] == "runs/tiny/checkpoint/big.safetensors"
    assert not list((here / "other" / "trained").iterdir())


def test_a_later_call_trains_only_what_is_new(here, selection):
    before = {path: path.stat().st_mtime_ns for path in (here / "chosen" / "trained").rglob("*.safetensors")}
    again = select_teachers(here / "tiny.yaml", ["teachers.flat.hidden=[32]"], output_dir=here / "chosen", callbacks=[])
    after = {path: path.stat().st_mtime_ns for path in (here / "chosen" / "trained").rglob("*.safetensors")}
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()
    assert again["candidates"]["big"]["validation"] == selection["candidates"]["big"]["validation"]
    assert again["baseline"]["validation"] == selection["baseline"]["validation"]


def test_a_stopped_selection_is_continued_by_the_same_command(here, selection, capsys):
    class Stops(Callback):
        sent = False

        def on_step_end(self, step, metrics):
            if not self.sent:  # a second signal kills, and slow steps are reported several times before they stop
                self.sent = True
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(limbeck.LimbeckError, match="the same command goes on") as stopped:
        select_teachers(here / "tiny.yaml", output_dir=here / "stopped", callbacks=[Stops()])
    assert stopped.value.signal == signal.SIGTERM
    again = select_teachers(here / "tiny.yaml", output_dir=here / "stopped", callbacks=[])
    assert again["candidates"]["big"]["validation"] == selection["candidates"]["big"]["validation"]


def test_weights_of_a_recipe_are_not_trained(here, selection):
    weights = selection["candidates"]["big"]["weights"]
    again = select_teachers(
        here / "tiny.yaml", [f"teachers.big.weights={weights}"], output_dir=here / "chosen", callbacks=[]
    )
    assert again["candidates"]["big"]["steps"] is None
    assert again["candidates"]["big"]["validation"] == selection["candidates"]["big"]["validation"]


def test_the_command_prints_reasons_and_keeps_the_budget(here, capsys):
    assert main(["select-teachers", "tiny.yaml", "--out", "chosen", "--latency-budget", "1e-6"]) == 0
    output = capsys.readouterr().out
    assert output.count("too slow") >= 2
    assert "Selected: none of them" in output
    assert main(["select-teachers", "tiny.yaml", "--out", "chosen", "--margin", "100"]) == 0
    assert "too close to the baseline" in capsys.readouterr().out


def test_a_class_may_be_missing_in_the_validation_split(tmp_path):
    random = np.random.default_rng(0)
    for part, classes in (("train", "abc"), ("val", "ab"), ("test", "abc")):
        for name in classes:
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(8):
                pixels = (random.random((8, 8)) * 60 + 60 * "abc".index(name)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / part / name / f"{i}.png")
    recipe = load_recipe(RECIPE, [f"data={{use: ImageFolder, root: '{tmp_path / 'data'}', channels: 1}}"])
    selection = select_teachers(recipe, output_dir=tmp_path / "out", callbacks=[])
    assert selection["candidates"]["big"]["validation"]["per_class"][2]["value"] is None
    assert selection["candidates"]["big"]["validation"]["num_samples"] == 16
    assert finite(selection)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["teachers={}"], "no teachers to choose among"),
        (["teachers.flat.classes=7"], "teachers.flat: logits of MLP must be"),
        (["teachers.flat.weights=nowhere"], "nowhere"),
        (["--latency-budget", "0"], "latency_budget must be above 0"),
        (["--margin", "-1"], "min_margin must be at least 0"),
        (["--out", "full"], "holds something else"),
        (["--baseline-run", "full"], "no finished run"),
    ],
)
def test_invalid_input_is_one_error_and_writes_nothing(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert main(["select-teachers", "tiny.yaml", *arguments]) == 2
    output = capsys.readouterr().err
    assert message in output
    assert len([line for line in output.strip().splitlines() if line.startswith("limbeck:")]) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "full"}
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_a_run_of_another_student_or_of_other_data_is_no_baseline(here, run):
    record = json.loads((run / "record.json").read_text())
    del record["models"]["baseline"]
    for change, message in (("student.width=3", "the recipe's is"), ("seed=1", "another split")):
        with pytest.raises(limbeck.LimbeckError, match=message):
            select_teachers(here / "tiny.yaml", [change], output_dir=here / "chosen", baseline_run=run, callbacks=[])
    shutil.copytree(run, here / "without")
    (here / "without" / "record.json").write_text(json.dumps(record))
    with pytest.raises(limbeck.LimbeckError, match="no baseline"):
        select_teachers(here / "tiny.yaml", output_dir=here / "chosen", baseline_run=here / "without", callbacks=[])


def test_a_network_whose_code_was_edited_is_trained_again(tmp_path, monkeypatch, trusted_plugins):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = (
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, *, classes, width=8):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))\n"
        "    def forward(self, x):\n"
        "        return SIGN super().forward(x)\n"
    )
    text = RECIPE.replace("flat: {use: mlp, hidden: [64]}", 'edited: {use: "edited_nets:Net"}')
    (tmp_path / "tiny.yaml").write_text(f"plugins: [edited_nets]\n{text.replace('steps: 60', 'steps: 20')}")
    trained = []
    for sign in ("+", "+", "-"):
        (tmp_path / "edited_nets.py").write_text(source.replace("SIGN", sign))
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, "edited_nets", raising=False)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        linecache.clearcache()
        select_teachers(tmp_path / "tiny.yaml", output_dir=tmp_path / "chosen", callbacks=[])
        trained.append(trained_names(tmp_path / "chosen"))
    once = ["baseline", "big", "edited"]
    assert trained == [once, once, [*once, "edited"]]


def test_networks_of_a_run_with_other_code_are_not_reused(here, run):
    shutil.copytree(run, here / "runs" / "tiny")
    file = here / "runs" / "tiny" / "checkpoint" / "big.safetensors"
    metadata = read_metadata(file)
    assert set(metadata) >= {"initial", "signature"}
    save_weights(load_weights(small_cnn(classes=10, channels=1, width=16), file), file, metadata={"initial": "another"})
    select_teachers(here / "tiny.yaml", output_dir=here / "other", callbacks=[])
    assert trained_names(here / "other") == ["big"]


def write_linear_onnx(path):
    nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    ports = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("input", ["batch", 1, 8, 8]), ("logits", ["batch", 10]))
    ]
    weight = onnx.numpy_helper.from_array(np.eye(64, 10, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "linear", ports[:1], ports[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))


def test_callables_and_onnx_files_are_candidates_without_training(tmp_path, monkeypatch, capsys, trusted_plugins):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "callable_nets.py").write_text(
        "import torch\n"
        "from collections.abc import Callable\n"
        "def build(classes) -> Callable:\n"
        "    w = torch.eye(64)[:, :classes]\n"
        "    return lambda x: x.flatten(1) @ w\n"
    )
    write_linear_onnx(tmp_path / "teacher.onnx")
    teachers = 'fn: {use: "callable_nets:build"}\n  file: {use: onnx, path: teacher.onnx}'
    text = RECIPE.replace("flat: {use: mlp, hidden: [64]}", teachers)
    (tmp_path / "tiny.yaml").write_text(f"plugins: [callable_nets]\n{text.replace('steps: 60', 'steps: 5')}")
    result = select_teachers(tmp_path / "tiny.yaml", output_dir=tmp_path / "chosen", callbacks=[])
    assert trained_names(tmp_path / "chosen") == ["baseline", "big"]
    candidate = result["candidates"]["fn"]
    assert (candidate["weights"], candidate["parameters"], candidate["steps"]) == ("callable_nets:build", 0, None)
    assert result["candidates"]["file"]["weights"] == "onnx"
    assert main(["select-teachers", "tiny.yaml", "teachers.file.path=none.onnx", "--out", "other"]) == 2
    assert capsys.readouterr().err.startswith("limbeck: teachers.file: onnx: no ONNX file none.onnx")
