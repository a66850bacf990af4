"""Several runs, or a study, beside each other: on one page, in the terminal, and as tables to take away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from limbeck.core.errors import LimbeckError, nearest
from limbeck.report import changed
from limbeck.report.compare import (
    RULE,
    Cell,
    Comparison,
    compare_page,
    compare_table,
    csv_text,
    latex_text,
    markdown_text,
)
from limbeck.utils.io import write_atomically
from limbeck.workflows.compare.differences import Seeds, agreement, quality
from limbeck.workflows.compare.load_runs import Trained, from_runs, from_study, read_study, unlike
from limbeck.workflows.compare.summarize import arm_figures

__all__ = ["compare", "comparison"]

_PAGE = "compare.html"
_ORDER = ("teacher", "assistant", "alone", "longer", "smoothed", "direct", "distilled")


def compare(
    folders: Sequence[Path], *, out: Path | None = None, csv: Path | None = None, markdown: Path | None = None,
    latex: Path | None = None, against: str | None = None,
) -> Comparison:  # fmt: skip
    """Compare runs or a study, print the verdicts and the table, and write the page and what else is asked for.

    Arguments:
        folders: of finished runs, or of one study, which may still be running.
        out: the page; ``None``: ``compare.html`` in the folder, or in the current one where there are several.
        csv: a file for the table with every figure in full; ``None``: none.
        markdown: a file for the table as GitHub shows it.
        latex: a file for the table as booktabs sets it.
        against: the arm to compare with; ``None``: the study's own, or the student alone of each recipe.

    Raises:
        LimbeckError: a folder holds neither, the data differ, or there is no such arm.
    """
    found = comparison(folders, against=against)
    place = out or (Path(folders[0]) / _PAGE if len(folders) == 1 else Path(_PAGE))
    wanted: list[tuple[Path | None, Callable[[Comparison], str]]] = [
        (csv, csv_text), (markdown, markdown_text), (latex, latex_text), (place, compare_page),
    ]  # fmt: skip
    print(compare_table(found))  # noqa: T201
    for path, text in wanted:
        if path is not None:
            _write(Path(path), text(found))
            print(Path(path).resolve())  # noqa: T201
    return found


def comparison(folders: Sequence[Path], *, against: str | None = None) -> Comparison:
    """What :func:`compare` shows; reads only."""
    folders = [Path(folder) for folder in folders]
    if not folders:
        raise LimbeckError("there is nothing to compare: give the folders of runs, or of one study")
    study = read_study(folders[0]) if len(folders) == 1 and (folders[0] / "study.json").exists() else {}
    found = from_study(folders[0], study) if study else from_runs(folders)
    told = unlike(found)
    part, arms = _part(found), _ordered(found)
    controls = _controls(found, against, study)
    # What a study has worked out is against its own control.
    results = _mapping(study.get("results")) if against in (None, study.get("against")) else {}
    given, plans = _mapping(results.get("arms")), _mapping(study.get("arms"))
    drawn = [
        arm_figures(
            name, arms, found, control=controls[name], part=part, given=_mapping(given.get(name)),
            plan=_mapping(plans.get(name)),
        )
        for name in arms
    ]  # fmt: skip
    examples = [q.examples for one in found if (q := quality(one, part))]
    records = [one.record for one in found if one.record]
    return Comparison(
        title=str(study.get("name") or folders[0].name) if study else _title(found), kind="study" if study else "runs",
        arms=tuple(drawn), cells=tuple(_shown(one, part, folders[0] if study else None) for one in found),
        against=tuple(dict.fromkeys(one for one in controls.values() if one)), part=part,
        examples=max(examples, default=None), rule=str(results.get("rule") or RULE), agreement=agreement(arms),
        notes=tuple(told), warnings=_warnings(found),
        limbeck=records[0].limbeck if records else str(study.get("limbeck") or ""),
        created=str(study.get("created") or max((record.created for record in records), default="")),
        facts=_facts(found, study),
    )  # fmt: skip


def _ordered(found: Sequence[Trained]) -> Mapping[str, Seeds]:
    """Finished trainings by arm and seed; an arm that has none yet is there, and empty."""
    arms: dict[str, dict[int | None, Trained]] = {}
    groups = list(dict.fromkeys(one.group for one in found))
    rank = {role: place for place, role in enumerate(_ORDER)}
    for one in sorted(found, key=lambda one: (groups.index(one.group), rank.get(one.role, len(rank)))):
        seeds = arms.setdefault(one.arm, {})
        if one.record:
            seeds[one.seed] = one
    return arms


def _controls(found: Sequence[Trained], against: str | None, study: Mapping[str, Any]) -> dict[str, str | None]:
    """For every arm the one it is compared with; none for the control itself."""
    names = list(dict.fromkeys(one.arm for one in found))
    wanted = against or str(study.get("against") or "alone")
    chosen: dict[str, str | None] = {}
    for one in found:
        inside = [other.arm for other in found if other.group == one.group]
        mine = next((name for name in inside if name == wanted or name.endswith(f"/{wanted}")), None)
        chosen[one.arm] = wanted if wanted in names else mine
    if against and not any(chosen.values()):
        raise LimbeckError(
            f"there is no arm {against!r} to compare with: the arms are {nearest(against, names, most=8)}"
        )
    return {arm: None if control == arm else control for arm, control in chosen.items()}


def _shown(one: Trained, part: str, study: Path | None) -> Cell:
    found = quality(one, part)
    place = one.folder.relative_to(study) if study else one.folder
    return Cell(
        arm=one.arm, seed=one.seed, folder=place.as_posix(), state=cast(Any, one.state), error=one.error,
        top1=found.top1 if found else None, reads=one.record.sealed_test.reads if one.record else None,
        step=int(one.curve.steps[-1]) if one.curve and one.curve.steps else None,
    )  # fmt: skip


def _warnings(found: Sequence[Trained]) -> tuple[str, ...]:
    """Each warning once, with the number of runs that gave it where it was not all; first records that were changed."""
    runs = {one.folder: one.record for one in found if one.record}
    doubts = tuple(f"{folder}: {doubt}" for folder in runs if (doubt := changed(folder)))
    said: dict[str, int] = {}
    for record in runs.values():
        for text in dict.fromkeys(record.warnings):
            said[text] = said.get(text, 0) + 1
    return doubts + tuple(text if n == len(runs) else f"{text} ({n} of {len(runs)} runs)" for text, n in said.items())


def _facts(found: Sequence[Trained], study: Mapping[str, Any]) -> dict[str, str]:
    records = list({one.folder: one.record for one in found if one.record}.values())
    if not records:
        return {}
    data = records[0].data
    machines = {str(record.machine.get("cpu", "unknown")) for record in records}
    keep = study.get("keep") or _mapping(records[0].recipe.get("training")).get("keep")
    weights = {"last": "of the last epoch", "best": "of the best epoch on validation"}.get(str(keep), "–")
    return {
        "data set": data.name or "unnamed", "classes": str(len(data.classes)),
        "training examples": "–" if data.train is None else f"{data.train:,}",
        "of which labelled": "–" if data.labelled is None else f"{data.labelled:,}",
        "test examples": "–" if data.test is None else f"{data.test:,}",
        "weights measured": weights,
        "machines": ", ".join(sorted(machines)),
    }  # fmt: skip


def _part(found: Sequence[Trained]) -> Literal["test", "validation"]:
    figures = [one.figures for one in found if one.figures]
    return "test" if not figures or any(one.test for one in figures) else "validation"


def _mapping(found: Any) -> Mapping[str, Any]:
    """What is no mapping, in a file that somebody edited, counts as not there."""
    return found if isinstance(found, Mapping) else {}


def _title(found: Sequence[Trained]) -> str:
    return " and ".join(dict.fromkeys(one.group.partition("\n")[0] for one in found))


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8", newline=""))
