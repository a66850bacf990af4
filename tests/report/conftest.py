"""A record like one of a run: three classifiers of real digits, every metric computed from their predictions."""

from __future__ import annotations

import base64
import copy
import csv
import io
import itertools
import json
from contextlib import suppress
from functools import lru_cache

import numpy as np
import pytest

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.statistics import proportion_interval
from limbeck.report.record import SCHEMA_MINOR
from limbeck.report.record_io import add_hashes
from limbeck.tasks import Classification
from limbeck.tasks.classification.metrics import ACCURACY
from limbeck.workflows._job.provenance import describe_task


@pytest.fixture
def record():
    """The contents of a record.json, to be changed at will."""
    return copy.deepcopy(_record())


@pytest.fixture
def write(tmp_path):
    """Writes a record, and training metrics unless disabled, into a run folder."""

    def written(record, *, rows=None):
        with suppress(LimbeckError):  # what JSON cannot hold has no hash
            record = add_hashes(record) if record["schema"] == 3 else record
        (tmp_path / "record.json").write_text(json.dumps(record), encoding="utf-8")
        rows = metrics() if rows is None else rows
        if rows:
            with (tmp_path / "metrics.csv").open("w", newline="") as file:
                table = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
                table.writeheader()
                table.writerows(rows)
        return tmp_path

    return written


def metrics():
    """A row an epoch for the three phases; the distilled one has two losses."""
    random = np.random.default_rng(1)
    rows = []
    for phase, epochs, top, speed in (
        ("teacher", 40, 0.981, 3.0),
        ("baseline", 30, 0.915, 7.0),
        ("distilled", 30, 0.946, 6.0),
    ):
        for epoch in range(1, epochs + 1):
            gone = 1 - np.exp(-epoch / speed)
            accuracy = 0.1 + (top - 0.1) * gone + random.normal(0, 0.006)
            parts = {"loss/target": 2.3 * (1 - gone) + 0.08 + random.normal(0, 0.004)}
            if phase == "distilled":
                parts = {
                    "loss/target": 0.1 * parts["loss/target"],
                    "loss/kd": 2.9 * (1 - gone) + 0.21,
                    "loss_weight/target": 0.1,
                }
            rows.append(
                {
                    "phase": phase, "stage": phase, "epoch": epoch, "step": 17 * epoch, "seconds": 0.4 * epoch,
                    "samples_per_second": 4100, "lr": 0.003,
                    "loss": sum(v for k, v in parts.items() if k.startswith("loss/")),
                    "train/accuracy": min(accuracy + 0.02, 1), "val/accuracy": round(359 * min(accuracy, 1)) / 359,
                    "val/nll": 2.3 * (1 - gone) + 0.1, **parts,
                }
            )  # fmt: skip
    return rows


