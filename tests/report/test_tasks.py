"""The report, the card, the comparison and the dashboard of speech: phoneme error rate, where lower is better."""

from __future__ import annotations

import csv
import json
import re

import pytest

from limbeck.core.errors import LimbeckError
from limbeck.dashboard.run_index import RunEntry, read_phases
from limbeck.report import write_model_card, write_record, write_report
from limbeck.report.compare.compare_page import render_compare_page
from limbeck.report.compare.tables import to_csv
from limbeck.report.plots.metric_axis import curve_limits
from limbeck.report.task_metrics import TaskMetrics, load_task_metrics
from limbeck.report.terminal import render_compare_table, render_summary_table
from limbeck.report.verdict import format_verdict
from limbeck.tasks import SpeechCTC
from limbeck.tasks.classification.metrics import ACCURACY
from limbeck.tasks.speech.metrics import CTC, PER
from limbeck.workflows._job.provenance import describe_task, write_task_file
from limbeck.workflows.compare.run import build_comparison
from limbeck.workflows.diagnose import diagnose_run

TASK = SpeechCTC(classes=20)
ERROR_RATES = {"teacher": 0.08, "baseline": 0.30, "distilled": 0.18}
CURVES = {  # the first of 10 values is far off
    name: (1.4, *[last] * 7, last - 0.05, last) for name, last in ERROR_RATES.items()
}


def speech_record(record, seed=0, shift=0.0):
    """The record of a run of speech: without logits by sample, classes and calibration."""
    for name, model in record["models"].items():
        value = ERROR_RATES[name] + shift
        model["validation"] = model["test"] = {
            "num_samples": 300, "metrics": {"per": value, "sequence_accuracy": 0.25},
            "interval": {"per": [value - 0.02, value + 0.02]},
        }  # fmt: skip
    verdict = {"metric": "per", "unit": "points", "gain": 12.0, "interval": [10.0, 14.0], "gap_recovered": 0.55}
    verdict["text"] = format_verdict(record["models"], 12.0, (10.0, 14.0), 0.55, metric=PER)
    example = {
        "sample_id": 7, "input": {"png": record["examples"][0]["input"]["png"]}, "target": {"text": "W AH N"},
        "predictions": {
            "distilled": {"text": "W AH", "correct": False}, "teacher": {"text": "W AH N", "correct": True},
        },
    }  # fmt: skip
    record["data"] |= {"name": "SpokenDigits", "classes": [], "shape": [64, 40], "facts": {"classes": 20, "mels": 40}}
    fidelity = {"split": "validation", "teacher": "teacher", "students": {"distilled": {}}}
    task = {"use": "SpeechCTC", "frame_stride": 2, "blank": 0}
    return record | {
        **describe_task(TASK), "name": "spoken_digits", "seed": seed, "agreement": None, "fidelity": fidelity,
        "verdict": verdict, "examples": [example], "recipe": {**record["recipe"], "task": task}, "files": {},
    }  # fmt: skip


