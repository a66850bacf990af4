"""Several runs, or a study, beside each other: on one page, in the terminal, and as tables to take away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.roles import Role
from limbeck.report import VARIANT_RULE, integrity_warning, render_compare_table
from limbeck.report.compare import (
    Comparison,
    TrialStatus,
    render_compare_page,
    to_csv,
    to_latex,
    to_markdown,
)
from limbeck.utils.io import write_atomically
from limbeck.workflows.compare.differences import TrialsBySeed, agreement_matrix, metric_value, split_metrics
from limbeck.workflows.compare.load_runs import TrialResult, check_comparable, load_runs, load_study_trials, read_study
from limbeck.workflows.compare.summarize import summarize_variant

__all__ = ["build_comparison", "compare"]

_PAGE_FILE = "compare.html"
_ROLE_ORDER = tuple(Role)


def compare(
    folders: Sequence[Path], *, html: Path | None = None, csv: Path | None = None, markdown: Path | None = None,
    latex: Path | None = None, baseline: str | None = None,
) -> Comparison:  # fmt: skip
    """Compare runs or a study, print the verdicts and the table, and write the page and what else is asked for.

    Arguments:
        folders: of finished runs, or of one study, which may still be running.
        html: the page; ``None``: ``compare.html`` in the folder, or in the current one where there are several.
        csv: a file for the table with every figure in full; ``None``: none.
        markdown: a file for the table as GitHub shows it.
        latex: a file for the table as booktabs sets it.
        baseline: the variant to compare with; ``None``: the study's own, or the student alone of each recipe.

    Raises:
        LimbeckError: a folder holds neither, the data differ, or there is no such variant.
    """
    result = build_comparison(folders, baseline=baseline)
    page_path = html or (Path(folders[0]) / _PAGE_FILE if len(folders) == 1 else Path(_PAGE_FILE))
    outputs: list[tuple[Path | None, Callable[[Comparison], str]]] = [
        (csv, to_csv), (markdown, to_markdown), (latex, to_latex), (page_path, render_compare_page),
    ]  # fmt: skip
    print(render_compare_table(result))  # noqa: T201
    for path, to_text in outputs:
        if path is not None:
            _write_text(Path(path), to_text(result))
            print(Path(path).resolve())  # noqa: T201
    return result


def build_comparison(folders: Sequence[Path], *, baseline: str | None = None) -> Comparison:
    """What :func:`compare` shows; reads only."""
    folders = [Path(folder) for folder in folders]
    if not folders:
        raise LimbeckError("there is nothing to compare: give the folders of runs, or of one study")
    study = read_study(folders[0]) if len(folders) == 1 and (folders[0] / "study.json").exists() else {}
    trials = load_study_trials(folders[0], study) if study else load_runs(folders)
    notes = check_comparable(trials)
    split, trials_by_variant = _choose_split(trials), _group_by_variant(trials)
    baselines = _choose_baselines(trials, baseline, study)
    # What a study has worked out is against its own baseline.
    study_results = _as_mapping(study.get("results")) if baseline in (None, study.get("baseline")) else {}
    variant_results, variant_entries = _as_mapping(study_results.get("variants")), _as_mapping(study.get("variants"))
    variants = [
        summarize_variant(
            name,
            trials_by_variant,
            trials,
            baseline=baselines[name],
            split=split,
            study_results=_as_mapping(variant_results.get(name)),
            study_entry=_as_mapping(variant_entries.get(name)),
        )
        for name in trials_by_variant
    ]
    sample_counts = [metrics.num_samples for trial in trials if (metrics := split_metrics(trial, split))]
    records = [trial.record for trial in trials if trial.record]
    return Comparison(
        title=str(study.get("name") or folders[0].name) if study else _comparison_title(trials),
        kind="study" if study else "runs",
        variants=tuple(variants),
        trials=tuple(_trial_row(trial, split, folders[0] if study else None) for trial in trials),
        baselines=tuple(dict.fromkeys(trial for trial in baselines.values() if trial)),
        split=split,
        num_samples=max(sample_counts, default=None),
        rule=str(study_results.get("rule") or VARIANT_RULE),
        agreement=agreement_matrix(trials_by_variant),
        notes=tuple(notes),
        warnings=_collect_warnings(trials),
        limbeck=records[0].limbeck if records else str(study.get("limbeck") or ""),
        created=str(study.get("created") or max((record.created for record in records), default="")),
        details=_collect_facts(trials, study),
    )


def _group_by_variant(trials: Sequence[TrialResult]) -> Mapping[str, TrialsBySeed]:
    """Finished trainings by variant and seed; a variant that has none yet is there, and empty."""
    trials_by_variant: dict[str, dict[int | None, TrialResult]] = {}
    groups = list(dict.fromkeys(trial.group for trial in trials))
    role_rank: dict[str, int] = {role: rank_index for rank_index, role in enumerate(_ROLE_ORDER)}
    for trial in sorted(
        trials, key=lambda trial: (groups.index(trial.group), role_rank.get(trial.role, len(role_rank)))
    ):
        trials_by_seed = trials_by_variant.setdefault(trial.variant, {})
        if trial.record:
            trials_by_seed[trial.seed] = trial
    return trials_by_variant


def _choose_baselines(
    trials: Sequence[TrialResult], baseline: str | None, study: Mapping[str, Any]
) -> dict[str, str | None]:
    """For every variant the one it is compared with; none for the baseline itself."""
    names = list(dict.fromkeys(trial.variant for trial in trials))
    baseline_name = baseline or study.get("baseline")
    baselines: dict[str, str | None] = {}
    for trial in trials:
        group_trials = [group_trial for group_trial in trials if group_trial.group == trial.group]
        group_baseline = next(
            (
                group_trial.variant
                for group_trial in group_trials
                if (
                    group_trial.role == Role.BASELINE
                    if baseline_name is None
                    else group_trial.variant == baseline_name or group_trial.variant.endswith(f"/{baseline_name}")
                )
            ),
            None,
        )
        baselines[trial.variant] = baseline_name if baseline_name in names else group_baseline
    if baseline and not any(baselines.values()):
        raise LimbeckError(
            f"there is no variant {baseline!r} to compare with: the variants are "
            f"{suggest_names(baseline, names, max_names=8)}"
        )
    return {
        variant: None if variant_baseline == variant else variant_baseline
        for variant, variant_baseline in baselines.items()
    }


def _trial_row(trial: TrialResult, split: str, study_dir: Path | None) -> TrialStatus:
    path = trial.folder.relative_to(study_dir) if study_dir else trial.folder
    return TrialStatus(
        variant=trial.variant,
        seed=trial.seed,
        folder=path.as_posix(),
        state=cast(Any, trial.state),
        error=trial.error,
        accuracy=metric_value(trial, split, "accuracy"),
        num_reads=trial.record.test_set.num_reads if trial.record else None,
        step=int(trial.curve.steps[-1]) if trial.curve and trial.curve.steps else None,
    )


def _collect_warnings(trials: Sequence[TrialResult]) -> tuple[str, ...]:
    """Each warning once, with the number of runs that gave it where it was not all; first records that were changed."""
    runs = {trial.folder: trial.record for trial in trials if trial.record}
    change_warnings = tuple(
        f"{folder}: {change_warning}" for folder in runs if (change_warning := integrity_warning(folder))
    )
    counts: dict[str, int] = {}
    for record in runs.values():
        for text in dict.fromkeys(record.warnings):
            counts[text] = counts.get(text, 0) + 1
    return change_warnings + tuple(
        text if count == len(runs) else f"{text} ({count} of {len(runs)} runs)" for text, count in counts.items()
    )


def _collect_facts(trials: Sequence[TrialResult], study: Mapping[str, Any]) -> dict[str, str]:
    records = list({trial.folder: trial.record for trial in trials if trial.record}.values())
    if not records:
        return {}
    data = records[0].data
    machines = {str(record.machine.get("cpu", "unknown")) for record in records}
    keep = study.get("keep_weights") or _as_mapping(records[0].recipe.get("training")).get("keep_weights")
    weights = {"last": "of the last epoch", "best": "of the best epoch on validation"}.get(str(keep), "–")
    return {
        "data set": data.name or "unnamed", "classes": str(len(data.classes)),
        "training examples": "–" if data.num_train is None else f"{data.num_train:,}",
        "of which labelled": "–" if data.num_labeled is None else f"{data.num_labeled:,}",
        "test examples": "–" if data.num_test is None else f"{data.num_test:,}",
        "weights measured": weights,
        "machines": ", ".join(sorted(machines)),
    }  # fmt: skip


def _choose_split(trials: Sequence[TrialResult]) -> Literal["test", "validation"]:
    model_entries = [item.model_entry for item in trials if item.model_entry]
    return "test" if not model_entries or any(item.test for item in model_entries) else "validation"


def _as_mapping(value: Any) -> Mapping[str, Any]:
    """What is no mapping, in a file that somebody edited, counts as not there."""
    return value if isinstance(value, Mapping) else {}


def _comparison_title(trials: Sequence[TrialResult]) -> str:
    return " and ".join(dict.fromkeys(trial.group.partition("\n")[0] for trial in trials))


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8", newline=""))