@lru_cache
def _record():
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images, target = digits.data[order] / 16, digits.target[order]
    train, test = slice(0, 1078), slice(1437, 1797)
    teacher = SVC(C=5.0).fit(images[train], target[train])
    sure = {"teacher": _softmax(6.0 * teacher.decision_function(images[test]))}
    taught = teacher.predict(images[train])
    few = slice(0, 150)
    sure["baseline"] = LogisticRegression(C=3.0).fit(images[few], target[few]).predict_proba(images[test])
    sure["distilled"] = LogisticRegression(C=0.8).fit(images[train], taught).predict_proba(images[test])
    truth, names = target[test], [str(name) for name in digits.target_names]
    models = {
        "teacher": _model("teacher", "Teacher: small_cnn(width=64)", (94_026, 2_410_000, 380_184), 0.31, 680, 21.4),
        "baseline": _model(
            "baseline", "Student without a teacher: small_cnn(width=8)", (1_898, 61_200, 9_876), 0.0502, 510, 9.2
        ),
        "distilled": _model(
            "distilled", "Distilled student: small_cnn(width=8)", (1_898, 61_200, 9_876), 0.0497, 510, 12.8
        ),
    }
    for name, model in models.items():
        model["test"] = model["validation"] = quality(sure[name], truth, names)
    predictions = {name: one.argmax(1) for name, one in sure.items()}
    right = {name: one == truth for name, one in predictions.items()}
    random = np.random.default_rng(0).integers(0, len(truth), (4000, len(truth)))
    gains = 100 * (right["distilled"].astype(float) - right["baseline"])[random].mean(1)
    means = {name: float(one.mean()) for name, one in right.items()}
    verdict = {
        "gain": 100 * (means["distilled"] - means["baseline"]),
        "interval": [float(np.quantile(gains, 0.025)), float(np.quantile(gains, 0.975))],
        "gap_recovered": (means["distilled"] - means["baseline"]) / (means["teacher"] - means["baseline"]),
        "statistical_test": "paired bootstrap over the test samples, 10,000 resamples, 95 %",
    }
    from limbeck.report.verdict import classify_interval, format_verdict

    verdict["outcome"] = classify_interval(verdict["interval"])
    verdict["text"] = format_verdict(
        models, verdict["gain"], verdict["interval"], verdict["gap_recovered"], metric=ACCURACY
    )
    differ = np.flatnonzero(predictions["teacher"] != predictions["distilled"])
    differ = differ[np.argsort(-sure["distilled"].max(1)[differ])][:12]
    return {
        "schema": 3, "schema_minor": SCHEMA_MINOR, "limbeck": "0.1.0", "name": "digits", "seed": 0,
        "created": "2026-11-24T02:00:00+00:00", "seconds": 71.2,
        "recipe": {
            "name": "digits", "seed": 0, "plugins": [], "task": {"use": "Classification"},
            "data": {"use": "Digits", "num_labeled": 200, "augment": {"use": "Augmentation", "num_views": 0}},
            "teachers": {"teacher": {"use": "small_cnn", "width": 64}}, "student": {"use": "small_cnn", "width": 8},
            "stages": [{"name": "distill", "epochs": 30, "objective": {
                "target": {"use": "CrossEntropyLoss", "weight": 0.1},
                "kd": {"use": "KDLoss", "temperature": 4.0, "weight": 0.9}}}],
            "baselines": ["student_only"], "export": {"to": ["onnx"]},
        },
        "versions": {"python": "3.11.7", "torch": "2.15.0", "torchvision": "0.29.0", "lightning-fabric": "2.6.6",
                     "onnxruntime": "1.32.0", "numpy": "2.4.1"},
        "environment": "5c0e" * 16, "source": {"commit": "12ab" * 10, "dirty": False},
        "torch_flags": {"deterministic_algorithms": False, "default_dtype": "float32",
                        "environment_variables": {"OMP_NUM_THREADS": "2"}},
        "command": {"recipe": "digits", "overrides": []}, "distributed": {"world_size": 1, "strategy": "single_device"},
        "weights": {}, "reproduces": None,
        "machine": {"cpu": "AMD EPYC 7B13", "num_cores": 2, "num_threads": 2, "system": "Linux 6.8 x86_64",
                    "accelerator": "cpu"},
        "data": {"name": "Digits", "classes": names, "shape": [1, 8, 8], "num_train": 1078, "num_labeled": 200,
                 "num_val": 359, "num_test": 360, "fingerprint": "3f7a" * 16,
                 "normalization": {"mean": [0.3057], "std": [0.3763]}},
        "test_set": {"num_reads": 1, "opened_at": "2026-11-24T02:01:02+00:00", "num_samples": 360},
        **describe_task(Classification(len(names))),
        "models": models,
        "agreement": {
            "split": "test", "prediction_agreement": float((predictions["teacher"] == predictions["distilled"]).mean()),
            "kl": float((sure["teacher"] * np.log((sure["teacher"] + 1e-9) / sure["distilled"])).sum(1).mean()),
            "both_wrong": float((~right["teacher"] & ~right["distilled"]).mean()),
            "student_only_wrong": float((right["teacher"] & ~right["distilled"]).mean()),
            "teacher_only_wrong": float((~right["teacher"] & right["distilled"]).mean()),
        },
        "fidelity": {"split": "validation", "teacher": "teacher", "students": {
            name: _likeness(sure[name], sure["teacher"], truth, names) for name in ("baseline", "distilled")}},
        "verdict": verdict,
        "export": {"onnx": {"file": "student.onnx", "bytes": 12345, "opset": 18, "max_abs_difference": 9.5e-7,
                            "label_agreement": 1.0, "num_samples": 359, "tolerance": 1e-4,
                            "latency_ms": {"median": 0.0131, "p95": 0.0152, "batch_size": 1, "num_threads": 1,
                                           "num_repeats": 200}}},
        "examples": [
            {"sample_id": int(i), "input": {"png": png(images[test][i].reshape(8, 8))},
             "target": {"text": names[truth[i]]},
             "predictions": {
                 name: {"text": f"{names[predictions[name][i]]} ({100 * sure[name][i].max():.0f} %)",
                        "correct": bool(right[name][i])}
                 for name in ("teacher", "distilled")}}
            for i in differ
        ],
        "warnings": [],
        "files": {"student.safetensors": {"sha256": "9b1c" * 16, "bytes": 9876},
                  "student.onnx": {"sha256": "07de" * 16, "bytes": 12345}},
    }  # fmt: skip


