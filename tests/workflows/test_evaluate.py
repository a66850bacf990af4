"""``limbeck evaluate`` with checks, on a run of a few steps: all networks, one file, one table."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.data import from_tensors
from limbeck.evaluation import classification_metrics, collect_logits
from limbeck.models import load_weights, small_cnn
from limbeck.recipe import load_recipe
from limbeck.tasks import Classification
from limbeck.workflows import distill
from limbeck.workflows._job.job import Job
from limbeck.workflows.evaluate.compared_networks import LogitsModel
from limbeck.workflows.evaluate.efficiency import measure_efficiency
from limbeck.workflows.evaluate.robustness import (
    RobustnessConfig,
    evaluate_robustness,
    evaluate_side_by_side,
)

RECIPE = """
name: looked
task: Classification
data: {use: Digits, num_labeled: 200, num_samples: 400}
teachers: {big: {use: small_cnn, width: 12}}
student: {use: small_cnn, width: 4}
teacher_training: {steps: 60, objective: {target: CrossEntropyLoss}}
stages: [{name: only, steps: 40, objective: {kd: {use: KDLoss, temperature: 4}}}]
training: {optimizer: {use: AdamW, lr: 0.02}, batch_size: 64}
num_threads: 1
export: {to: []}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = tmp_path_factory.mktemp("looked")
    (home / "looked.yaml").write_text(RECIPE)
    distill(home / "looked.yaml", run_dir=home / "run", callbacks=[])
    return home / "run"


@pytest.fixture(scope="module")
def job(run):
    return Job.from_recipe(load_recipe(run / "recipe.yaml"), run)


@pytest.fixture(scope="module")
def student(run, job):
    return load_weights(job.build_student(), run).eval()


def evaluation(run):
    return json.loads((run / "evaluation.json").read_text())


def digits(folder, job, *, change=lambda pixels: pixels, ending="png", many=60):
    part = job.data.validation.subset(torch.arange(many))
    for i, pixels in enumerate(part.read(torch.arange(many))):
        home = folder / job.data.class_names[part.target[i]]
        home.mkdir(parents=True, exist_ok=True)
        levels = (change(pixels).clamp(0, 1) * 255).round().byte().numpy()[0]
        Image.fromarray(levels).save(home / f"{i:04}.{ending}")
    return folder


def test_the_weights_of_the_baselines_are_kept(run, job):
    baseline = load_weights(job.build_student(), run / "checkpoint" / "baseline.safetensors").eval()
    result = classification_metrics(
        *collect_logits(baseline, job.data.validation_batches(), job.task), class_names=job.data.class_names
    )
    record = json.loads((run / "record.json").read_text())
    assert result["accuracy"] == record["models"]["baseline"]["validation"]["metrics"]["accuracy"]


def test_all_networks_are_listed_with_intervals(run, capsys):
    assert (
        main(
            [
                "evaluate",
                str(run),
                "--attacks",
                "fgsm,pgd",
                "--noise",
                "--calibration",
                "--num-samples",
                "120",
                "--eps",
                "4/255",
            ]
        )
        == 0
    )
    shown, result = capsys.readouterr().out, evaluation(run)
    assert list(result["models"]) == ["big", "baseline", "distilled"]
    assert (result["schema"], result["kind"], result["split"]) == (3, "evaluation", "validation")
    assert {"machine", "versions", "config", "data", "seed"} <= result.keys()
    for model in result["models"].values():
        assert model["num_samples"] == model["attacks"]["num_samples"] == 120
        assert model["attacks"]["eps"] == 4 / 255
        assert model["attacks"]["worst_case"] <= min(model["attacks"]["fgsm"], model["attacks"]["pgd"])
        assert model["attacks"]["pgd"] <= model["clean"]
    lines = {one["metric"]: one for one in result["differences"]}
    assert {
        "clean",
        "fgsm",
        "pgd",
        "worst_case",
        "noise 0.02",
        "noise 0.3",
        "ece before",
        "nll after",
    } <= lines.keys()
    gap = result["models"]["distilled"]["clean"] - result["models"]["baseline"]["clean"]
    assert lines["clean"]["difference"] == pytest.approx(100 * gap)
    assert all(one["low"] <= one["difference"] <= one["high"] for one in lines.values())
    assert "ε = 4/255" in shown
    assert "distilled − baseline, 95 %" in shown
    assert max(map(len, shown.splitlines())) <= 120
    assert not list(run.rglob("*.partial"))


def test_the_same_call_gives_the_same_figures(run):
    words = ["evaluate", str(run), "--attacks", "pgd", "--corruptions", "--ood", "--num-samples", "20"]
    assert main(words) == 0
    first = evaluation(run)
    assert main(words) == 0
    again = evaluation(run)
    assert first["models"] == again["models"]
    assert first["differences"] == again["differences"]
    assert len(first["models"]["distilled"]["corruptions"]["by_corruption"]) == 15
    note = first["models"]["distilled"]["corruptions"]["note"]
    assert "procedural" in note
    assert "weigh more on 8×8" in note


