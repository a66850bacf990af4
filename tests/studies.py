"""Writes study and run folders for tests, with metrics of random predictions."""

import csv
import json

import numpy as np
import torch

from limbeck.evaluation import evaluate_network, save_predictions
from limbeck.report.record import SCHEMA, SCHEMA_MINOR
from limbeck.report.record_io import add_hashes
from limbeck.tasks import Classification
from limbeck.workflows._job.provenance import describe_task, write_task_file

CLASSES = ["zero", "one", "two", "three"]
VARIANTS = {
    "teacher": 0.96, "student_only": 0.80, "equal_time": 0.81, "label_smoothing": 0.79, "distilled": 0.88,
    "wide_tau": 0.74,
}  # fmt: skip
ROLES = {
    "teacher": "teacher", "baseline": "baseline", "student_only": "baseline", "equal_time": "baseline_equal_time",
    "label_smoothing": "baseline_label_smoothing",
}  # fmt: skip
# Seeds of the random predictions are made from these names.
RANDOM_NAMES = {"baseline": "alone", "student_only": "alone", "equal_time": "longer", "label_smoothing": "smoothed"}
NUM_SAMPLES = 200


def draw_predictions(variant, seed, *, accuracy, num_samples=NUM_SAMPLES):
    """Logits and targets: about ``accuracy`` of the samples are correct, the same ones for similar accuracies."""
    target = torch.arange(num_samples) % len(CLASSES)
    random = np.random.default_rng(abs(hash_text(RANDOM_NAMES.get(variant, variant))) + seed)
    difficulty = np.linspace(0, 1, num_samples)[np.random.default_rng(7).permutation(num_samples)]
    correct = torch.tensor(difficulty + random.normal(0, 0.08, num_samples) < accuracy)
    labels = torch.where(correct, target, (target + 1) % len(CLASSES))
    return 3.0 * torch.nn.functional.one_hot(labels, len(CLASSES)).float(), target


def get_role(variant):
    return ROLES.get(variant, "distilled")


def hash_text(text):
    return sum(ord(letter) * 31**index for index, letter in enumerate(text)) % 100_000


def make_model(role_name, logits, target, *, title, latency, parameters, steps, resources):
    return {
        "role": role_name, "title": title, "parameters": parameters, "flops": 60 * parameters,
        "bytes": 4 * parameters + 800,
        "latency_ms": {"median": latency, "p95": 1.2 * latency, "batch_size": 1, "num_threads": 1, "num_repeats": 200},
        "steps": steps, "seconds": resources["seconds"], "resources": resources,
        "validation": compute_metrics(logits, target), "test": compute_metrics(logits, target),
    }  # fmt: skip


def compute_metrics(logits, target):
    predicted = logits.argmax(1)
    correct = (predicted == target).double()
    nll = torch.nn.functional.cross_entropy(logits.double(), target)
    return {
        "num_samples": len(target),
        "metrics": {
            "accuracy": float(correct.mean()),
            "macro_f1": float(correct.mean()),
            "nll": float(nll),
            "ece": 0.03,
        },
        "per_class": [
            {
                "class": name,
                "value": float(correct[target == index].mean()),
                "num_samples": int((target == index).sum()),
            }
            for index, name in enumerate(CLASSES)
        ],
    }


