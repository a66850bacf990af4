"""The steps of docs/add-a-task.md: two tasks in a user package, each one folder and one recipe, run from end to end."""

from __future__ import annotations

import csv
import doctest
import json
import shlex
from importlib import import_module

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sklearn.metrics import average_precision_score

from limbeck.cli import main
from limbeck.models import load_weights
from limbeck.recipe import load_recipe
from limbeck.workflows import select_teachers, study
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import evaluate_split
from limbeck.workflows.select_teachers.criteria import MetricCriterion


def run_tests(module):
    """Every test of ``module``; their names."""
    names = [name for name in vars(module) if name.startswith("test_")]
    for name in names:
        getattr(module, name)()
    return names


def numpy_map(statistics):
    scores, labels = np.split(statistics, 2, axis=1)
    has_positives = labels.any(axis=0)
    return average_precision_score(labels[:, has_positives], scores[:, has_positives])


def numpy_rmse(statistics):
    return np.sqrt(statistics.mean())


def test_two_tasks_of_the_page_are_distilled_cached_reported_and_exported(follow_page, tmp_path):
    files, commands = follow_page("add-a-task.md")
    folders = {name.rpartition("/")[0] for name in files} - {""}
    assert folders == {"my_tasks/multilabel", "my_tasks/regression"}
    assert {name for name in files if "/" not in name} == {"multilabel.yaml", "regression.yaml", "test_tasks.py"}
    for line in commands:
        path, *words = shlex.split(line)
        assert path == "PYTHONPATH=."
        if words[0] == "python":
            assert words == ["python", "-m", "pytest", "test_tasks.py"]
            assert len(run_tests(import_module("test_tasks"))) == 3
        else:
            assert words[0] == "limbeck"
            assert main(words[1:]) == 0, line
    assert doctest.testmod(import_module("my_tasks.multilabel.metrics")) == (0, 2)

    for name, metrics, value, sign in (
        ("multilabel", ["map", "exact_match"], numpy_map, 100), ("regression", ["rmse", "mae"], numpy_rmse, -1)
    ):  # fmt: skip
        run = tmp_path / "runs" / name
        record = json.loads((run / "record.json").read_text())
        assert record["primary_metric"] == metrics[0]
        predictions, values = load_file(run / "predictions.safetensors"), {}
        for model, entry in record["models"].items():
            test = entry["test"]
            assert list(test["metrics"]) == metrics
            values[model] = test["metrics"][metrics[0]]
            assert values[model] == pytest.approx(value(predictions[f"{model}.statistics"].astype(np.float64)))
            low, high = test["interval"][metrics[0]]
            assert low <= values[model] <= high
        gain = sign * (values["distilled"] - values["baseline"])
        assert record["verdict"]["gain"] == pytest.approx(gain)
        assert record["cache"]["teacher"]["hits"] > 0
        assert record["export"]["onnx"]["label_agreement"] == 1.0
        assert record["examples"][0]["predictions"].keys() == record["models"].keys()
        assert record["metric_info"][metrics[0]]["label"] in (run / "report.html").read_text()
        with (run / "metrics.csv").open() as file:
            assert all(float(row[f"val/{metrics[0]}"]) >= 0 for row in csv.DictReader(file))


def test_teachers_are_selected_by_the_metric_of_the_task_and_a_study_runs(follow_page, tmp_path, capsys):
    follow_page("add-a-task.md")
    other = 'teachers.other={use: "my_tasks.regression:tabular_mlp", width: 32}'
    selection = select_teachers("regression.yaml", [other], margin=0.0, output_dir=tmp_path / "out", callbacks=[])
    values = {name: entry["validation"]["metrics"]["rmse"] for name, entry in selection["candidates"].items()}
    baseline = selection["baseline"]["validation"]["metrics"]["rmse"]
    for name, candidate in selection["candidates"].items():
        assert candidate["margin"] == pytest.approx(baseline - values[name])
        low, high = candidate["margin_interval"]
        assert low <= candidate["margin"] <= high
    best = min(values, key=values.get)
    assert selection["selection"]["selected"][0] == best
    assert selection["candidates"][best]["reason"] == f"selected first: best RMSE ({values[best]:.3f})"
    (pair,) = selection["pairs"]
    assert pair["disagreement"] is None
    assert "RMSE" in capsys.readouterr().out

    # The baseline with label smoothing is left out, since the losses have none.
    summary = study("regression.yaml", seeds=1, output_dir=tmp_path / "study", callbacks=[])
    assert list(summary["results"]["variants"]) == ["teacher", "student_only", "equal_time", "distilled"]

    job = Job.from_recipe(load_recipe("regression.yaml", [other]), tmp_path / "job")
    networks = {
        name: load_weights(job.build_network(name), selection["candidates"][name]["weights"]).eval()
        for name in ("teacher", "other")
    }
    scores = {name: evaluate_split(net, job.data, job.task, job.data.validation) for name, net in networks.items()}
    criterion = MetricCriterion(job, networks, scores)
    inputs = job.data.normalization.apply(job.data.validation.read(torch.arange(len(job.data.validation))))
    target = job.data.validation.read_target(torch.arange(len(inputs))).double().numpy()
    with torch.no_grad():
        outputs = [network(inputs).double().numpy() for network in networks.values()]
    errors = [np.abs(values - target)[:, 0] for values in outputs]  # the RMSE of each sample
    assert pair["error_correlation"] == pytest.approx(np.corrcoef(*errors)[0, 1], abs=1e-5)
    rmse = [np.sqrt(np.mean((values - target) ** 2)) for values in (outputs[0], sum(outputs) / 2)]
    assert criterion.metric_value(["teacher", "other"]) == pytest.approx(rmse[1], rel=1e-5)
    gain = criterion.gain(["teacher"], "other")
    assert gain.value == pytest.approx(rmse[0] - rmse[1], abs=1e-5)
    assert gain.low <= gain.value <= gain.high
