"""What a study has found so far, out of the records of its cells: means, differences paired by seed, verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from limbeck.core.errors import LimbeckError, reason
from limbeck.evaluation import (
    bootstrap_over_samples,
    gap_recovered_over_seeds,
    holm,
    load_answers,
    mcnemar,
    mean_over_seeds,
    paired_over_seeds,
    seeds_needed,
)
from limbeck.recipe.study_schema import CONTROLS
from limbeck.report import RULE_OVER_SEEDS, judge_over_seeds, verdict_over_seeds
from limbeck.report.formatting import points
from limbeck.workflows.study.variants import Arm

__all__ = ["AGAINST", "results"]

AGAINST = "alone"
_FIGURES = ("top1", "macro_f1", "nll", "ece")
_SPENT = ("seconds", "cpu_seconds", "gpu_seconds", "joules")

Found = Mapping[int, Mapping[str, Any]]


def results(folder: Path, arms: Mapping[str, Arm], seeds: Sequence[int]) -> dict[str, Any]:
    """The ``results`` of ``study.json``: of each arm with a finished cell its figures and its gain."""
    found = {name: _records(folder, name, seeds) for name in arms}
    control, taught = found.get(AGAINST, {}), found.get("teacher", {})
    told = {}
    for name, arm in arms.items():
        if found[name]:
            told[name] = _figures(found[name], arm)
            told[name] |= _against(folder, arm, found[name], control, taught)
            if arm.listens and told[name]["verdict"]:
                told[name] |= {"over": _over(arm, found)}
                told[name]["verdict"]["sentence"] += _beside(told[name]["over"])
    _corrected(told, arms)
    return {"arms": told, "rule": RULE_OVER_SEEDS, "chosen": _chosen(told, arms)}


def _records(folder: Path, arm: str, seeds: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The records of the finished cells of one arm, by seed."""
    found = {}
    for seed in seeds:
        path = folder / "cells" / arm / str(seed) / "record.json"
        if path.exists():
            found[seed] = _read(path)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        if not record["models"]:
            raise ValueError("it has no model")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LimbeckError(
            f"{path} cannot be read ({reason(error)}): remove the folder {path.parent}, and --resume trains it again"
        ) from error
    return record


def _model(record: Mapping[str, Any], arm: str) -> Mapping[str, Any]:
    """The arm's student; of several teachers the best on validation."""
    models: Mapping[str, Mapping[str, Any]] = record["models"]
    if arm in models:
        return models[arm]
    return max(models.values(), key=lambda model: model["validation"]["top1"])


def _figures(records: Found, arm: Arm) -> dict[str, Any]:
    models = [_model(record, arm.name) for record in records.values()]
    told: dict[str, Any] = {
        name: mean_over_seeds([model["test"][name] for model in models]) for name in _FIGURES
    }  # fmt: skip
    told["validation_top1"] = mean_over_seeds([model["validation"]["top1"] for model in models])
    spent = {}
    for name in _SPENT:
        values = [model["spent"][name] for model in models if model.get("spent")]
        spent[name] = mean_over_seeds(values) if values and None not in values else None
    return told | {"spent": spent, "steps": models[0]["steps"], "kept": _kept(next(iter(records.values())))}


def _kept(record: Mapping[str, Any]) -> str:
    """Which epoch's weights a figure is of; the last one's, where the recipe does not name the best on validation."""
    recipe = record["recipe"]
    said = [recipe["training"]["keep"], *(stage.get("training", {}).get("keep") for stage in recipe["stages"])]
    return "best on validation" if "best" in said else "last epoch"


def _over(arm: Arm, found: Mapping[str, Found]) -> dict[str, Any]:
    """Gain over each of the other controls: much of what a teacher gives, more steps or smooth labels may give too."""
    told = {}
    for control in CONTROLS:
        both = [seed for seed in found[arm.name] if seed in found.get(control, {})]
        if control != AGAINST and both:
            gain = paired_over_seeds(
                [100 * _top1(found[arm.name][seed], arm.name) for seed in both],
                [100 * _top1(found[control][seed], control) for seed in both],
            )
            told[control] = {"gain": gain, "judgement": judge_over_seeds(gain)}
    return told