def write_metrics_csv(path, phases, *, steps=300, epochs=10):
    """metrics.csv of trainings that end at the given accuracies."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, ["phase", "stage", "epoch", "step", "loss", "val/accuracy"])
        table.writeheader()
        for phase, last_accuracy in phases.items():
            for epoch in range(1, epochs + 1):
                accuracy = last_accuracy - (last_accuracy - 0.2) * float(np.exp(-epoch / 3))
                table.writerow(
                    {"phase": phase, "stage": "s", "epoch": epoch, "step": steps * epoch // epochs, "loss": 1.0,
                     "val/accuracy": accuracy}
                )  # fmt: skip


def make_record(models, *, seed, name="digits", fingerprint="f" * 64, **more):
    return {
        "schema": SCHEMA,
        "schema_minor": SCHEMA_MINOR,
        "limbeck": "0.2.0",
        "name": name,
        "kind": "run",
        "seed": seed,
        "seconds": 20.0,
        "created": "2026-11-25T10:00:00+00:00",
        "recipe": {
            "name": name,
            "seed": seed,
            "task": {"use": "Classification"},
            "training": {"keep_weights": "last"},
        },
        "machine": {"cpu": "AMD EPYC"},
        "data": {
            "name": "Digits",
            "classes": CLASSES,
            "shape": [1, 8, 8],
            "num_train": 1000,
            "num_labeled": 100,
            "num_val": NUM_SAMPLES,
            "num_test": NUM_SAMPLES,
            "fingerprint": fingerprint,
        },
        "test_set": {"num_reads": 1, "opened_at": "2026-11-25T10:00:00+00:00", "num_samples": NUM_SAMPLES},
        **describe_task(Classification(len(CLASSES))),
        "models": models,
        "warnings": [],
        **more,
    }


def write_folder(folder, variants, seed, *, sample_fingerprint="samples", **more):
    """Write one run of several variants: record, metrics.csv, and predictions where ``sample_fingerprint`` is set."""
    folder.mkdir(parents=True, exist_ok=True)
    models, logits = {}, {}
    for variant, accuracy in variants.items():
        logits[variant], target = draw_predictions(variant, seed, accuracy=accuracy)
        is_teacher = variant == "teacher"
        models[variant] = make_model(
            get_role(variant), logits[variant], target, title=f"Student {variant}: small_cnn(width=8)",
            latency=0.21 if is_teacher else 0.07 + 0.001 * seed, parameters=94_154 if is_teacher else 1_698,
            steps=600 if variant == "equal_time" else 300,
            resources={"seconds": 3.0 + seed, "cpu_seconds": 5.0 + seed, "gpu_seconds": None, "joules": None},
        )  # fmt: skip
    contents = make_record(models, seed=seed, **more)
    (folder / "record.json").write_text(json.dumps(add_hashes(contents)))
    (folder / "recipe.yaml").write_text(f"name: {contents['name']}\nseed: {seed}\nstages: [{{name: s, steps: 300}}]\n")
    write_metrics_csv(
        folder / "metrics.csv", {variant: models[variant]["validation"]["metrics"]["accuracy"] for variant in variants}
    )
    if sample_fingerprint:
        task = Classification(len(CLASSES))
        scores = {name: evaluate_network(torch.nn.Identity(), [(rows, target)], task) for name, rows in logits.items()}
        save_predictions(
            folder / "predictions.safetensors", scores, primary_metric="accuracy", fingerprint=sample_fingerprint
        )
    return folder


def write_run(folder, seed, **more):
    """A finished run of ``limbeck distill``."""
    accuracies = {
        "teacher": VARIANTS["teacher"],
        "baseline": VARIANTS["student_only"],
        "distilled": VARIANTS["distilled"],
    }
    return write_folder(folder, accuracies, seed, **more)


def write_study(folder, *, seeds=(0, 1, 2, 3, 4), variants=VARIANTS, unfinished=(), failed=(), results=True):
    """A study folder; ``unfinished`` and ``failed`` are pairs of variant and seed."""
    folder.mkdir(parents=True, exist_ok=True)
    trials = []
    for variant in variants:
        for seed in seeds:
            trial_dir = folder / "trials" / variant / str(seed)
            state = "failed" if (variant, seed) in failed else "done"
            if (variant, seed) in unfinished:
                state = "running" if (variant, seed) == tuple(unfinished[0]) else "waiting"
            if state == "done":
                settings = {"kind": "trial", "variant": {"study": "digits-study", "name": variant, "seed": seed}}
                write_folder(trial_dir, {variant: variants[variant]}, seed, **settings)
            elif state == "running":
                trial_dir.mkdir(parents=True, exist_ok=True)
                write_metrics_csv(trial_dir / "metrics.csv", {variant: 0.7}, epochs=4, steps=120)
                write_task_file(Classification(len(CLASSES)), trial_dir)
            error = "the loss of the term kd is nan at step 12: lower the learning rate" if state == "failed" else None
            trials.append(
                {"variant": variant, "seed": seed, "folder": f"trials/{variant}/{seed}", "state": state, "error": error}
            )  # fmt: skip
    study = {
        "schema": 2,
        "kind": "study",
        "name": "digits-study",
        "limbeck": "0.2.0",
        "created": "2026-11-25T10:00:00+00:00",
        "recipe": {"name": "digits"},
        "seeds": list(seeds),
        "baseline": "student_only",
        "keep_weights": "last",
        "variants": {
            variant: {
                "role": get_role(variant),
                "title": f"Student {variant}: small_cnn(width=8)",
                "overrides": {"stages.0.objective.kd.temperature": 40} if variant == "wide_tau" else {},
                "note": None,
            }
            for variant in variants
        },
        "trials": trials,
        "results": {"variants": {}, "rule": "The rule of the study."},
    }
    if results:
        for variant in variants:
            variant_result = make_result(
                folder, variant, [seed for seed in seeds if (variant, seed) not in {*unfinished, *failed}]
            )
            if variant_result:
                study["results"]["variants"][variant] = variant_result
    (folder / "study.json").write_text(json.dumps(study))
    return folder


def make_result(folder, variant, seeds):
    """The result of one variant, in NumPy."""
    accuracies = {seed: _read_accuracy(folder, variant, seed) for seed in seeds}
    if not accuracies:
        return None
    paired = [100 * (accuracy - _read_accuracy(folder, "student_only", seed)) for seed, accuracy in accuracies.items()]
    gain = None
    if variant != "student_only":
        spread = float(np.std(paired, ddof=1)) if len(paired) > 1 else 0.0
        half, middle = spread / len(paired) ** 0.5, float(np.mean(paired))
        gain = {
            "mean": middle, "std": spread, "low": middle - 1.7 * half, "high": middle + 1.7 * half,
            "t_low": middle - 2.78 * half, "t_high": middle + 2.78 * half, "p_value": 0.01, "num_seeds": len(paired),
            "sample_interval": {"low": middle - 3, "high": middle + 3}, "mcnemar": [],
        }  # fmt: skip
    outcome = "unknown"
    if gain:
        outcome = "improves" if gain["t_low"] > 0 else "degrades" if gain["t_high"] < 0 else "inconclusive"
    return {
        "accuracy": make_mean(list(accuracies.values())),
        "nll": make_mean([0.4] * len(accuracies)),
        "ece": make_mean([0.03] * len(accuracies)),
        "macro_f1": make_mean(list(accuracies.values())),
        "steps": 300,
        "gain": gain,
        "resources": {
            "seconds": make_mean([3.0] * len(accuracies)),
            "cpu_seconds": make_mean([5.0] * len(accuracies)),
            "gpu_seconds": None,
            "joules": None,
        },
        "gap_recovered": {"fraction": 0.52, "low": 0.4, "high": 0.66, "num_seeds": len(accuracies)}
        if variant == "distilled"
        else None,
        "verdict": {
            "outcome": outcome,
            "text": f"The study says of {variant}: {outcome}.",
            "seeds_needed": 24 if outcome == "inconclusive" else None,
        },
    }


def make_mean(values):
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": spread, "low": float(np.mean(values)) - 1.5 * spread,
            "high": float(np.mean(values)) + 1.5 * spread, "num_seeds": len(values)}  # fmt: skip


def _read_accuracy(folder, variant, seed):
    path = folder / "trials" / variant / str(seed) / "record.json"
    return json.loads(path.read_text())["models"][variant]["test"]["metrics"]["accuracy"]