def test_without_a_flag_it_does_what_it_did(run, capsys):
    (run / "evaluation.json").unlink(missing_ok=True)
    assert main(["evaluate", str(run)]) == 0
    assert "the same" in capsys.readouterr().out
    assert not (run / "evaluation.json").exists()


def test_the_test_set_stays_closed(run, capsys):
    assert main(["evaluate", str(run), "--split", "test", "--noise"]) == 2
    assert "already read" in capsys.readouterr().err


def test_twins_are_matched_by_name_and_flips_counted(run, job, tmp_path, capsys):
    before = digits(tmp_path / "png", job)
    after = digits(tmp_path / "jpg", job, change=lambda pixels: 1 - pixels, ending="jpg")
    (after / "0" / "9999.jpg").write_bytes(next((after / "0").iterdir()).read_bytes())  # without a twin
    assert main(["evaluate", str(run), "--shifted-dir", str(after), "--reference-dir", str(before)]) == 0
    result = evaluation(run)["models"]["distilled"]["shift"]
    assert result["num_samples"] == 60
    assert result["is_paired"]
    assert result["flip_rate"] > 0.3
    assert result["shifted_accuracy"] < result["reference_accuracy"]
    assert result["difference"] == pytest.approx(100 * (result["shifted_accuracy"] - result["reference_accuracy"]))
    assert main(["evaluate", str(run), "--shifted-dir", str(before), "--reference-dir", str(before)]) == 0
    assert evaluation(run)["models"]["distilled"]["shift"]["flip_rate"] == 0


def test_a_shift_without_twins_is_held_against_the_part(run, job, tmp_path):
    folder = digits(tmp_path / "shifted", job)
    assert main(["evaluate", str(run), "--shifted-dir", str(folder)]) == 0
    result = evaluation(run)["models"]["distilled"]["shift"]
    assert not result["is_paired"]
    assert result["flip_rate"] is None
    assert result["low"] < 0 < result["high"]


def test_any_folder_can_be_what_is_outside(run, tmp_path, capsys):
    for i in range(20):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (12, 9), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    assert main(["evaluate", str(run), "--ood", str(tmp_path)]) == 0
    result = evaluation(run)["models"]["distilled"]["ood"]
    assert result["max_softmax"]["num_ood"] == 20
    assert 0 <= result["energy"]["low"] <= result["energy"]["auroc"] <= result["energy"]["high"] <= 1


def test_each_runtime_has_its_accuracy_and_says_on_what_machine(job, student):
    result = measure_efficiency(
        {"student": student}, job.data, job.task, job.data.validation, batch_sizes=(1, 8), seconds=0.02
    )
    rows = {(row["runtime"], row["precision"]): row for row in result["rows"]}
    assert {("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")} <= rows.keys()
    eager = rows["torch", "fp32"]
    for row in rows.values():
        assert set(row["latency_ms"]) == {"1", "8"}
        assert row["latency_ms"]["8"]["batch_size"] == 8
        assert row["latency_ms"]["1"]["median"] <= row["latency_ms"]["1"]["p95"]
        assert row["num_threads"] == row["latency_ms"]["1"]["num_threads"] == 1
        assert row["machine"]["cpu"]
        assert abs(row["value"] - eager["value"]) < 0.05
        assert row["parameters"] == 494
    assert rows["onnxruntime", "fp32"]["value"] == eager["value"]
    assert eager["peak_memory"] > 4 * 494
    assert rows["onnxruntime", "int8"]["peak_memory"] is None


def test_an_absent_runtime_is_a_note(job, student, monkeypatch):
    monkeypatch.setattr(
        "limbeck.workflows.evaluate.efficiency.missing_package_message",
        lambda engine: f"{engine} is not installed: pip install x",
    )
    result = measure_efficiency(
        {"student": student}, job.data, job.task, job.data.validation, batch_sizes=(1,), seconds=0.01
    )
    assert [row["runtime"] for row in result["rows"]] == ["torch", "onnxruntime", "onnxruntime"]
    assert result["notes"] == ["openvino is not installed: pip install x"]


