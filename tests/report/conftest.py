"""A record like one of the main job: three classifiers of real digits, every figure computed from their answers."""

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
from limbeck.report.record_hash import add_hashes


@pytest.fixture
def record():
    """The contents of a record.json, to be changed at will."""
    return copy.deepcopy(_record())


@pytest.fixture
def write(tmp_path):
    """Writes a record, and figures of training unless told otherwise, into a run folder."""

    def written(record, *, rows=None):
        with suppress(LimbeckError):  # what JSON cannot hold has no hash
            record = add_hashes(record) if record["schema"] == 2 else record
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
    """A row an epoch for the three phases; the distilled one has two terms in its loss."""
    random = np.random.default_rng(1)
    rows = []
    for phase, epochs, top, speed in (
        ("teacher", 40, 0.981, 3.0),
        ("alone", 30, 0.915, 7.0),
        ("distilled", 30, 0.946, 6.0),
    ):
        for epoch in range(1, epochs + 1):
            gone = 1 - np.exp(-epoch / speed)
            accuracy = 0.1 + (top - 0.1) * gone + random.normal(0, 0.006)
            parts = {"loss/truth": 2.3 * (1 - gone) + 0.08 + random.normal(0, 0.004)}
            if phase == "distilled":
                parts = {
                    "loss/truth": 0.1 * parts["loss/truth"],
                    "loss/soft": 2.9 * (1 - gone) + 0.21,
                    "weight/truth": 0.1,
                }
            rows.append(
                {
                    "phase": phase, "stage": phase, "epoch": epoch, "step": 17 * epoch, "seconds": 0.4 * epoch,
                    "images_per_second": 4100, "lr": 0.003, "loss": sum(v for k, v in parts.items() if "loss/" in k),
                    "train_accuracy": min(accuracy + 0.02, 1), "validation_top1": round(359 * min(accuracy, 1)) / 359,
                    "validation_nll": 2.3 * (1 - gone) + 0.1, **parts,
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
    pictures, target = digits.data[order] / 16, digits.target[order]
    train, test = slice(0, 1078), slice(1437, 1797)
    teacher = SVC(C=5.0).fit(pictures[train], target[train])
    sure = {"teacher": _softmax(6.0 * teacher.decision_function(pictures[test]))}
    taught = teacher.predict(pictures[train])
    few = slice(0, 150)
    sure["alone"] = LogisticRegression(C=3.0).fit(pictures[few], target[few]).predict_proba(pictures[test])
    sure["distilled"] = LogisticRegression(C=0.8).fit(pictures[train], taught).predict_proba(pictures[test])
    truth, names = target[test], [str(name) for name in digits.target_names]
    models = {
        "teacher": _model("teacher", "Teacher: small_cnn(width=64)", (94_026, 2_410_000, 380_184), 0.31, 680, 21.4),
        "alone": _model("alone", "Student alone: small_cnn(width=8)", (1_898, 61_200, 9_876), 0.0502, 510, 9.2),
        "distilled": _model(
            "distilled", "Distilled student: small_cnn(width=8)", (1_898, 61_200, 9_876), 0.0497, 510, 12.8
        ),
    }
    for name, model in models.items():
        model["test"] = model["validation"] = quality(sure[name], truth, names)
    said = {name: one.argmax(1) for name, one in sure.items()}
    right = {name: one == truth for name, one in said.items()}
    random = np.random.default_rng(0).integers(0, len(truth), (4000, len(truth)))
    gains = 100 * (right["distilled"].astype(float) - right["alone"])[random].mean(1)
    means = {name: float(one.mean()) for name, one in right.items()}
    verdict = {
        "gain_points": 100 * (means["distilled"] - means["alone"]),
        "interval_points": [float(np.quantile(gains, 0.025)), float(np.quantile(gains, 0.975))],
        "gap_recovered": (means["distilled"] - means["alone"]) / (means["teacher"] - means["alone"]),
        "test": "paired bootstrap over the test part, 10,000 resamples, 95 %",
    }
    from limbeck.report import format_verdict as sentence

    verdict["sentence"] = sentence(models, verdict["gain_points"], verdict["interval_points"], verdict["gap_recovered"])
    differ = np.flatnonzero(said["teacher"] != said["distilled"])
    differ = differ[np.argsort(-sure["distilled"].max(1)[differ])][:12]
    return {
        "schema": 2, "minor": 0, "limbeck": "0.1.0", "name": "digits", "seed": 0,
        "created": "2026-11-24T02:00:00+00:00", "seconds": 71.2,
        "recipe": {
            "name": "digits", "seed": 0, "plugins": [], "task": {"use": "Classification"},
            "data": {"use": "Digits", "labels": 200, "views": {"use": "Views", "per_sample": 0}},
            "teachers": {"teacher": {"use": "small_cnn", "width": 64}}, "student": {"use": "small_cnn", "width": 8},
            "stages": [{"name": "distill", "epochs": 30, "objective": {
                "truth": {"use": "CrossEntropy", "weight": 0.1},
                "soft": {"use": "SoftTarget", "tau": 4.0, "weight": 0.9}}}],
            "control": "alone", "export": {"to": ["onnx"]},
        },
        "versions": {"python": "3.11.7", "torch": "2.15.0", "torchvision": "0.29.0", "lightning-fabric": "2.6.6",
                     "onnxruntime": "1.32.0", "numpy": "2.4.1"},
        "environment": "5c0e" * 16, "source": {"commit": "12ab" * 10, "dirty": False},
        "flags": {"deterministic_algorithms": False, "default_dtype": "float32", "variables": {"OMP_NUM_THREADS": "2"}},
        "command": {"recipe": "digits", "settings": []}, "processes": {"number": 1, "strategy": "one device"},
        "weights": {}, "repeats": None,
        "machine": {"cpu": "AMD EPYC 7B13", "cores": 2, "threads": 2, "system": "Linux 6.8 x86_64",
                    "accelerator": "cpu"},
        "data": {"name": "Digits", "classes": names, "shape": [1, 8, 8], "train": 1078, "labelled": 200,
                 "validation": 359, "test": 360, "fingerprint": "3f7a" * 16,
                 "normalization": {"mean": [0.3057], "std": [0.3763]}},
        "sealed_test": {"reads": 1, "opened": "2026-11-24T02:01:02+00:00", "examples": 360},
        "models": models,
        "agreement": {
            "on": "test", "top1": float((said["teacher"] == said["distilled"]).mean()),
            "kl": float((sure["teacher"] * np.log((sure["teacher"] + 1e-9) / sure["distilled"])).sum(1).mean()),
            "both_wrong": float((~right["teacher"] & ~right["distilled"]).mean()),
            "student_only_wrong": float((right["teacher"] & ~right["distilled"]).mean()),
            "teacher_only_wrong": float((~right["teacher"] & right["distilled"]).mean()),
        },
        "fidelity": {"on": "validation", "teacher": "teacher", "students": {
            name: _likeness(sure[name], sure["teacher"], truth, names) for name in ("alone", "distilled")}},
        "verdict": verdict,
        "export": {"onnx": {"file": "student.onnx", "bytes": 12345, "opset": 18, "max_abs_difference": 9.5e-7,
                            "label_agreement": 1.0, "examples": 359, "tolerance": 1e-4,
                            "latency_ms": {"median": 0.0131, "p95": 0.0152, "batch": 1, "threads": 1, "repeats": 200}}},
        "disagreements": [
            {"index": int(i), "target": int(truth[i]),
             "teacher": int(said["teacher"][i]), "student": int(said["distilled"][i]),
             "teacher_confidence": float(sure["teacher"][i].max()),
             "student_confidence": float(sure["distilled"][i].max()),
             "png": png(pictures[test][i].reshape(8, 8))}
            for i in differ
        ],
        "warnings": [],
        "files": {"student.safetensors": {"sha256": "9b1c" * 16, "bytes": 9876},
                  "student.onnx": {"sha256": "07de" * 16, "bytes": 12345}},
    }  # fmt: skip


def quality(sure, truth, names):
    """The figures of one model, by NumPy."""
    said, top = sure.argmax(1), sure.max(1)
    right = said == truth
    f1 = []
    for label in range(len(names)):
        hit = np.sum(right & (truth == label))
        f1.append(2 * hit / max(np.sum(said == label) + np.sum(truth == label), 1))
    edges, bins, ece = np.linspace(0, 1, 16), [], 0.0
    for low, high in itertools.pairwise(edges):
        inside = (top > low) & (top <= high)
        n = int(inside.sum())
        mean = (float(top[inside].mean()), float(right[inside].mean())) if n else (None, None)
        ece += n / len(truth) * abs(mean[0] - mean[1]) if n else 0.0
        bins.append({"low": float(low), "high": float(high), "confidence": mean[0], "accuracy": mean[1], "examples": n})
    return {
        "examples": len(truth), "top1": float(right.mean()), "macro_f1": float(np.mean(f1)), "ece": ece,
        "top5": float((np.argsort(-sure, 1)[:, :5] == truth[:, None]).any(1).mean()),
        "nll": float(-np.log(sure[np.arange(len(truth)), truth] + 1e-9).mean()), "reliability": bins,
        "per_class": [
            {"class": name, "accuracy": float(right[truth == i].mean()), "examples": int(np.sum(truth == i))}
            for i, name in enumerate(names)
        ],
    }  # fmt: skip


def _likeness(sure, taught, truth, names):
    """How like the teacher one student is, by NumPy; its two "layers" are its probabilities and their square roots."""
    said, right = (sure.argmax(1), taught.argmax(1)), truth
    wrong, astray, same = said[0] != right, said[1] != right, said[0] == said[1]
    kinds = {
        "same_wrong": wrong & astray & same, "other_wrong": wrong & astray & ~same, "student_only": wrong & ~astray,
        "teacher_only": astray & ~wrong,
    }  # fmt: skip
    ours, theirs = ([rows, np.sqrt(rows)] for rows in (sure, taught))
    return {
        "examples": len(truth), "top1": float(same.mean()), "both_wrong": float((wrong & astray).mean()),
        "kl": float((taught * np.log((taught + 1e-9) / (sure + 1e-9))).sum(1).mean()),
        "same_wrong": float(kinds["same_wrong"].mean()), "student_only_wrong": float(kinds["student_only"].mean()),
        "teacher_only_wrong": float(kinds["teacher_only"].mean()),
        "by_class": [
            {"class": name, "examples": int(np.sum(truth == i)),
             **{kind: int(np.sum(which & (truth == i))) for kind, which in kinds.items()}}
            for i, name in enumerate(names)
        ],
        "cka": {"student": ["block1", "fc"], "teacher": ["block1", "fc"], "samples": len(truth),
                "values": [[_cka(x, y) for y in theirs] for x in ours]},
    }  # fmt: skip


def _cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return float(((x.T @ y) ** 2).sum() / np.sqrt(((x.T @ x) ** 2).sum() * ((y.T @ y) ** 2).sum()))


def png(picture):
    """A grey picture with values from 0 to 1 as base64 of a PNG."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray((255 * picture).astype(np.uint8)).save(out, format="PNG")
    return base64.b64encode(out.getvalue()).decode()


def _model(role, title, cost, latency, steps, seconds):
    return {
        "role": role, "title": title, "parameters": cost[0], "flops": cost[1], "bytes": cost[2], "steps": steps,
        "seconds": seconds,
        "latency_ms": {"median": latency, "p95": 1.13 * latency, "batch": 1, "threads": 1, "repeats": 200},
    }  # fmt: skip


def _softmax(logits):
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)
