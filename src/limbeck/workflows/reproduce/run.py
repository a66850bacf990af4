"""Repeating a run from its record alone, and saying whether the metrics match.

The new run is a run like any other, in a folder of its own: it opens the test set once, and its record
says how often it had been opened before, by the run that is repeated. That one's folder is left as it was: its hash
says that nothing has changed there since it ended, and a look that chooses nothing takes nothing from its figures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck._version import __version__
from limbeck.core.errors import LimbeckError
from limbeck.evaluation import (
    get_git_revision,
    get_hardware_info,
    get_package_versions,
    get_torch_flags,
    hash_environment,
)
from limbeck.recipe import Recipe
from limbeck.recipe.schema import to_plain, validate
from limbeck.report import render_reproduce_table
from limbeck.report.migrate import migrate_record
from limbeck.report.record import Record
from limbeck.report.record_hash import integrity_error
from limbeck.report.record_io import load_json, parse_record
from limbeck.training import init_processes
from limbeck.training.callbacks import Callback
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.provenance import hash_weight_files
from limbeck.workflows.distill.run import distill
from limbeck.workflows.reproduce.compare_records import compare_records, overall_match

__all__ = ["TOLERANCE", "reproduce"]

TOLERANCE = 0.005


def reproduce(
    run_dir: Path,
    *,
    output_dir: Path | None = None,
    tolerance: float = TOLERANCE,
    data_root: str | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] | None = None,
) -> dict[str, Any]:
    """Repeat the run in ``run_dir`` from its ``record.json``, and return what ``reproduce.json`` in the new folder
    holds.

    Arguments:
        run_dir: the folder of a finished run; of it only the record is read.
        output_dir: the new folder; ``None``: ``RUN-reproduce`` beside it, numbered where taken.
        tolerance: how far a metric may differ: fractions absolutely, values above 1 in proportion.
        data_root: where the data stands now, if it has moved.
        resume: go on with a repetition in ``output_dir`` that was stopped.
        callbacks: of each training; ``None``: a progress bar.

    ``match`` of what is returned is ``exact``, ``within_tolerance`` or ``different``.

    Raises:
        LimbeckError: there is no record of a run; the data is absent or another one; weights are gone or changed.
    """
    if not 0 <= tolerance < 1:
        raise LimbeckError(f"tolerance is a fraction from 0 to below 1, such as {TOLERANCE}, not {tolerance}")
    raw_record = load_json(run_dir / "record.json")
    record = parse_record(raw_record, source=str(run_dir / "record.json"))
    if record.kind != "run":
        raise LimbeckError(
            f"{run_dir} is a trial of a study: repeat it with limbeck study, which trains it with its others"
        )
    recipe = _recorded_recipe(record, data_root)
    folder = output_dir or _default_output_dir(run_dir)
    processes = init_processes()
    processes.run_on_all_ranks(lambda: _require_same_inputs(record, recipe, folder))
    reasons = _environment_differences(raw_record, record, world_size=processes.world_size)
    processes.run_on_rank_zero(lambda: _print_differences(record, reasons))
    reproduces = {
        "name": record.name, "record_hash": record.record_hash, "config_hash": record.config_hash,
        "num_reads": record.test_set.num_reads + (record.reproduces.num_reads if record.reproduces else 0),
    }  # fmt: skip
    new_record = distill(recipe, run_dir=folder, resume=resume, callbacks=callbacks, reproduces=reproduces)
    return processes.run_on_rank_zero(
        lambda: _write_comparison(folder, migrate_record(raw_record), new_record, reproduces, reasons, tolerance)
    )


def _write_comparison(
    folder: Path, original: Mapping[str, Any], reproduced: Mapping[str, Any], reproduces: Mapping[str, Any],
    reasons: Sequence[str],
    tolerance: float,
) -> dict[str, Any]:  # fmt: skip
    comparisons = compare_records(original, reproduced, tolerance=tolerance)
    result = {
        "schema": 2, "kind": "reproduce", "reproduces": dict(reproduces), "tolerance": tolerance,
        "match": overall_match(comparisons),
        "same_weights": _has_same_weights(original, reproduced),
        "same_config": original.get("config_hash") == reproduced.get("config_hash"),
        "reasons": list(reasons), "metrics": comparisons,
    }  # fmt: skip
    text = json.dumps(result, indent=1, allow_nan=False)
    write_atomically(folder / "reproduce.json", lambda path: path.write_text(text, encoding="utf-8"))
    _print(render_reproduce_table(result))
    return result


def _recorded_recipe(record: Record, data_root: str | None) -> Recipe:
    recipe_dict = dict(record.recipe)
    if not recipe_dict:
        raise LimbeckError("the record holds no recipe, so nobody knows what to repeat: give a run of limbeck distill")
    if data_root is not None:
        recipe_dict["data"] = {**recipe_dict["data"], "root": data_root}
    return validate(Recipe, recipe_dict, "the recipe of the record")


def _require_same_inputs(record: Record, recipe: Recipe, folder: Path) -> None:
    """Refuse where weights or data are not those of the record: whatever came out, it would repeat nothing."""
    current_weights = hash_weight_files(to_plain(recipe))
    for config_path, file in record.weights.items():
        if config_path not in current_weights:
            raise LimbeckError(
                f"{config_path}: the file of weights that the run was made with is gone; put it back where the recipe "
                f"names it (SHA-256 {file.sha256[:12]}…)"
            )
        if current_weights[config_path]["sha256"] != file.sha256:
            raise LimbeckError(
                f"{config_path}: the file holds other weights than the run was made with (SHA-256 "
                f"{file.sha256[:12]}… then, "
                f"{current_weights[config_path]['sha256'][:12]}… now): put the old file back, or train anew with "
                "limbeck distill"
            )
    fingerprint = Job.from_recipe(recipe, folder).data.fingerprint()
    if record.data.fingerprint and fingerprint != record.data.fingerprint:
        raise LimbeckError(
            f"the data is not what the run was made with (fingerprint {record.data.fingerprint[:12]}… then, "
            f"{fingerprint[:12]}… now): give --data-root of the old data, or train anew with limbeck distill"
        )


def _environment_differences(raw_record: Mapping[str, Any], record: Record, *, world_size: int) -> list[str]:
    """What is not as it was, in sentences: the likely reasons where metrics will differ."""
    differences = [text] if (text := integrity_error(raw_record)) else []
    packages = _changed_values(
        "", {"limbeck": record.limbeck, **record.versions}, {"limbeck": __version__, **get_package_versions()}
    )
    if not packages and record.environment and record.environment != hash_environment():
        packages = ["other packages are installed, in addition to those that the metrics depend on"]
    threads = {"num_threads": record.recipe["num_threads"]} if record.recipe.get("num_threads") else {}
    differences += packages + _changed_values("", record.machine, get_hardware_info() | threads)
    if record.distributed.world_size != world_size:
        differences.append(
            f"processes: {record.distributed.world_size} then, {world_size} now, so a step uses another number "
            "of images"
        )
    differences += _code_differences(record)
    recorded_flags, current_flags = record.torch_flags.model_dump(), get_torch_flags()
    recorded_variables, current_variables = (
        recorded_flags.pop("environment_variables"),
        current_flags.pop("environment_variables"),
    )
    differences += _changed_values("torch's ", recorded_flags, current_flags)
    if record.environment:  # an older record knows no variable, and does not say that none was set
        names = sorted({*recorded_variables, *current_variables})
        differences += _changed_values(
            "$",
            *(
                {name: variables.get(name, "unset") for name in names}
                for variables in (recorded_variables, current_variables)
            ),
        )
    return differences


def _code_differences(record: Record) -> list[str]:
    """How limbeck's own code differs, as far as git knows."""
    recorded, current = record.source, get_git_revision()
    differences = []
    if recorded.commit and current["commit"] and recorded.commit != current["commit"]:
        differences.append(f"limbeck's code: commit {recorded.commit[:10]} then, {current['commit'][:10]} now")
    if recorded.dirty or current["dirty"]:
        dirty_states = " and ".join(
            state for state, dirty in (("then", recorded.dirty), ("now", current["dirty"])) if dirty
        )
        differences.append(f"limbeck's code: files differed from the commit, {dirty_states}")
    return differences


def _changed_values(prefix: str, recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Both have to be known: a record that never held a version says nothing about it."""
    return [
        f"{prefix}{name}: {recorded[name]} then, {current.get(name, 'absent')} now"
        for name in recorded
        if recorded[name] not in (None, "") and str(recorded[name]) != str(current.get(name, "absent"))
    ]


def _has_same_weights(original: Mapping[str, Any], reproduced: Mapping[str, Any]) -> bool | None:
    """Whether both students are the same bits; ``None`` where a record holds no digest of one."""
    files = [
        (record.get("files") or {}).get("student.safetensors", {}).get("sha256") for record in (original, reproduced)
    ]
    return files[0] == files[1] if all(files) else None


def _default_output_dir(run_dir: Path) -> Path:
    run_dir = run_dir.resolve()
    names = [f"{run_dir.name}-reproduce", *(f"{run_dir.name}-reproduce-{suffix}" for suffix in range(2, 1000))]
    return next(run_dir.parent / name for name in names if not (run_dir.parent / name).exists())


def _print_differences(record: Record, reasons: Sequence[str]) -> None:
    _print(f"{record.name}: repeating the run of {record.created or 'an unknown day'} from its record")
    for text in reasons:
        _print(f" - not as it was: {text}")


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201
