"""``limbeck evaluate`` with checks: every network of a run, side by side, into ``evaluation.json``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from limbeck._version import __version__
from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.roles import Role
from limbeck.data import DataModule
from limbeck.evaluation import ATTACKS, DEFAULT_EPS, get_hardware_info, get_package_versions
from limbeck.models import load_weights
from limbeck.report.terminal import render_evaluation_table
from limbeck.teachers import ExternalTeacher
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.distillers import BASELINE_PHASES
from limbeck.workflows._job.job import Job
from limbeck.workflows.distill.run import hash_networks
from limbeck.workflows.evaluate.efficiency import measure_efficiency
from limbeck.workflows.evaluate.image_folders import load_image_pairs, load_images_by_class, load_unlabeled_images
from limbeck.workflows.evaluate.robustness_api import RobustnessConfig, evaluate_side_by_side
from limbeck.workflows.revisit import load_finished_run

__all__ = ["DEFAULT_NUM_SAMPLES", "EVALUATION_FILE", "evaluate_networks"]

DEFAULT_NUM_SAMPLES = 1000
EVALUATION_FILE = "evaluation.json"
_STUDENTS_OF_SAME_COST = (Role.BASELINE.value, Role.NO_ASSISTANTS.value)


def evaluate_networks(
    folder: Path, checks: Sequence[str], *, split: str = "validation", data_root: str | None = None,
    attacks: str | None = None, eps: str | None = None, num_samples: int = DEFAULT_NUM_SAMPLES,
    shifted_dir: Path | None = None,
    reference_dir: Path | None = None, ood: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure the networks of the run in ``folder``, write ``evaluation.json`` there, and print a table.

    Arguments:
        folder: the run.
        checks: out of ``attacks``, ``corruptions``, ``noise``, ``shift``, ``ood``, ``calibration`` and ``efficiency``.
        split: ``validation``; or ``test``, which opens once in a run.
        data_root: where the data stands now, if it has moved.
        attacks: names with commas between; ``None``: all that are installed.
        eps: the largest change of a pixel, 0..1, as a number or a fraction (``8/255``).
        num_samples: how many images are attacked, corrupted and made noisy.
        shifted_dir: a folder of images of the same classes.
        reference_dir: a folder with the same images before they were shifted.
        ood: a folder of other images, or ``noise``.
    """
    start_time, notes = time.monotonic(), list[str]()
    job = load_finished_run(folder, data_root)
    config = RobustnessConfig(
        checks=tuple(name for name in checks if name != "efficiency"), attacks=_parse_attacks(attacks, notes,
        checks=checks),
        eps=_parse_eps(eps), num_samples=num_samples, seed=job.recipe.seed, **_load_image_folders(job.data,
        shifted_dir, reference_dir, ood),
    )  # fmt: skip
    networks = _load_networks(job, folder, notes)
    eval_data = job.data.validation if split == "validation" else job.data.test.unlock(hash_networks(networks))
    pairs = [("distilled", name) for name in _STUDENTS_OF_SAME_COST if {"distilled", name} <= networks.keys()]
    evaluation = {
        **_evaluation_header(job, folder, split, config),
        **evaluate_side_by_side(networks, job.data, job.task, eval_data, config=config, pairs=pairs),
        "efficiency": None,
    }
    for name, header in _read_titles(folder).items():
        if name in evaluation["models"]:
            evaluation["models"][name] = {**header, **evaluation["models"][name]}
    if "efficiency" in checks:
        # A baseline is the same network with other weights, and costs the same.
        evaluation["efficiency"] = measure_efficiency(
            {name: network for name,
            network in networks.items() if name not in _STUDENTS_OF_SAME_COST or len(networks) == 1},
            job.data, job.task, eval_data,
        )  # fmt: skip
        notes += evaluation["efficiency"].pop("notes")
    evaluation |= {"notes": notes, "seconds": round(time.monotonic() - start_time, 2)}
    text = json.dumps(evaluation, indent=1, allow_nan=False)
    path = write_atomically(folder / EVALUATION_FILE, lambda partial: partial.write_text(text))
    if split == "test":
        job.data.test.close()
    _print(render_evaluation_table(evaluation))
    _print(str(path.resolve()))
    return evaluation


def _evaluation_header(job: Job, folder: Path, split: str, config: RobustnessConfig) -> dict[str, Any]:
    return {
        "schema": 2, "kind": "evaluation", "limbeck": __version__, "name": job.recipe.name, "seed": job.recipe.seed,
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "split": split,
        "config": {
            "checks": list(config.checks), "attacks": list(config.attacks), "eps": config.eps,
            "num_samples": config.num_samples,
        },
        "data": {"name": job.data.name, "fingerprint": job.data.fingerprint()}, "machine": get_hardware_info(),
        "versions": get_package_versions(),
    }  # fmt: skip