def quality(sure, truth, names):
    """The figures of one model, by NumPy."""
    predicted, top = sure.argmax(1), sure.max(1)
    right = predicted == truth
    f1 = []
    for label in range(len(names)):
        hit = np.sum(right & (truth == label))
        f1.append(2 * hit / max(np.sum(predicted == label) + np.sum(truth == label), 1))
    edges, bins, ece = np.linspace(0, 1, 16), [], 0.0
    for low, high in itertools.pairwise(edges):
        inside = (top > low) & (top <= high)
        n = int(inside.sum())
        mean = (float(top[inside].mean()), float(right[inside].mean())) if n else (None, None)
        ece += n / len(truth) * abs(mean[0] - mean[1]) if n else 0.0
        bins.append(
            {
                "low": float(low),
                "high": float(high),
                "confidence": mean[0],
                "fraction_correct": mean[1],
                "num_samples": n,
            }
        )
    return {
        "num_samples": len(truth), "metrics": {
            "accuracy": float(right.mean()), "macro_f1": float(np.mean(f1)), "ece": ece,
            "top5_accuracy": float((np.argsort(-sure, 1)[:, :5] == truth[:, None]).any(1).mean()),
            "nll": float(-np.log(sure[np.arange(len(truth)), truth] + 1e-9).mean()),
        },
        "interval": {"accuracy": list(proportion_interval(float(right.mean()), len(truth)))},
        "reliability": bins,
        "per_class": [
            {"class": name, "value": float(right[truth == i].mean()), "num_samples": int(np.sum(truth == i))}
            for i, name in enumerate(names)
        ],
    }  # fmt: skip


def _likeness(sure, taught, truth, names):
    """How like the teacher one student is, by NumPy; its two "layers" are its probabilities and their square roots."""
    predicted, right = (sure.argmax(1), taught.argmax(1)), truth
    wrong, astray, same = predicted[0] != right, predicted[1] != right, predicted[0] == predicted[1]
    kinds = {
        "same_error": wrong & astray & same, "different_error": wrong & astray & ~same,
        "student_only_wrong": wrong & ~astray, "teacher_only_wrong": astray & ~wrong,
    }  # fmt: skip
    ours, theirs = ([rows, np.sqrt(rows)] for rows in (sure, taught))
    return {
        "num_samples": len(truth), "prediction_agreement": float(same.mean()),
        "both_wrong": float((wrong & astray).mean()),
        "kl": float((taught * np.log((taught + 1e-9) / (sure + 1e-9))).sum(1).mean()),
        "same_error": float(kinds["same_error"].mean()),
        "student_only_wrong": float(kinds["student_only_wrong"].mean()),
        "teacher_only_wrong": float(kinds["teacher_only_wrong"].mean()),
        "per_class": [
            {"class": name, "num_samples": int(np.sum(truth == i)),
             **{kind: int(np.sum(which & (truth == i))) for kind, which in kinds.items()}}
            for i, name in enumerate(names)
        ],
        "cka": {"student_layers": ["block1", "fc"], "teacher_layers": ["block1", "fc"], "num_samples": len(truth),
                "matrix": [[_cka(x, y) for y in theirs] for x in ours]},
    }  # fmt: skip


def _cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return float(((x.T @ y) ** 2).sum() / np.sqrt(((x.T @ x) ** 2).sum() * ((y.T @ y) ** 2).sum()))


def png(image):
    """A grey image with values from 0 to 1 as base64 of a PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray((255 * image).astype(np.uint8)).save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()


def _model(role, title, cost, latency, steps, seconds):
    return {
        "role": role, "title": title, "parameters": cost[0], "flops": cost[1], "bytes": cost[2], "steps": steps,
        "seconds": seconds,
        "latency_ms": {"median": latency, "p95": 1.13 * latency, "batch_size": 1, "num_threads": 1, "num_repeats": 200},
    }  # fmt: skip


def _softmax(logits):
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)
