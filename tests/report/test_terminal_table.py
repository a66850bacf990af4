"""The table of the terminal."""

from __future__ import annotations

import pytest

from limbeck.core.errors import LimbeckError
from limbeck.report.terminal import render_summary_table


def test_table_has_a_line_for_each_model_and_fits_a_terminal(record):
    lines = render_summary_table(record).splitlines()
    assert "test split, n = 360" in lines[0]
    distilled = next(line for line in lines if "distilled student" in line).split()
    metrics = record["models"]["distilled"]["test"]["metrics"]
    assert distilled[2:] == [
        f"{100 * metrics['accuracy']:.1f}", "%", f"{100 * metrics['top5_accuracy']:.1f}", "%",
        f"{100 * metrics['macro_f1']:.1f}", "%", "1.9", "k", "0.05", "ms",
    ]  # fmt: skip
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith(" ") or "\x1b" in line for line in lines)


def test_assistants_and_the_student_without_them_have_names(record):
    models = record["models"]
    record["models"] = {
        **models, "no_assistants": {**models["baseline"], "role": "no_assistants"},
        "mid": {**models["teacher"], "role": "assistant"},
    }  # fmt: skip
    lines = render_summary_table(record).splitlines()[5:]
    starts = ["teacher ", "mid ", "baseline ", "student, no assistants ", "distilled student "]
    assert all(line.strip().startswith(start) for line, start in zip(lines, starts, strict=True))


def test_names_with_brackets_are_no_markup(record):
    record["models"] = {"[red]big[/]": record["models"].pop("teacher"), **record["models"]}
    assert "[red]big[/]" in render_summary_table(record)


def test_missing_metrics_are_dashes(record):
    record["models"]["baseline"]["test"] = None
    record["models"]["baseline"]["latency_ms"] = None
    line = next(line for line in render_summary_table(record).splitlines() if "baseline" in line)
    assert line.split() == ["baseline", "–", "–", "–", "1.9", "k", "–"]


def test_an_invalid_record_is_an_error():
    with pytest.raises(LimbeckError, match="has schema None"):
        render_summary_table({"name": "x"})


def test_a_metric_that_no_model_has_gets_no_column(record):
    assert "top-5" in render_summary_table(record)
    for model in record["models"].values():
        model["test"]["metrics"]["top5_accuracy"] = None
    assert "top-5" not in render_summary_table(record)