def _load_networks(job: Job, folder: Path, notes: list[str]) -> dict[str, nn.Module]:
    """Every network of the run whose weights are kept, in the order of the record: teachers, baselines, the student."""
    loaded_networks: dict[str, nn.Module] = {}
    models = _read_titles(folder)
    for name, model in models.items():
        paths = _weight_paths(folder, name, model["role"], single=len(models) == 1)
        file = next((file for file in paths if file.exists()), None)
        if file is None:
            reason = (
                "it has no weights of its own"
                if model["role"] == Role.TEACHER
                else "this run was made by a limbeck that kept none"
            )
            notes.append(f"{name} is left out, for its weights are not in {folder}: {reason}")
        elif not isinstance(network := _build_network(job, name), ExternalTeacher):
            loaded_networks[name] = load_weights(network, file).eval()
    if not loaded_networks:
        raise LimbeckError(f"{folder} keeps the weights of no network, so there is nothing to evaluate: run it again")
    return loaded_networks


def _weight_paths(folder: Path, name: str, role: str, *, single: bool) -> tuple[Path, ...]:
    """Where the weights may stand: in a run, or in a trial of a study, which holds one student or the teachers."""
    checkpoint_path = folder / "checkpoint" / f"{name}.safetensors"
    if role in (Role.TEACHER, Role.ASSISTANT):
        return checkpoint_path, folder / f"{name}.safetensors"
    return (folder / "student.safetensors" if role == Role.DISTILLED or single else checkpoint_path,)


def _build_network(job: Job, name: str) -> nn.Module:
    if name in job.recipe.teachers:
        return job.build_teacher(name)
    if name in job.recipe.assistants:
        return job.build_assistant(name)
    return job.build_student() if name in BASELINE_PHASES else job.build_deployed()


def _read_titles(folder: Path) -> dict[str, dict[str, str]]:
    """Role and title of each model in the record."""
    try:
        models = json.loads((folder / "record.json").read_text())["models"]
        return {name: {"role": model["role"], "title": model["title"]} for name, model in models.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LimbeckError(f"{folder / 'record.json'} cannot be read: it is not the record of a run") from error


def _parse_attacks(text: str | None, notes: list[str], *, checks: Sequence[str]) -> tuple[str, ...]:
    if text is not None:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        for name in names:
            if name not in ATTACKS:
                raise LimbeckError(f"no attack is named {name!r}; there are: {suggest_names(name, ATTACKS)}")
        if not names:
            raise LimbeckError(f"--attacks names attacks with commas between, out of {', '.join(ATTACKS)}")
        return names
    if find_spec("torchattacks") is not None:
        return tuple(ATTACKS)
    if "attacks" in checks:
        notes.append("apgd is left out, for torchattacks is not installed: pip install --no-deps torchattacks")
    return tuple(name for name in ATTACKS if name != "apgd")


def _parse_eps(text: str | None) -> float:
    """A number or a fraction."""
    if text is None:
        return DEFAULT_EPS
    numerator, _, denominator = text.partition("/")
    try:
        eps = float(numerator) / (float(denominator) if denominator else 1.0)
    except (ValueError, ZeroDivisionError):
        raise LimbeckError(f"--eps is a number or a fraction in 0..1, such as 8/255, not {text!r}") from None
    if not 0 < eps <= 1:
        raise LimbeckError(
            f"an unnormalized ε is refused: --eps is in pixel units of 0..1, and {text} is not between 0 and 1; give "
            f"{text}/255 for {text} levels of 255"
            if eps > 1
            else f"--eps is a number or a fraction in 0..1, such as 8/255, not {text!r}"
        )
    return eps


def _load_image_folders(
    data: DataModule, shifted_dir: Path | None, reference_dir: Path | None, ood: str | None
) -> Mapping[str, Any]:
    splits: dict[str, Any] = {"shifted": None, "reference": None}
    if reference_dir is not None and shifted_dir is None:
        raise LimbeckError(
            "--reference-dir is the other version of the images of --shifted-dir: give --shifted-dir as well"
        )
    if shifted_dir is not None and reference_dir is not None:
        splits["reference"], splits["shifted"] = load_image_pairs(reference_dir, shifted_dir, data)
    elif shifted_dir is not None:
        splits["shifted"] = load_images_by_class(shifted_dir, data)
    use_noise = ood is None or (ood == "noise" and not Path(ood).is_dir())
    return {**splits, "ood": None if use_noise else load_unlabeled_images(Path(ood or ""), data)}


def _print(text: str) -> None:
    print(text)  # noqa: T201
