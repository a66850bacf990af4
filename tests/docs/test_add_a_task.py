"""The steps of docs/add-a-task.md: two tasks in a user package, each one folder and one recipe, run from end to end."""

from __future__ import annotations

import csv
import doctest
import json
import shlex
from importlib import import_module

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import average_precision_score

from limbeck.cli import main


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
