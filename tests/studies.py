"""Study folders and run folders as limbeck writes them, for tests: figures come from answers that are drawn here."""

import csv
import json

import numpy as np
import torch

from limbeck.evaluation import save_predictions

CLASSES = ["zero", "one", "two", "three"]
ARMS = {"teacher": 0.96, "alone": 0.80, "longer": 0.81, "smoothed": 0.79, "distilled": 0.88, "wide_tau": 0.74}
CONTROLS = ("teacher", "alone", "longer", "smoothed")
EXAMPLES = 200


def answers(arm, seed, *, top, examples=EXAMPLES):
    """Logits and truth: an arm is right on its own share of the samples, the same ones for neighbouring shares."""
    target = torch.arange(examples) % len(CLASSES)
    random = np.random.default_rng(abs(hash_of(arm)) + seed)
    hard = np.linspace(0, 1, examples)[np.random.default_rng(7).permutation(examples)]
    right = torch.tensor(hard + random.normal(0, 0.08, examples) < top)
    said = torch.where(right, target, (target + 1) % len(CLASSES))
    return 3.0 * torch.nn.functional.one_hot(said, len(CLASSES)).float(), target


def role(arm):
    return arm if arm in CONTROLS else "distilled"


def hash_of(text):
    return sum(ord(letter) * 31**place for place, letter in enumerate(text)) % 100_000


def model(part, logits, target, *, title, latency, parameters, steps, spent):
    return {
        "role": part, "title": title, "parameters": parameters, "flops": 60 * parameters, "bytes": 4 * parameters + 800,
        "latency_ms": {"median": latency, "p95": 1.2 * latency, "batch": 1, "threads": 1, "repeats": 200},
        "steps": steps, "seconds": spent["seconds"], "spent": spent, "validation": figures(logits, target),
        "test": figures(logits, target),
    }  # fmt: skip


def figures(logits, target):
    said = logits.argmax(1)
    right = (said == target).double()
    nll = torch.nn.functional.cross_entropy(logits.double(), target)
    return {
        "examples": len(target), "top1": float(right.mean()), "macro_f1": float(right.mean()), "nll": float(nll),
        "ece": 0.03, "per_class": [
            {"class": name, "accuracy": float(right[target == place].mean()), "examples": int((target == place).sum())}
            for place, name in enumerate(CLASSES)
        ],
    }  # fmt: skip


