"""``limbeck reproduce``: repeat a run from its record in a new folder, and compare the metrics.

The new run reads the test set once; its record states how often the original run has read it. The original folder
is not changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

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
from limbeck.recipe.trust import require_trusted
from limbeck.report.migrate import migrate_record
from limbeck.report.record import Record
from limbeck.report.record_io import integrity_error, load_json, parse_record
from limbeck.report.terminal import render_reproduce_table
from limbeck.training import init_processes
from limbeck.training.callbacks import Callback
from limbeck.utils.console import print_text
from limbeck.utils.io import write_text
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.provenance import hash_weight_files
from limbeck.workflows.distill.run import distill

__all__ = ["TOLERANCE", "compare_records", "overall_match", "reproduce"]

TOLERANCE = 0.005
MatchLevel = Literal["exact", "within_tolerance", "different"]
_COST_KEYS = ("parameters", "flops", "bytes", "steps")


def reproduce(
    run_dir: str | Path,
    *,
    output_dir: str | Path | None = None,
    tolerance: float = TOLERANCE,
    data_root: str | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] | None = None,
) -> dict[str, Any]:
    """Repeat the run in ``run_dir`` from its ``record.json``.

    Args:
        run_dir: the folder of a finished run; only the record is read.
        output_dir: the new folder; ``None``: ``RUN-reproduce`` next to it, numbered if taken.
        tolerance: largest difference of a metric that matches: absolute for fractions, relative for values above 1.
        data_root: root folder of the data, if it has moved.
        resume: continue a repetition in ``output_dir`` that was stopped.
        callbacks: of each training; ``None``: a progress bar.

    Returns:
        What ``reproduce.json`` in the new folder holds; ``match`` is ``exact``, ``within_tolerance`` or ``different``.

    Raises:
        LimbeckError: there is no record of a run, or data or weights are missing or have changed.
    """
    if not 0 <= tolerance < 1:
        raise LimbeckError(f"tolerance is a fraction from 0 to below 1, such as {TOLERANCE}, got {tolerance}")
    run_dir = Path(run_dir)
    raw_record = load_json(run_dir / "record.json")
    record = parse_record(raw_record, source=str(run_dir / "record.json"))
    if record.kind != "run":
        raise LimbeckError(f"{run_dir} is a trial of a study: limbeck study repeats it together with the others")
    recipe = _recorded_recipe(record, data_root)
    folder = Path(output_dir or _default_output_dir(run_dir.resolve()))
    processes = init_processes()
    processes.run_on_all_ranks(lambda: _require_same_inputs(record, recipe, folder))
    reasons = _environment_differences(raw_record, record, processes.world_size)
    header = f"{record.name}: repeating the run of {record.created or 'an unknown day'} from its record"
    text = "\n".join([header, *(f" - changed: {reason}" for reason in reasons)])
    processes.run_on_rank_zero(lambda: print_text(text))
    reproduces = {
        "name": record.name, "record_hash": record.record_hash, "config_hash": record.config_hash,
        "num_reads": record.test_set.num_reads + (record.reproduces.num_reads if record.reproduces else 0),
    }  # fmt: skip
    reproduced = distill(recipe, run_dir=folder, resume=resume, callbacks=callbacks, reproduces=reproduces)
    original = migrate_record(raw_record)
    comparisons = compare_records(original, reproduced, tolerance=tolerance)
    result = {
        "schema": 2, "kind": "reproduce", "reproduces": reproduces, "tolerance": tolerance,
        "match": overall_match(comparisons),
        "same_weights": _has_same_weights(original, reproduced),
        "same_config": original.get("config_hash") == reproduced.get("config_hash"),
        "reasons": reasons, "metrics": comparisons,
    }  # fmt: skip
    result_json = json.dumps(result, indent=1, allow_nan=False)
    processes.run_on_rank_zero(lambda: write_text(folder / "reproduce.json", result_json))
    processes.run_on_rank_zero(lambda: print_text(render_reproduce_table(result)))
    return result


def compare_records(
    original: Mapping[str, Any], reproduced: Mapping[str, Any], *, tolerance: float
) -> list[dict[str, Any]]:
    """Every metric that training decides, from both records.

    Args:
        original: the record of the original run.
        reproduced: the record of the repeated run.
        tolerance: largest difference that matches: absolute, relative where both values are above 1 (NLL, KL), and
            100 times as large for points. Counts match exactly or not at all.

    Returns:
        For each metric ``model``, ``metric``, ``original``, ``reproduced`` and ``match``. A metric that is missing in
        one record is different; latency and seconds are left out.

    >>> old, new = ({"models": {"a": {"test": {"metrics": {"accuracy": value}}}}} for value in (0.90, 0.91))
    >>> [(row["metric"], row["match"]) for row in compare_records(old, new, tolerance=0.02)]
    [('test/accuracy', 'within_tolerance')]
    """
    old, new = _collect_metrics(original), _collect_metrics(reproduced)
    rows = []
    for model, metric in old | new:
        old_value, new_value = old.get((model, metric)), new.get((model, metric))
        match = _match_level(old_value, new_value, metric, tolerance)
        row = {"model": model, "metric": metric, "original": old_value, "reproduced": new_value, "match": match}
        rows.append(row)
    return rows


def overall_match(comparisons: Sequence[Mapping[str, Any]]) -> MatchLevel:
    """The worst match of all metrics; ``different`` where there is none.

    >>> overall_match([{"match": "exact"}, {"match": "within_tolerance"}]), overall_match([])
    ('within_tolerance', 'different')
    """
    levels = {comparison["match"] for comparison in comparisons}
    if "different" in levels or not levels:
        return "different"
    return "within_tolerance" if "within_tolerance" in levels else "exact"


def _recorded_recipe(record: Record, data_root: str | None) -> Recipe:
    if record.origin == "python":
        raise LimbeckError("the run was trained in Python and has no recipe: run its script again with another run_dir")
    recipe_dict = dict(record.recipe)
    if not recipe_dict:
        raise LimbeckError("the record holds no recipe, so its run cannot be repeated: give a run of limbeck distill")
    if data_root is not None and isinstance(recipe_dict.get("data"), Mapping):
        recipe_dict["data"] = {**recipe_dict["data"], "root": data_root}
    recipe = validate(Recipe, recipe_dict, "the recipe of the record")
    require_trusted(recipe.plugins, "the recipe of the record")
    return recipe


def _default_output_dir(run_dir: Path) -> Path:
    names = [f"{run_dir.name}-reproduce", *(f"{run_dir.name}-reproduce-{suffix}" for suffix in range(2, 1000))]
    return next(run_dir.parent / name for name in names if not (run_dir.parent / name).exists())


def _require_same_inputs(record: Record, recipe: Recipe, folder: Path) -> None:
    """Refuse weights or data that differ from those of the record."""
    current_weights = hash_weight_files(to_plain(recipe))
    for config_path, file in record.weights.items():
        if config_path not in current_weights:
            raise LimbeckError(
                f"{config_path}: the file of weights that the run was made with is gone; restore it where the recipe "
                f"names it (SHA-256 {file.sha256[:12]}…)"
            )
        current_hash = current_weights[config_path]["sha256"]
        if current_hash != file.sha256:
            raise LimbeckError(
                f"{config_path}: the file holds other weights than the run was made with (SHA-256 {file.sha256[:12]}… "
                f"then, {current_hash[:12]}… now): restore the old file, or train anew with limbeck distill"
            )
    fingerprint = Job.from_recipe(recipe, folder).data.fingerprint()
    if record.data.fingerprint and fingerprint != record.data.fingerprint:
        raise LimbeckError(
            f"the data is not what the run was made with (fingerprint {record.data.fingerprint[:12]}… then, "
            f"{fingerprint[:12]}… now): give --data-root of the old data, or train anew with limbeck distill"
        )


def _environment_differences(raw_record: Mapping[str, Any], record: Record, world_size: int) -> list[str]:
    """What has changed since the run, in sentences: the likely reasons where metrics differ."""
    packages = _changed_values(
        "", {"limbeck": record.limbeck, **record.versions}, {"limbeck": __version__, **get_package_versions()}
    )
    if not packages and record.environment and record.environment != hash_environment():
        packages = ["other packages are installed, in addition to those that the metrics depend on"]
    threads = {"num_threads": record.recipe["num_threads"]} if record.recipe.get("num_threads") else {}
    differences = [text] if (text := integrity_error(raw_record)) else []
    differences += packages + _changed_values("", record.machine, get_hardware_info() | threads)
    if record.distributed.world_size != world_size:
        differences.append(
            f"processes: {record.distributed.world_size} then, {world_size} now, so a step uses another number of "
            "samples"
        )
    recorded_code, current_code = record.source, get_git_revision()
    if recorded_code.commit and current_code["commit"] and recorded_code.commit != current_code["commit"]:
        commits = f"{recorded_code.commit[:10]} then, {current_code['commit'][:10]} now"
        differences.append(f"limbeck's code: commit {commits}")
    dirty = [name for name, is_dirty in (("then", recorded_code.dirty), ("now", current_code["dirty"])) if is_dirty]
    if dirty:
        differences.append(f"limbeck's code: files differed from the commit, {' and '.join(dirty)}")
    flags, current_flags = record.torch_flags.model_dump(), get_torch_flags()
    variables, current_variables = (values.pop("environment_variables") for values in (flags, current_flags))
    differences += _changed_values("torch's ", flags, current_flags)
    if record.environment:  # an older record has no variables
        unset = dict.fromkeys(sorted({*variables, *current_variables}), "unset")
        differences += _changed_values("$", unset | variables, unset | current_variables)
    return differences


def _changed_values(prefix: str, recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """The values of a record that differ now; a value that was not recorded cannot differ."""
    return [
        f"{prefix}{name}: {value} then, {current.get(name, 'absent')} now"
        for name, value in recorded.items()
        if value not in (None, "") and str(value) != str(current.get(name, "absent"))
    ]


def _has_same_weights(original: Mapping[str, Any], reproduced: Mapping[str, Any]) -> bool | None:
    """Whether both students have the same bits; ``None`` where a record has no digest."""
    digests = [
        (record.get("files") or {}).get("student.safetensors", {}).get("sha256") for record in (original, reproduced)
    ]
    return digests[0] == digests[1] if all(digests) else None


def _collect_metrics(record: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """The metrics of a record by model and name."""
    metrics: dict[tuple[str, str], Any] = {}
    for name, model in record["models"].items():
        for split, prefix in (("validation", "val"), ("test", "test")):
            split_metrics = (model.get(split) or {}).get("metrics") or {}
            metrics |= {(name, f"{prefix}/{key}"): value for key, value in split_metrics.items()}
        metrics |= {(name, key): model.get(key) for key in _COST_KEYS}
    agreement = record.get("agreement") or {}
    verdict = record.get("verdict") or {}
    unit = verdict.get("unit", "points")
    metrics["distilled", f"gain in {unit}" if unit else "gain"] = verdict.get("gain")
    metrics["distilled", "prediction_agreement"] = agreement.get("prediction_agreement")
    metrics["distilled", "agreement_kl"] = agreement.get("kl")
    return {key: value for key, value in metrics.items() if value is not None}


def _match_level(original: float | None, reproduced: float | None, metric: str, tolerance: float) -> MatchLevel:
    if original is None or reproduced is None:
        return "different"
    if original == reproduced:
        return "exact"
    if metric in _COST_KEYS:
        return "different"
    scale = 100.0 if metric == "gain in points" else max(1.0, min(abs(original), abs(reproduced)))
    return "within_tolerance" if abs(original - reproduced) <= tolerance * scale else "different"
