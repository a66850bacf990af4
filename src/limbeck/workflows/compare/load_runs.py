"""Run folders and study folders as arms with seeds: what is to be compared, and that it may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import Answers, load_answers
from limbeck.report.metrics_csv import Curve, curves
from limbeck.report.read import read
from limbeck.report.record import Model, Record

__all__ = ["Trained", "from_runs", "from_study", "read_study", "unlike"]

_FILES = ("record.json", "metrics.csv", "answers.safetensors")
_STATES = ("waiting", "running", "done", "failed")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One arm with one seed: where it stands, and what is known of it.

    Attributes:
        arm: its name in the comparison.
        group: the recipe or study it belongs to; an arm is compared with the control of its own group.
        model: its name in the record and the answers.
        record: ``None`` where it is not finished.
        state: as in ``study.json``.
    """

    arm: str
    group: str
    model: str
    role: str
    seed: int | None
    folder: Path
    record: Record | None = None
    answers: Answers | None = None
    curve: Curve | None = None
    state: str = "done"
    error: str = ""

    @property
    def figures(self) -> Model | None:
        """The model in the record."""
        return self.record.models[self.model] if self.record else None


def from_runs(folders: Sequence[Path]) -> list[Trained]:
    """All models of finished runs and of the cells of studies.

    Runs of one recipe are seeds of the same arms. Where there are several recipes, the name of each stands before its
    arms, or the folder of its first run where two recipes have one name.

    Raises:
        LimbeckError: a folder holds no finished run, or the same recipe and seed is there twice.
    """
    found = [one for folder in folders for one in _of(Path(folder))]
    seen: dict[tuple[str, str, int | None], Path] = {}
    for one in found:
        twice = seen.setdefault((one.group, one.arm, one.seed), one.folder)
        if twice != one.folder:
            raise LimbeckError(
                f"{twice} and {one.folder} are the same recipe with the same seed {one.seed}: give one of them, since "
                "the same run twice is no second seed"
            )
    groups = list(dict.fromkeys(one.group for one in found))
    if len(groups) == 1:
        return found
    names = {group: _name(group) for group in groups}
    several = [name for name in names.values() if list(names.values()).count(name) > 1]
    first = {group: next(one.folder for one in found if one.group == group) for group in groups}
    prefix = {group: str(first[group]) if name in several else name for group, name in names.items()}
    return [replace(one, arm=f"{prefix[one.group]}/{one.arm}") for one in found]


