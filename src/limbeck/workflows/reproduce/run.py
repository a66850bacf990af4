"""Repeating a run from its record alone, and saying whether the figures agree.

The repeated run is a run like any other, in a folder of its own: it opens the sealed test part once, and its record
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
from limbeck.evaluation import environment, flags, machine, source, versions
from limbeck.recipe import Recipe
from limbeck.recipe.schema import plain, validated
from limbeck.report import rerun_table
from limbeck.report.read import load, parse
from limbeck.report.record import Record
from limbeck.report.record_hash import broken
from limbeck.training import join
from limbeck.training.callbacks import Watcher
from limbeck.utils.io import write_atomically
from limbeck.workflows._job.job import Job
from limbeck.workflows._job.provenance import weights
from limbeck.workflows.distill.run import distill
from limbeck.workflows.reproduce.compare_records import agree, compared

__all__ = ["TOLERANCE", "rerun"]

TOLERANCE = 0.005


def rerun(
    run: Path,
    *,
    out: Path | None = None,
    tolerance: float = TOLERANCE,
    data_root: str | None = None,
    resume: bool = False,
    watchers: Sequence[Watcher] | None = None,
) -> dict[str, Any]:
    """Repeat the run in ``run`` from its ``record.json``, and give what ``rerun.json`` in the new folder holds.

    Arguments:
        run: the folder of a finished run; of it only the record is read.
        out: the new folder; ``None``: ``RUN-rerun`` beside it, numbered where taken.
        tolerance: how far a figure may differ: fractions absolutely, figures above 1 in proportion.
        data_root: where the data stands now, if it has moved.
        resume: go on with a repetition in ``out`` that was stopped.
        watchers: who is told how training goes; ``None``: a progress bar.

    ``agrees`` in what is given says ``exactly``, ``within`` or ``not``.

    Raises:
        LimbeckError: there is no record of a run; the data is absent or another one; weights are gone or changed.
    """
    if not 0 <= tolerance < 1:
        raise LimbeckError(f"tolerance is a share from 0 to below 1, such as {TOLERANCE}, not {tolerance}")
    raw = load(run / "record.json")
    record = parse(raw, where=str(run / "record.json"))
    if record.kind != "run":
        raise LimbeckError(f"{run} is an arm of a study: repeat it with limbeck study, which trains it with its others")
    recipe = _recipe(record, data_root)
    folder = out or _beside(run)
    processes = join()
    processes.each(lambda: _require_same(record, recipe, folder))
    reasons = _differences(raw, record, world=processes.world)
    processes.first(lambda: _say_before(record, reasons))
    repeats = {
        "of": record.name, "hash": record.hash, "identity": record.identity,
        "reads": record.sealed_test.reads + (record.repeats.reads if record.repeats else 0),
    }  # fmt: skip
    again = distill(recipe, out=folder, resume=resume, watchers=watchers, repeats=repeats)
    return processes.first(lambda: _told(folder, raw, again, repeats, reasons, tolerance))


def _told(
    folder: Path, before: Mapping[str, Any], now: Mapping[str, Any], repeats: Mapping[str, Any], reasons: Sequence[str],
    tolerance: float,
) -> dict[str, Any]:  # fmt: skip
    figures = compared(before, now, tolerance=tolerance)
    found = {
        "schema": 1, "kind": "rerun", "repeats": dict(repeats), "tolerance": tolerance, "agrees": agree(figures),
        "same_weights": _same_weights(before, now), "same_identity": before.get("identity") == now.get("identity"),
        "reasons": list(reasons), "figures": figures,
    }  # fmt: skip
    text = json.dumps(found, indent=1, allow_nan=False)
    write_atomically(folder / "rerun.json", lambda path: path.write_text(text, encoding="utf-8"))
    _say(rerun_table(found))
    return found


def _recipe(record: Record, data_root: str | None) -> Recipe:
    settings = dict(record.recipe)
    if not settings:
        raise LimbeckError("the record holds no recipe, so nobody knows what to repeat: give a run of limbeck distill")
    if data_root is not None:
        settings["data"] = {**settings["data"], "root": data_root}
    return validated(Recipe, settings, "the recipe of the record")


def _require_same(record: Record, recipe: Recipe, folder: Path) -> None:
    """Refuse where weights or data are not those of the record: whatever came out, it would repeat nothing."""
    now = weights(plain(recipe))
    for place, file in record.weights.items():
        if place not in now:
            raise LimbeckError(
                f"{place}: the file of weights that the run was made with is gone; put it back where the recipe "
                f"names it (SHA-256 {file.sha256[:12]}…)"
            )
        if now[place]["sha256"] != file.sha256:
            raise LimbeckError(
                f"{place}: the file holds other weights than the run was made with (SHA-256 {file.sha256[:12]}… then, "
                f"{now[place]['sha256'][:12]}… now): put the old file back, or train anew with limbeck distill"
            )
    found = Job.of(recipe, folder).data.fingerprint()
    if record.data.fingerprint and found != record.data.fingerprint:
        raise LimbeckError(
            f"the data is not what the run was made with (fingerprint {record.data.fingerprint[:12]}… then, "
            f"{found[:12]}… now): give --data-root of the old data, or train anew with limbeck distill"
        )


def _differences(raw: Mapping[str, Any], record: Record, *, world: int) -> list[str]:
    """What is not as it was, in sentences: the likely reasons where figures will differ."""
    told = [text] if (text := broken(raw)) else []
    packages = _changed("", {"limbeck": record.limbeck, **record.versions}, {"limbeck": __version__, **versions()})
    if not packages and record.environment and record.environment != environment():
        packages = ["other packages are installed, beside those that figures depend on"]
    threads = {"threads": record.recipe["threads"]} if record.recipe.get("threads") else {}
    told += packages + _changed("", record.machine, machine() | threads)
    if record.processes.number != world:
        told.append(
            f"processes: {record.processes.number} then, {world} now, so a step sees another number of pictures"
        )
    told += _code(record)
    was, now = record.flags.model_dump(), flags()
    then_set, now_set = was.pop("variables"), now.pop("variables")
    told += _changed("torch's ", was, now)
    if record.environment:  # an older record knows no variable, and does not say that none was set
        names = sorted({*then_set, *now_set})
        told += _changed("$", *({name: has.get(name, "unset") for name in names} for has in (then_set, now_set)))
    return told


def _code(record: Record) -> list[str]:
    """How limbeck's own code differs, as far as git knows."""
    then, now = record.source, source()
    told = []
    if then.commit and now["commit"] and then.commit != now["commit"]:
        told.append(f"limbeck's code: commit {then.commit[:10]} then, {now['commit'][:10]} now")
    if then.dirty or now["dirty"]:
        when = " and ".join(word for word, dirty in (("then", then.dirty), ("now", now["dirty"])) if dirty)
        told.append(f"limbeck's code: files differed from the commit, {when}")
    return told


def _changed(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Both have to be known: a record that never held a version says nothing about it."""
    return [
        f"{what}{name}: {then[name]} then, {now.get(name, 'absent')} now"
        for name in then
        if then[name] not in (None, "") and str(then[name]) != str(now.get(name, "absent"))
    ]


def _same_weights(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool | None:
    """Whether both students are the same bits; ``None`` where a record holds no digest of one."""
    files = [(one.get("files") or {}).get("student.safetensors", {}).get("sha256") for one in (before, now)]
    return files[0] == files[1] if all(files) else None


def _beside(run: Path) -> Path:
    run = run.resolve()
    names = [f"{run.name}-rerun", *(f"{run.name}-rerun-{number}" for number in range(2, 1000))]
    return next(run.parent / name for name in names if not (run.parent / name).exists())


def _say_before(record: Record, reasons: Sequence[str]) -> None:
    _say(f"{record.name}: repeating the run of {record.created or 'an unknown day'} from its record")
    for text in reasons:
        _say(f" - not as it was: {text}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