def test_a_network_that_cannot_be_exported_is_measured_in_torch(job, student):
    class Looking(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = student

        def forward(self, inputs):
            return self.inner(inputs) if float(inputs.mean()) > -100 else self.inner(-inputs)

    result = measure_efficiency(
        {"student": Looking()}, job.data, job.task, job.data.validation, batch_sizes=(1,), seconds=0.01
    )
    assert [row["runtime"] for row in result["rows"]] == ["torch"]
    assert "cannot be exported" in result["notes"][0]


def test_figures_of_one_network_are_those_of_many(job, student):
    asked = RobustnessConfig(attacks=("fgsm",), num_samples=50, seed=3)
    one = evaluate_robustness(
        student, job.data, job.task, job.data.validation, checks=["attacks", "noise"], config=asked
    )
    both = evaluate_side_by_side(
        {"a": student, "b": job.build_student()}, job.data, job.task, job.data.validation,
        config=replace(asked, checks=("attacks", "noise")),
    )  # fmt: skip
    assert both["models"]["a"] == one
    assert both["differences"] == []


def test_on_another_part_the_temperature_is_fitted_on_the_whole_validation_part(job, student):
    result = evaluate_robustness(student, job.data, job.task, job.data.train.select_labeled(), checks=["calibration"])[
        "calibration"
    ]
    assert (result["num_fit_samples"], result["num_samples"], result["fit_split"]) == (360, 200, "validation")


@pytest.mark.parametrize("many", [360, 100])
def test_no_sample_is_both_fitted_and_evaluated(job, student, many):
    part = job.data.validation.subset(torch.arange(many))
    own = evaluate_robustness(student, job.data, job.task, part, checks=["calibration"])["calibration"]
    assert (own["num_fit_samples"], own["num_samples"], own["fit_split"]) == (
        many // 2,
        many // 2,
        "half of validation",
    )


def test_a_network_that_normalizes_itself_gets_pixels(job, student):
    pixels = job.data.validation.read(torch.arange(8))
    assert torch.allclose(
        LogitsModel(student, job.data, job.task)(pixels), student(job.data.normalization.apply(pixels)), atol=1e-5
    )


def test_data_that_are_no_pixels_are_refused():
    data = from_tensors(torch.randn(100, 1, 8, 8), torch.arange(100) % 4)
    network, task = small_cnn(classes=4, width=4).eval(), Classification(4)
    for what in ("attacks", "corruptions", "noise", "ood"):
        with pytest.raises(LimbeckError, match="normalization inside the network"):
            evaluate_robustness(network, data, task, data.validation, checks=[what])
    assert (
        evaluate_robustness(network, data, task, data.validation, checks=["calibration"])["calibration"]["num_samples"]
        == 8
    )


def test_a_run_without_the_weights_of_its_control_says_so(run, tmp_path, capsys):
    older = shutil.copytree(run, tmp_path / "older")
    (older / "checkpoint" / "baseline.safetensors").unlink()
    assert main(["evaluate", str(older), "--noise", "--num-samples", "20"]) == 0
    assert "note: baseline is left out" in capsys.readouterr().out
    assert list(evaluation(older)["models"]) == ["big", "distilled"]


def test_trials_of_a_study_are_evaluated_too(run, tmp_path, capsys):
    """A trial holds one student, or the teachers beside its record."""
    record = json.loads((run / "record.json").read_text())
    for name, file, place in (
        ("baseline", "checkpoint/baseline.safetensors", "student.safetensors"),
        ("big", "checkpoint/big.safetensors", "big.safetensors"),
    ):
        trial = tmp_path / name
        trial.mkdir()
        shutil.copy(run / "recipe.yaml", trial)
        shutil.copy(run / file, trial / place)
        one = {**record, "kind": "trial", "models": {name: record["models"][name]}}
        (trial / "record.json").write_text(json.dumps(one))
        assert main(["evaluate", str(trial), "--calibration"]) == 0
        assert evaluation(trial)["models"][name]["clean"] == record["models"][name]["validation"]["metrics"]["accuracy"]
        (trial / place).unlink()
        assert main(["evaluate", str(trial), "--calibration"]) == 2
        assert "keeps the weights of no network" in capsys.readouterr().err


def test_without_torchattacks_the_other_attacks_are_made_and_a_note_says_why(run, monkeypatch, capsys):
    monkeypatch.setattr("limbeck.workflows.evaluate.run.find_spec", lambda name: None)
    assert main(["evaluate", str(run), "--attacks", "--num-samples", "20"]) == 0
    assert "pip install --no-deps torchattacks" in capsys.readouterr().out
    assert evaluation(run)["config"]["attacks"] == ["fgsm", "pgd"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--attacks", "pgdd"], "pgd"),
        (["--attacks", "--eps", "8"], "an unnormalized ε is refused"),
        (["--attacks", "--eps", "eight"], "8/255"),
        (["--attacks", "--eps", "0"], "8/255"),
        (["--eps", "8/255"], "something to measure"),
        (["--num-samples", "10"], "something to measure"),
        (["--noise", "--num-samples", "1"], "from 2"),
        (["--shifted-dir", "nowhere"], "no folder"),
        (["--noise", "--reference-dir", "nowhere"], "give --shifted-dir as well"),
        (["--ood", "nowhere"], "no folder"),
    ],
)
def test_a_mistake_is_one_sentence(run, words, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(run), *words]) == 2
    output = capsys.readouterr().err
    assert says in output
    assert len(output.strip().splitlines()) == 1


def test_a_folder_of_unknown_classes_is_an_error(run, job, tmp_path, capsys):
    folder = digits(tmp_path / "shifted", job)
    (folder / "ten").mkdir()
    assert main(["evaluate", str(run), "--shifted-dir", str(folder)]) == 2
    assert "no class of Digits" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["evaluate", str(run), "--ood", str(empty)]) == 2
    assert "no image" in capsys.readouterr().err
