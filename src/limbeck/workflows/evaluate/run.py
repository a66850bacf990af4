"""``limbeck evaluate``: the metrics of a run's student, or checks of all networks of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck._version import __version__
from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.roles import Role
from limbeck.core.task import DeployableTask
from limbeck.data import DataModule, Split
from limbeck.data.image_files import list_image_files
from limbeck.data.split import UNLABELED, ImageFiles
from limbeck.evaluation import ATTACKS, DEFAULT_EPS, get_hardware_info, get_package_versions
from limbeck.models import load_weights
from limbeck.report.record_io import read_record
from limbeck.report.record_sections import ModelRecord
from limbeck.teachers import ExternalTeacher
from limbeck.utils.console import print_text
from limbeck.utils.io import write_text
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.measure import evaluate_split, to_split_metrics
from limbeck.workflows._job.provenance import hash_networks
from limbeck.workflows.evaluate.check_support import EVALUATION_CHECKS, NEEDS, require_supported, unsupported_checks
from limbeck.workflows.evaluate.efficiency import measure_efficiency
from limbeck.workflows.evaluate.evaluation_table import render_evaluation_table
from limbeck.workflows.evaluate.robustness import RobustnessConfig, evaluate_side_by_side
from limbeck.workflows.export_run import compare_deployed

__all__ = ["evaluate_networks", "evaluate_student"]

_STUDENTS_OF_SAME_COST = (Role.BASELINE.value, Role.NO_ASSISTANTS.value)


def evaluate_student(folder: str | Path, *, split: str = "validation", data_root: str | None = None) -> dict[str, Any]:
    """Print the metrics of the student of the run in ``folder``, compare them with its record, and return them.

    Where the run has a ``student.onnx``, ``exported`` of the result has its primary metric, ``value``, and the fraction
    of samples with the prediction of torch, ``agreement``.

    ``split="test"`` is an error where the test set was read already, as it is at the end of every finished run.
    """
    folder = Path(folder)
    job = Job.from_run(folder, data_root)
    student = load_weights(job.build_deployed_student(), folder).eval()
    eval_data = _open_split(job, split, {"distilled": student})
    scores = evaluate_split(student, job.data, job.task, eval_data)
    metrics = to_split_metrics(scores, job.task)
    print_text(f"{folder}, {split} split, n = {metrics['num_samples']}:")
    for spec in job.task.metric_specs:
        interval = metrics["interval"].get(spec.name)
        ends = "" if interval is None else f"  (95 %: {spec.format(interval[0])} to {spec.format(interval[1])})"
        print_text(f"  {spec.label:<28} {spec.format(metrics['metrics'][spec.name])}{ends}")
    record = read_record(folder / "record.json")
    model = record.models.get("distilled")
    recorded = None if model is None else model.validation if split == "validation" else model.test
    if recorded is not None:
        values = recorded.metrics.get(record.primary_metric), metrics["metrics"].get(record.primary_metric)
        is_same = None not in values and abs(values[0] - values[1]) < 1e-9
        text = "the same" if is_same else "different; check whether the data changed"
        print_text(f"the record has {job.task.primary_metric.format(values[0])}: {text}")
    if (file := folder / "student.onnx").exists() and isinstance(job.task, DeployableTask):
        metrics["exported"] = compare_deployed(file, student, job.task, job.data, eval_data)
    if split == "test":
        job.data.test.close()
    return metrics


def evaluate_networks(
    folder: str | Path,
    checks: Collection[str],
    *,
    split: str = "validation",
    data_root: str | None = None,
    attacks: str | None = None,
    eps: str | None = None,
    all_checks: bool = False,
    num_samples: int | None = None,
    shifted_dir: str | Path | None = None,
    reference_dir: str | Path | None = None,
    ood: str | None = None,
) -> dict[str, Any]:
    """Measure the networks of the run in ``folder``, write ``evaluation.json`` there, and print a table.

    Args:
        folder: the run.
        checks: out of ``attacks``, ``corruptions``, ``noise``, ``shift``, ``ood``, ``calibration`` and ``efficiency``;
            one that does not support the task is refused.
        split: ``validation``; or ``test``, which opens once in a run.
        data_root: root folder of the data, if it has moved.
        attacks: names with commas between; ``None``: all that are installed.
        eps: the largest change of a pixel, 0..1, as a number or a fraction (``8/255``).
        all_checks: in addition, every check that needs no folder and supports the task.
        num_samples: how many images are attacked, corrupted and made noisy; ``None``: 1000.
        shifted_dir: a folder of images of the same classes.
        reference_dir: a folder with the same images before they were shifted.
        ood: a folder of other images, or ``noise``.
    """
    folder = Path(folder)
    start_time, notes = time.monotonic(), list[str]()
    job, models = Job.from_run(folder, data_root), read_record(folder / "record.json").models
    unsupported = unsupported_checks(job.build_deployed_student(), job.data, job.task)
    require_supported(checks, unsupported, job.task)
    if all_checks:
        checks = {*checks, *(name for name in NEEDS if name not in unsupported and name != "shift")}
        notes += [f"{name} is skipped: it needs {need}" for name, need in unsupported.items() if name != "shift"]
    config = RobustnessConfig(
        checks=tuple(name for name in EVALUATION_CHECKS if name in checks),
        attacks=_parse_attacks(attacks, notes, checks),
        eps=_parse_eps(eps),
        num_samples=1000 if num_samples is None else num_samples,
        seed=job.recipe.seed,
        **_load_image_folders(job.data, shifted_dir, reference_dir, ood),
    )
    networks = _load_networks(job, folder, models, notes)
    eval_data = _open_split(job, split, networks)
    pairs = [("distilled", name) for name in _STUDENTS_OF_SAME_COST if {"distilled", name} <= networks.keys()]
    robustness = evaluate_side_by_side(networks, job.data, job.task, eval_data, config=config, pairs=pairs)
    for name, metrics in robustness["models"].items():
        robustness["models"][name] = {"role": models[name].role, "title": models[name].title, **metrics}
    efficiency = None
    if "efficiency" in checks:
        # A baseline is the same network with other weights, and costs the same.
        measured = {n: net for n, net in networks.items() if n not in _STUDENTS_OF_SAME_COST or len(networks) == 1}
        efficiency = measure_efficiency(measured, job.data, job.task, eval_data)
        notes += efficiency.pop("notes")
    evaluation = {
        **_evaluation_header(job, split, config), **robustness, "efficiency": efficiency, "notes": notes,
        "seconds": round(time.monotonic() - start_time, 2),
    }  # fmt: skip
    text = json.dumps(evaluation, indent=1, allow_nan=False)
    path = write_text(folder / "evaluation.json", text)
    if split == "test":
        job.data.test.close()
    print_text(render_evaluation_table(evaluation))
    print_text(str(path.resolve()))
    return evaluation


def _open_split(job: Job, split: str, networks: Mapping[str, nn.Module]) -> Split:
    return job.data.validation if split == "validation" else job.data.test.unlock(hash_networks(networks))


def _evaluation_header(job: Job, split: str, config: RobustnessConfig) -> dict[str, Any]:
    return {
        "schema": 3, "kind": "evaluation", "limbeck": __version__, "name": job.recipe.name, "seed": job.recipe.seed,
        "metric": {"name": job.task.primary_metric.name, **job.task.primary_metric.to_dict()},
        "created": datetime.now(UTC).isoformat(timespec="seconds"), "split": split,
        "config": {
            "checks": list(config.checks), "attacks": list(config.attacks), "eps": config.eps,
            "num_samples": config.num_samples,
        },
        "data": {"name": job.data.name, "fingerprint": job.data.fingerprint()}, "machine": get_hardware_info(),
        "versions": get_package_versions(),
    }  # fmt: skip


def _load_networks(job: Job, folder: Path, models: Mapping[str, ModelRecord], notes: list[str]) -> dict[str, nn.Module]:
    """Every network of the run that has a file of weights, in the order of the record."""
    networks: dict[str, nn.Module] = {}
    for name, model in models.items():
        role, checkpoint = model.role, folder / "checkpoint" / f"{name}.safetensors"
        if role in (Role.TEACHER, Role.ASSISTANT):
            # A trial of a study has its teachers in its own folder.
            paths = [checkpoint, folder / f"{name}.safetensors"]
        else:
            paths = [folder / "student.safetensors" if role == Role.DISTILLED or len(models) == 1 else checkpoint]
        file = next((path for path in paths if path.exists()), None)
        if file is None:
            reason = "it has no weights of its own" if role == Role.TEACHER else "this run was made by an older limbeck"
            notes.append(f"{name} is left out, for its weights are not in {folder}: {reason}")
        elif not isinstance(network := job.build_network(name), ExternalTeacher):
            networks[name] = load_weights(network, file).eval()
    if not networks:
        raise LimbeckError(f"{folder} keeps the weights of no network, so there is nothing to evaluate: run it again")
    return networks


def _parse_attacks(text: str | None, notes: list[str], checks: Collection[str]) -> tuple[str, ...]:
    if text:
        names = tuple(name.strip() for name in text.split(",") if name.strip())
        for name in names:
            if name not in ATTACKS:
                raise LimbeckError(f"no attack is named {name!r}; available: {suggest_names(name, ATTACKS)}")
        if not names:
            raise LimbeckError(f"--attacks takes names with commas between, out of {', '.join(ATTACKS)}")
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
    try:
        numerator, _, denominator = text.partition("/")
        eps = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        eps = 0.0
    if not 0 < eps <= 1:
        raise LimbeckError(
            f"an unnormalized ε is refused: --eps must be in pixel units of 0..1, got {text}; give {text}/255 for "
            f"{text} levels of 255"
            if eps > 1
            else f"--eps must be a number or a fraction in 0..1, such as 8/255, got {text!r}"
        )
    return eps


def _load_image_folders(
    data: DataModule, shifted_dir: str | Path | None, reference_dir: str | Path | None, ood: str | None
) -> dict[str, Any]:
    """``shifted``, ``reference`` and ``ood`` of a :class:`RobustnessConfig`."""
    reference, shifted = None, None
    if shifted_dir is not None and reference_dir is not None:
        reference, shifted = _load_image_pairs(Path(reference_dir), Path(shifted_dir), data)
    elif shifted_dir is not None:
        shifted = _load_images_by_class(Path(shifted_dir), data)
    elif reference_dir is not None:
        raise LimbeckError("--reference-dir needs the same images after the shift: give --shifted-dir as well")
    use_noise = ood is None or (ood == "noise" and not Path(ood).is_dir())
    return {
        "reference": reference,
        "shifted": shifted,
        "ood": None if use_noise else _load_unlabeled_images(Path(ood or ""), data),
    }


def _load_images_by_class(folder: Path, data: DataModule) -> Split:
    """The images of ``folder``, which has one folder for each class of ``data``.

    Raises:
        LimbeckError: no such folder, no image in it, a class that the data lacks, or images of another shape.
    """
    paths, labels = zip(*_index_images(folder, data).values(), strict=True)
    return _make_split(list(paths), torch.tensor(labels), data)


def _load_image_pairs(first_dir: Path, second_dir: Path, data: DataModule) -> tuple[Split, Split]:
    """Two versions of the same images: those with one class and name (without the extension) in both folders.

    Raises:
        LimbeckError: a folder is absent, or they have no image in common.
    """
    first_images, second_images = _index_images(first_dir, data), _index_images(second_dir, data)
    keys = [key for key in first_images if key in second_images]
    if not keys:
        raise LimbeckError(
            f"{first_dir} and {second_dir} have no image in common: two versions of an image have one class folder "
            "and name"
        )
    target = torch.tensor([first_images[key][1] for key in keys])
    first, second = (
        _make_split([images[key][0] for key in keys], target, data) for images in (first_images, second_images)
    )
    return first, second


def _load_unlabeled_images(folder: Path, data: DataModule) -> Split:
    """All images under ``folder``, without labels."""
    paths = _list_images(folder)
    if not paths:
        raise LimbeckError(f"there is no image in {folder}: it needs *.png (or jpg, bmp, webp …) at any depth")
    return _make_split(paths, torch.full((len(paths),), UNLABELED), data)


def _index_images(folder: Path, data: DataModule) -> dict[str, tuple[Path, int]]:
    """Path and class of each image by ``class/name`` without the extension."""
    paths, classes = _list_images(folder), {name: index for index, name in enumerate(data.class_names)}
    for path in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        if path.name not in classes:
            raise LimbeckError(
                f"{folder} has a folder {path.name!r}, which is no class of {data.name}; available: "
                f"{suggest_names(path.name, classes)}"
            )
    images: dict[str, tuple[Path, int]] = {}
    for path in (path for path in paths if path.relative_to(folder).parts[0] in classes):
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in images:
            raise LimbeckError(f"{images[key][0]} and {path} have one name: keep one of them in {folder}")
        images[key] = path, classes[path.relative_to(folder).parts[0]]
    if not images:
        raise LimbeckError(f"there is no image in {folder}: it needs <class>/*.png (or jpg, bmp, webp …)")
    return images


def _list_images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise LimbeckError(f"there is no folder {folder}: name one with images")
    return list_image_files(folder)


def _make_split(paths: list[Path], target: Tensor, data: DataModule) -> Split:
    shape = data.input_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise LimbeckError(f"a folder holds images, and the inputs of {data.name} are {list(shape)}")
    channels, height, width = shape
    files = ImageFiles(tuple(paths), height if height == width else None, channels)
    if (actual_shape := tuple(files.read(torch.tensor([0])).shape[1:])) != shape:
        raise LimbeckError(
            f"{paths[0]} is {list(actual_shape)}, and {data.name} has {list(shape)}: bring it to that size"
        )
    return Split.from_images(files, target)