def _beside(over: Mapping[str, Any]) -> str:
    """The same in words, to stand after the verdict."""
    words = {"helps": "helps", "hurts": "hurts", "open": "cannot be told apart", "unknown": "not known"}
    said = []
    for control, one in over.items():
        gain, ends = one["gain"], ""
        if gain["low"] is not None:
            low, high = min(gain["low"], gain["t_low"]), max(gain["high"], gain["t_high"])
            ends = f" ({points(low, digits=2)} to {points(high, digits=2)})"
        said.append(f"{control} {points(gain['mean'], digits=2)} points{ends}, {words[one['judgement']]}")
    return f" Against the other controls: {'; '.join(said)}." if said else ""


def _against(folder: Path, arm: Arm, mine: Found, control: Found, taught: Found) -> dict[str, Any]:
    """Gain over the control on the seeds that both have, and what it means."""
    both = [seed for seed in mine if seed in control]
    if arm.name == AGAINST or not both:
        return {"gain": None, "gap_recovered": None, "verdict": None}
    ours = [100 * _top1(mine[seed], arm.name) for seed in both]
    theirs = [100 * _top1(control[seed], AGAINST) for seed in both]
    gain = paired_over_seeds(ours, theirs) | _by_sample(folder, arm.name, both)
    gap = None
    if arm.role != "teacher" and all(seed in taught for seed in both) and taught:
        teacher = [_top1(taught[seed], "teacher") for seed in both]
        gap = gap_recovered_over_seeds([one / 100 for one in theirs], [one / 100 for one in ours], teacher)
    needed = seeds_needed([a - b for a, b in zip(ours, theirs, strict=True)])
    judgement = judge_over_seeds(gain)
    sentence = verdict_over_seeds(arm.name, AGAINST, gain, gap=gap, seeds_needed=needed)
    return {
        "gain": gain, "gap_recovered": gap,
        "verdict": {"judgement": judgement, "sentence": sentence, "seeds_needed": needed},
    }  # fmt: skip


def _top1(record: Mapping[str, Any], arm: str) -> float:
    return float(_model(record, arm)["test"]["top1"])


def _by_sample(folder: Path, arm: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The paired tests over test samples, where both cells have kept their answers."""
    pairs, told, prints = list[tuple[Tensor, Tensor]](), list[dict[str, Any]](), set[str]()
    for seed in seeds:
        pair = []
        for name in (arm, AGAINST):
            place = folder / "cells" / name / str(seed)
            try:
                answers = load_answers(place / "answers.safetensors")
            except LimbeckError:
                return {"samples": None, "mcnemar": []}
            record = _read(place / "record.json")
            best = next(key for key, model in record["models"].items() if model is _model(record, name))
            pair.append(answers.right(best))
            prints.add(answers.fingerprint)
        pairs.append((pair[0], pair[1]))
        told.append({"seed": seed, **mcnemar(*pair)})
    found = bootstrap_over_samples(pairs, shared=len(prints) == 1)
    return {"samples": {"low": found["low"], "high": found["high"]}, "mcnemar": told}


def _corrected(told: Mapping[str, Any], arms: Mapping[str, Arm]) -> None:
    """Of many arms that are compared some look good by chance: Holm's correction of their p-values stands beside."""
    compared = [one["gain"] for name, one in told.items() if arms[name].listens and one["gain"] is not None]
    compared = [gain for gain in compared if gain["p"] is not None]
    for gain, p in zip(compared, holm([gain["p"] for gain in compared]) if compared else [], strict=True):
        gain["p_holm"] = p


def _chosen(told: Mapping[str, Any], arms: Mapping[str, Arm]) -> dict[str, Any] | None:
    """The distilled arm that validation would choose; the test part chooses nothing."""
    known = {name: told[name]["validation_top1"]["mean"] for name in told if arms[name].role == "distilled"}
    best = max(known, key=lambda name: known[name], default=None)
    return None if best is None else {"arm": best, "by": "mean validation accuracy", "validation_top1": known[best]}
