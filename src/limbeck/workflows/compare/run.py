"""Compares several runs, or the variants of a study: in the terminal, on one page, and in tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.roles import Role
from limbeck.report import integrity_warning
from limbeck.report.compare.compare_page import render_compare_page
from limbeck.report.compare.comparison import Comparison, TrialStatus
from limbeck.report.compare.tables import to_csv, to_latex, to_markdown
from limbeck.report.task_metrics import UNKNOWN_METRIC, TaskMetrics, load_task_metrics
from limbeck.report.terminal import render_compare_table
from limbeck.report.verdict import VARIANT_RULE
from limbeck.utils.console import print_text
from limbeck.utils.durations import format_duration
from limbeck.utils.io import write_text
from limbeck.workflows.compare.load_runs import (
    TrialResult,
    TrialsBySeed,
    check_comparable,
    load_runs,
    load_study_trials,
    read_study,
)
from limbeck.workflows.compare.summarize import agreement_matrix, summarize_variant
from limbeck.workflows.study.trials import estimate_seconds_left

__all__ = ["build_comparison", "compare"]

_ROLE_ORDER: dict[str, int] = {role: index for index, role in enumerate(Role)}


def compare(
    folders: Sequence[str | Path], *, html: str | Path | None = None, csv: str | Path | None = None,
    markdown: str | Path | None = None, latex: str | Path | None = None, baseline: str | None = None,
) -> Comparison:  # fmt: skip
    """Compare runs or a study, print the verdicts and the table, and write the page and further tables.

    Args:
        folders: of finished runs, or of one study, which may still be running.
        html: the page; ``None``: ``compare.html`` in the folder, or in the current one with several folders.
        csv: a file for the table with unrounded numbers.
        markdown: a file for the table in GitHub's Markdown.
        latex: a file for the table with booktabs.
        baseline: the variant to compare with; ``None``: that of the study, or of each recipe.

    Raises:
        LimbeckError: a folder has neither run nor study, the data differ, or there is no such variant.
    """
    comparison = build_comparison(folders, baseline=baseline)
    page_path = html or (Path(folders[0]) if len(folders) == 1 else Path()) / "compare.html"
    outputs: list[tuple[str | Path | None, Callable[[Comparison], str]]] = [
        (csv, to_csv), (markdown, to_markdown), (latex, to_latex), (page_path, render_compare_page),
    ]  # fmt: skip
    print_text(render_compare_table(comparison))
    for path, render in outputs:
        if path is not None:
            print_text(write_text(Path(path), render(comparison)).resolve())
    return comparison


def build_comparison(folders: Sequence[str | Path], *, baseline: str | None = None) -> Comparison:
    """What :func:`compare` shows; writes nothing."""
    run_dirs = [Path(folder) for folder in folders]
    if not run_dirs:
        raise LimbeckError("there is nothing to compare: give the folders of runs, or of one study")
    study = read_study(run_dirs[0]) if len(run_dirs) == 1 and (run_dirs[0] / "study.json").exists() else {}
    trials = load_study_trials(run_dirs[0], study) if study else load_runs(run_dirs)
    notes = check_comparable(trials)
    states = [trial.state for trial in trials]
    if "running" in states and (left := estimate_seconds_left(study["trials"], num_workers=states.count("running"))):
        notes.append(f"The study takes about {format_duration(left)} more.")
    trials_by_variant = _group_by_variant(trials)
    entries = [trial.model_entry for trial in trials if trial.model_entry]
    split: Literal["test", "validation"] = (
        "test" if not entries or any(entry.test for entry in entries) else "validation"
    )
    baselines = _choose_baselines(trials, baseline, study)
    # The results of a study are differences to its own baseline.
    study_results = _as_mapping(study.get("results")) if baseline in (None, study.get("baseline")) else {}
    variant_results, variant_entries = _as_mapping(study_results.get("variants")), _as_mapping(study.get("variants"))
    records = [trial.record for trial in trials if trial.record]
    metrics = _load_task_metrics(trials)
    title = " and ".join(dict.fromkeys(trial.group[0] for trial in trials))
    return Comparison(
        title=str(study.get("name") or run_dirs[0].name) if study else title,
        kind="study" if study else "runs",
        task_metrics=metrics,
        variants=tuple(
            summarize_variant(
                name,
                trials_by_variant,
                trials,
                baseline=baselines[name],
                split=split,
                metrics=metrics,
                study_results=_as_mapping(variant_results.get(name)),
                study_entry=_as_mapping(variant_entries.get(name)),
            )
            for name in trials_by_variant
        ),
        trials=tuple(
            _trial_status(trial, split, metrics.primary_metric, run_dirs[0] if study else None) for trial in trials
        ),
        baselines=tuple(dict.fromkeys(name for name in baselines.values() if name)),
        split=split,
        num_samples=max((entry.num_samples for trial in trials if (entry := trial.metrics(split))), default=None),
        rule=str(study_results.get("rule") or VARIANT_RULE),
        agreement=agreement_matrix(trials_by_variant),
        notes=tuple(notes),
        warnings=_collect_warnings(trials),
        limbeck=records[0].limbeck if records else str(study.get("limbeck") or ""),
        created=str(study.get("created") or max((record.created for record in records), default="")),
        details=_collect_details(trials, study),
    )


def _load_task_metrics(trials: Sequence[TrialResult]) -> TaskMetrics:
    """The metrics of the first finished trial; of none, those that a trial had when it began."""
    for trial in trials:
        if trial.record is not None:
            return trial.record
    begun = [trial for trial in trials if trial.curve]
    candidates = [load_task_metrics(trial.folder, {trial.variant: trial.curve}) for trial in begun if trial.curve]
    known = (metrics for metrics in candidates if metrics.metric_info)
    return next(known, candidates[0] if candidates else TaskMetrics(primary_metric=UNKNOWN_METRIC))


def _group_by_variant(trials: Sequence[TrialResult]) -> Mapping[str, TrialsBySeed]:
    """Finished trials by variant and seed, ordered by recipe and role; a variant without any is there, and empty."""
    groups = list(dict.fromkeys(trial.group for trial in trials))
    ordered = sorted(trials, key=lambda trial: (groups.index(trial.group), _ROLE_ORDER.get(trial.role, len(Role))))
    trials_by_variant: dict[str, dict[int | None, TrialResult]] = {trial.variant: {} for trial in ordered}
    for trial in ordered:
        if trial.record:
            trials_by_variant[trial.variant][trial.seed] = trial
    return trials_by_variant


def _choose_baselines(
    trials: Sequence[TrialResult], baseline: str | None, study: Mapping[str, Any]
) -> dict[str, str | None]:
    """The variant that each one is compared with; ``None`` for the baseline itself."""
    variants = {trial.variant: trial.group for trial in trials}
    name = baseline or study.get("baseline")
    is_baseline = {
        trial.variant: trial.role == Role.BASELINE if name is None else f"/{trial.variant}".endswith(f"/{name}")
        for trial in trials
    }
    baselines: dict[str, str | None] = {
        variant: name if name in variants
        else next((peer for peer in variants if variants[peer] == group and is_baseline[peer]), None)
        for variant, group in variants.items()
    }  # fmt: skip
    if baseline and not any(baselines.values()):
        raise LimbeckError(
            f"there is no variant {baseline!r} to compare with: the variants are "
            f"{suggest_names(baseline, variants, max_names=8)}"
        )
    return {variant: None if variant == chosen else chosen for variant, chosen in baselines.items()}


def _trial_status(trial: TrialResult, split: str, metric: str, study_dir: Path | None) -> TrialStatus:
    return TrialStatus(
        variant=trial.variant,
        seed=trial.seed,
        folder=(trial.folder.relative_to(study_dir) if study_dir else trial.folder).as_posix(),
        state=cast(Any, trial.state),
        error=trial.error,
        value=trial.metric(split, metric),
        num_reads=trial.record.test_set.num_reads if trial.record else None,
        step=int(trial.curve.steps[-1]) if trial.curve and trial.curve.steps else None,
    )


def _collect_warnings(trials: Sequence[TrialResult]) -> tuple[str, ...]:
    """Records that were changed by hand, then each warning with the number of its runs, if not all."""
    runs = {trial.folder: trial.record for trial in trials if trial.record}
    changed = [f"{folder}: {warning}" for folder in runs if (warning := integrity_warning(folder))]
    counts = Counter(text for record in runs.values() for text in dict.fromkeys(record.warnings))
    return (
        *changed,
        *(text if n == len(runs) else f"{text} ({n} of {len(runs)} runs)" for text, n in counts.items()),
    )


def _collect_details(trials: Sequence[TrialResult], study: Mapping[str, Any]) -> dict[str, str]:
    records = [trial.record for trial in trials if trial.record]
    if not records:
        return {}
    data = records[0].data
    keep = study.get("keep_weights") or _as_mapping(records[0].recipe.get("training")).get("keep_weights")
    counts = {
        "training samples": data.num_train, "of which labeled": data.num_labeled, "test samples": data.num_test,
    }  # fmt: skip
    return {
        "data set": data.name or "unnamed",
        **({"classes": str(len(data.classes))} if data.classes else {}),
        **{name: "–" if count is None else f"{count:,}" for name, count in counts.items()},
        "weights measured": {"last": "of the last epoch", "best": "of the best epoch on validation"}.get(
            str(keep), "–"
        ),
        "machines": ", ".join(sorted({str(record.machine.get("cpu", "unknown")) for record in records})),
    }


def _as_mapping(value: Any) -> Mapping[str, Any]:
    """``value`` of a file that may have been edited; empty if it is no mapping."""
    return value if isinstance(value, Mapping) else {}