def read_study(folder: Path) -> dict[str, Any]:
    """The contents of ``study.json``.

    Raises:
        LimbeckError: it is not what this limbeck writes.
    """
    path = folder / "study.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = found["schema"] == 1 and found["kind"] == "study"
        shaped = isinstance(found["arms"], dict) and all(
            isinstance(cell["arm"], str) and isinstance(cell["folder"], str) and cell["state"] in _STATES
            for cell in found["cells"]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LimbeckError(f"{path} cannot be read as a study: run limbeck study again to write it") from error
    if not (known and shaped):
        raise LimbeckError(f"{path} is not what this limbeck writes (schema 1): run limbeck study again")
    return dict(found)


def from_study(folder: Path, study: Mapping[str, Any]) -> list[Trained]:
    """Its cells, finished or not; a cell whose files cannot be read yet counts as running, and says so.

    Raises:
        LimbeckError: a cell stands outside the folder.
    """
    return [_cell(folder, study, cell) for cell in study["cells"]]


def unlike(found: Sequence[Trained]) -> list[str]:
    """What a reader must know about the data; refuses figures that were measured on different test samples.

    Raises:
        LimbeckError: classes differ, or two arms of one seed were tested on other samples.
    """
    done = [one for one in found if one.record]
    classes, notes = None, []
    first: dict[int | None, Trained] = {}
    for one in done:
        assert one.record
        here = (one.record.data.name, one.record.data.classes)
        classes = classes or (here, one)
        beside = first.setdefault(one.seed, one)
        if here != classes[0] or not _same_test(one, beside):
            other = beside if here == classes[0] else classes[1]
            raise LimbeckError(
                f"{other.folder} and {one.folder} were tested on different data ({_data(other)}; {_data(one)}), so a "
                "difference between them says nothing: compare each with runs on the same data"
            )
        assert beside.record
        if one.record.data.fingerprint != beside.record.data.fingerprint:
            notes.append(f"{one.arm} and {beside.arm} were tested on the same samples and trained on different data.")
    if len({one.record.data.fingerprint for one in first.values() if one.record}) > 1:
        notes.append("Each seed cut the data anew, so the spread over seeds holds that of the data as well.")
    return list(dict.fromkeys(notes))


def _of(folder: Path) -> list[Trained]:
    if (folder / "study.json").exists():
        study = read_study(folder)
        return [one for one in from_study(folder, study) if one.record]
    record = read(folder / "record.json")
    answers, drawn = _answers(folder), curves(folder / "metrics.csv")
    if record.arm is not None:
        model = _of_arm(record, record.arm.arm)
        return [
            Trained(
                arm=record.arm.arm, group=f"{record.arm.study}\n", model=model, role=record.models[model].role,
                seed=record.arm.seed, folder=folder, record=record, answers=answers, curve=drawn.get(model),
            )
        ]  # fmt: skip
    recipe = {key: value for key, value in record.recipe.items() if key != "seed" and value is not None}
    group = f"{record.name}\n{json.dumps(recipe, sort_keys=True, default=str)}"
    return [
        Trained(
            arm=name, group=group, model=name, role=model.role, seed=record.seed, folder=folder, record=record,
            answers=answers, curve=drawn.get(name),
        )
        for name, model in record.models.items()
    ]  # fmt: skip


def _cell(folder: Path, study: Mapping[str, Any], cell: Mapping[str, Any]) -> Trained:
    arm, place = cell["arm"], folder / cell["folder"]
    # Also each file: a link could show a stranger's as this study's own.
    if not all(path.resolve().is_relative_to(folder.resolve()) for path in (place, *(place / name for name in _FILES))):
        raise LimbeckError(f"{folder} has a cell outside of itself ({cell['folder']}): move the cell into it")
    role = str((study["arms"].get(arm) or {}).get("role", "distilled"))
    found = Trained(
        arm=arm, group=f"{study.get('name', folder.name)}\n", model=arm, role=role, seed=cell.get("seed"),
        folder=place, state=cell["state"], error=cell.get("error") or "",
    )  # fmt: skip
    try:
        drawn = curves(place / "metrics.csv")
        curve = drawn.get(arm) or next(iter(drawn.values()), None)
        if cell["state"] != "done":
            return replace(found, curve=curve)
        record = read(place / "record.json")
        model = _of_arm(record, arm)
        return replace(
            found, record=record, model=model, answers=_answers(place), curve=drawn.get(model, curve),
            role=record.models[model].role,
        )  # fmt: skip
    except LimbeckError as error:
        # The others are shown all the same; one that trains may be whole at the next look.
        state = "failed" if cell["state"] == "done" else cell["state"]
        return replace(found, state=state, error=found.error or str(error))


def _of_arm(record: Record, arm: str) -> str:
    """The model of an arm: by its name, else the one that is best on validation."""
    if arm in record.models:
        return arm

    def top(name: str) -> float:
        found = record.models[name].validation
        return found.top1 if found and found.top1 is not None else 0.0

    if not record.models:
        raise LimbeckError(f"the record of the arm {arm} holds no model: train it again")
    return max(record.models, key=top)


def _answers(folder: Path) -> Answers | None:
    path = folder / "answers.safetensors"
    return load_answers(path) if path.exists() else None


def _same_test(one: Trained, other: Trained) -> bool:
    if one.answers and other.answers and one.answers.fingerprint and other.answers.fingerprint:
        return (one.answers.fingerprint, one.answers.part) == (other.answers.fingerprint, other.answers.part)
    assert one.record
    assert other.record
    return one.record.data.fingerprint == other.record.data.fingerprint


def _data(one: Trained) -> str:
    assert one.record
    data = one.record.data
    return f"{data.name or 'unnamed'}, {len(data.classes)} classes, fingerprint {data.fingerprint[:8] or 'unknown'}"


def _name(group: str) -> str:
    return group.partition("\n")[0]