def write_curves(run):
    with (run / "metrics.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["phase", "stage", "step", "val/per", "val/ctc_loss"])
        table.writerows(
            (phase, phase, 10 * step, value, 2.0)
            for phase, values in CURVES.items() for step, value in enumerate(values, 1)
        )  # fmt: skip


@pytest.fixture
def run(record, tmp_path):
    folder = tmp_path / "run"
    write_record(folder, speech_record(record))
    write_curves(folder)
    return folder


def read_text(html):
    """What a reader sees, with the labels of plots."""
    html = re.sub(r"<style>.*?</style>", " ", html, flags=re.DOTALL).partition("<summary>Recipe")[0]
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("\u00a0", " ")


def test_the_page_names_the_metric_of_the_task_and_its_direction(run):
    text = read_text(write_report(run).read_text())
    assert "Distillation improves phoneme error rate: the student gains 12.0 points over the baseline" in text
    assert "(18.0 % against 30.0 %)" in text
    assert "Phoneme error rate decrease from baseline +12.0 points 0 95 % interval +10.0 to +14.0" in text
    assert "Validation phoneme error rate" in text
    assert "Distilled, last 18.0 %" in text
    assert "Lower is better. The axis ends at" in text
    assert "Phoneme error rate vs. latency" in text
    assert "Down and to the left is better" in text
    assert "Phoneme error rate % ↓ 8.0 30.0 18.0 −12.0 +10.0" in text
    assert "target W AH N" in text
    assert "W AH ✗" in text
    assert "it can exceed 100 %" in text
    for word in ("accuracy", "images", "Calibration", "Worst classes", "F1", "logit", "KL(", "None"):
        assert word not in text, word


def test_the_terminal_and_the_card_name_the_metric(run, record):
    summary = render_summary_table(json.loads((run / "record.json").read_text()))
    assert re.search(r"phoneme +without an\n.*error rate +error", summary)
    assert "18.0 %" in summary
    card = write_model_card(run).read_text()
    assert "pipeline_tag: automatic-speech-recognition" in card
    assert "type: per" in card
    assert "| **Distilled** | 18.0 % | 16.0 % to 20.0 % | 25.0 % |" in card
    assert "Phoneme error rate decrease from baseline: +12.0 points, 95 % interval +10.0 to +14.0" in card
    for word in ("accuracy", "images", "classes", "None"):
        assert word not in card.replace("sequence_accuracy", ""), word


def test_a_comparison_has_the_metrics_of_the_task(run, record, tmp_path):
    second = tmp_path / "second"
    write_record(second, speech_record(record, seed=1, shift=0.01))
    write_curves(second)
    comparison = build_comparison([run, second])
    distilled = next(variant for variant in comparison.variants if variant.name == "distilled")
    assert distilled.gain.mean == pytest.approx(12.0)
    assert distilled.metrics["per"].mean == pytest.approx(0.185)
    text = read_text(render_compare_page(comparison))
    assert "distilled, last 18.0 %" in text
    assert "Phoneme error rate % ↓" in text
    assert "The gain is over the baseline by phoneme error rate, so it is a decrease" in text
    assert "accuracy" not in text
    assert {"phoneme", "error"} <= set(render_compare_table(comparison).lower().split())
    row = next(row for row in csv.DictReader(to_csv(comparison).splitlines()) if row["variant"] == "distilled")
    assert float(row["per"]) == pytest.approx(0.185)
    assert float(row["gain"]) == pytest.approx(12.0)


def test_runs_of_different_metrics_are_not_compared(run, record, tmp_path, studies):
    other = studies.write_run(tmp_path / "digits", 5)
    with pytest.raises(LimbeckError, match="must have one primary metric, got phoneme error rate and accuracy"):
        build_comparison([run, other])


def test_a_teacher_with_more_errors_is_a_problem(run):
    path = run / "record.json"
    record = json.loads(path.read_text())
    record["models"]["teacher"]["validation"]["metrics"]["per"] = 0.35
    path.write_text(json.dumps(record))
    (problem,) = (text for text in diagnose_run(run).problems if "teacher" in text)
    assert "worse than the baseline in phoneme error rate: −5.0 points" in problem


def test_a_running_training_shows_its_last_and_its_best_value(tmp_path):
    write_curves(tmp_path)
    (tmp_path / "recipe.yaml").write_text("stages: [{steps: 100}]\n")
    write_task_file(TASK, tmp_path)
    phases = {phase.name: phase for phase in read_phases(tmp_path)}
    assert (phases["baseline"].last, phases["baseline"].best) == (0.30, 0.25)
    from limbeck.dashboard.app import render_page

    text = read_text(render_page(RunEntry("run", tmp_path, "run", "running", 0.0)))
    assert "Validation phoneme error rate ↓ Best" in text
    assert "100 30.0 % 25.0 %" in text


def test_without_a_task_file_the_first_validated_column_is_a_plain_number(tmp_path):
    from limbeck.report.metrics_csv import load_curves

    write_curves(tmp_path)
    metric = load_task_metrics(tmp_path, load_curves(tmp_path / "metrics.csv")).monitored_spec
    assert (metric.name, metric.format(0.3)) == ("per", "0.300")


def test_the_monitored_metric_may_be_another_than_the_primary_one():
    described = describe_task(TASK)
    described["task"]["monitored_metrics"] = {"ctc_loss": described["task"]["monitored_metrics"]["ctc_loss"]}
    metrics = TaskMetrics.model_validate(described)
    assert (metrics.primary_spec.name, metrics.monitored_spec.unit) == ("per", "nats per token")


@pytest.mark.parametrize(
    ("metric", "values", "limits"),
    [
        (ACCURACY, [10.0, *[81.0 + i for i in range(10)]], (80.0, 90.5)),
        (PER, [140.0, *[39.0 - i for i in range(10)]], (29.5, 40.0)),
        (CTC, [9.0, *[2.0] * 10], (1.9, 2.5)),
    ],
)  # fmt: skip
def test_an_axis_leaves_out_what_is_worse_at_the_start(metric, values, limits):
    low, high = curve_limits(metric, [values])
    assert (low, high) == pytest.approx(limits, abs=0.05)
    assert low <= values[-1] <= high