def curve(path, phases, *, steps=300, epochs=10):
    """metrics.csv of trainings that end at the given accuracies."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, ["phase", "stage", "epoch", "step", "loss", "validation_top1"])
        table.writeheader()
        for phase, top in phases.items():
            for epoch in range(1, epochs + 1):
                grown = top - (top - 0.2) * float(np.exp(-epoch / 3))
                table.writerow(
                    {"phase": phase, "stage": "s", "epoch": epoch, "step": steps * epoch // epochs, "loss": 1.0,
                     "validation_top1": grown}
                )  # fmt: skip


def record(models, *, seed, name="digits", fingerprint="f" * 64, **more):
    return {
        "schema": 1, "limbeck": "0.2.0", "name": name, "kind": "run", "seed": seed, "seconds": 20.0,
        "created": "2026-11-25T10:00:00+00:00", "recipe": {"name": name, "seed": seed, "training": {"keep": "last"}},
        "machine": {"cpu": "AMD EPYC"},
        "data": {"name": "Digits", "classes": CLASSES, "shape": [1, 8, 8], "train": 1000, "labelled": 100,
                 "validation": EXAMPLES, "test": EXAMPLES, "fingerprint": fingerprint},
        "sealed_test": {"reads": 1, "opened": "2026-11-25T10:00:00+00:00", "examples": EXAMPLES},
        "models": models, "warnings": [], **more,
    }  # fmt: skip


def fill(folder, arms, seed, *, kept="samples", named=None, **more):
    """Write one run of several arms: its record, its curves, and its answers unless ``kept`` is ``None``."""
    folder.mkdir(parents=True, exist_ok=True)
    models, logits = {}, {}
    for arm, top in arms.items():
        logits[arm], target = answers(arm, seed, top=top)
        big = arm == "teacher"
        models[arm] = model(
            role(arm), logits[arm], target, title=f"Student {arm}: small_cnn(width=8)",
            latency=0.21 if big else 0.07 + 0.001 * seed, parameters=94_154 if big else 1_698,
            steps=600 if arm == "longer" else 300,
            resources={"seconds": 3.0 + seed, "cpu_seconds": 5.0 + seed, "gpu_seconds": None, "joules": None},
        )  # fmt: skip
    told = record(models, seed=seed, **more)
    (folder / "record.json").write_text(json.dumps(told))
    (folder / "recipe.yaml").write_text(f"name: {told['name']}\nseed: {seed}\nstages: [{{name: s, steps: 300}}]\n")
    curve(folder / "metrics.csv", {arm: models[arm]["validation"]["top1"] for arm in arms})
    if kept:
        save_predictions(folder / "answers.safetensors", logits, target, fingerprint=kept)
    return folder


def write_run(folder, seed, **more):
    """A finished run of ``limbeck distill``."""
    return fill(folder, {arm: ARMS[arm] for arm in ("teacher", "alone", "distilled")}, seed, **more)


def write_study(folder, *, seeds=(0, 1, 2, 3, 4), arms=ARMS, unfinished=(), failed=(), results=True):
    """A study by the contract; ``unfinished`` and ``failed`` are pairs of arm and seed."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = []
    for arm in arms:
        for seed in seeds:
            place = folder / "cells" / arm / str(seed)
            state = "failed" if (arm, seed) in failed else "done"
            if (arm, seed) in unfinished:
                state = "running" if (arm, seed) == tuple(unfinished[0]) else "waiting"
            if state == "done":
                told = {"kind": "arm", "arm": {"study": "digits-study", "arm": arm, "seed": seed}}
                fill(place, {arm: arms[arm]}, seed, **told)
            elif state == "running":
                place.mkdir(parents=True, exist_ok=True)
                curve(place / "metrics.csv", {arm: 0.7}, epochs=4, steps=120)
            error = (
                "the loss of the term soft is nan at step 12: lower the learning rate" if state == "failed" else None
            )
            cells.append(
                {"arm": arm, "seed": seed, "folder": f"cells/{arm}/{seed}", "state": state, "error": error}
            )  # fmt: skip
    study = {
        "schema": 1, "kind": "study", "name": "digits-study", "limbeck": "0.2.0",
        "created": "2026-11-25T10:00:00+00:00", "recipe": {"name": "digits"},
        "seeds": list(seeds), "against": "alone", "keep": "last",
        "arms": {arm: {"role": role(arm), "title": f"Student {arm}: small_cnn(width=8)",
                       "changes": {"stages.0.objective.soft.tau": 40} if arm == "wide_tau" else {}, "note": None}
                 for arm in arms},
        "cells": cells, "results": {"arms": {}, "rule": "The rule of the study."},
    }  # fmt: skip
    if results:
        for arm in arms:
            found = result(folder, arm, [seed for seed in seeds if (arm, seed) not in {*unfinished, *failed}])
            if found:
                study["results"]["arms"][arm] = found
    (folder / "study.json").write_text(json.dumps(study))
    return folder


def result(folder, arm, seeds):
    """What a study works out for one arm, in NumPy."""
    tops = {seed: _top(folder, arm, seed) for seed in seeds}
    if not tops:
        return None
    paired = [100 * (top - _top(folder, "alone", seed)) for seed, top in tops.items()]
    gain = None
    if arm != "alone":
        spread = float(np.std(paired, ddof=1)) if len(paired) > 1 else 0.0
        half, middle = spread / len(paired) ** 0.5, float(np.mean(paired))
        gain = {
            "mean": middle, "sd": spread, "low": middle - 1.7 * half, "high": middle + 1.7 * half,
            "t_low": middle - 2.78 * half, "t_high": middle + 2.78 * half, "p": 0.01, "n": len(paired),
            "samples": {"low": middle - 3, "high": middle + 3}, "mcnemar": [],
        }  # fmt: skip
    judgement = "unknown"
    if gain:
        judgement = "helps" if gain["t_low"] > 0 else "hurts" if gain["t_high"] < 0 else "open"
    return {
        "top1": mean(list(tops.values())), "nll": mean([0.4] * len(tops)), "ece": mean([0.03] * len(tops)),
        "macro_f1": mean(list(tops.values())), "steps": 300, "gain": gain,
        "spent": {"seconds": mean([3.0] * len(tops)), "cpu_seconds": mean([5.0] * len(tops)), "gpu_seconds": None,
                  "joules": None},
        "gap_recovered": {"share": 0.52, "low": 0.4, "high": 0.66, "n": len(tops)} if arm == "distilled" else None,
        "verdict": {"judgement": judgement, "sentence": f"The study says of {arm}: {judgement}.",
                    "seeds_needed": 24 if judgement == "open" else None},
    }  # fmt: skip


def mean(values):
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "sd": spread, "low": float(np.mean(values)) - 1.5 * spread,
            "high": float(np.mean(values)) + 1.5 * spread, "n": len(values)}  # fmt: skip


def _top(folder, arm, seed):
    path = folder / "cells" / arm / str(seed) / "record.json"
    return json.loads(path.read_text())["models"][arm]["test"]["top1"]
