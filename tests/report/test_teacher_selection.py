"""Candidates in the terminal and as a standalone plot."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from limbeck.core.errors import LimbeckError
from limbeck.report import write_selection_plot
from limbeck.report.terminal import render_candidates_table
from limbeck.tasks import Classification
from limbeck.workflows._job.provenance import describe_task


def validation(accuracy, nll=0.3):
    return {"num_samples": 360, "metrics": {"accuracy": accuracy, "nll": nll, "ece": 0.04}}


def model(accuracy, latency, **more):
    return {
        "validation": validation(accuracy), "latency_ms": {"median": latency}, "parameters": 24_000,
        "peak_memory": 122_000,
        "margin": 100 * (accuracy - 0.81), "is_selected": False, "reason": "left out: +0.1 points", **more,
    }  # fmt: skip


@pytest.fixture
def selection():
    """What teacher_selection.json holds, as far as it is shown."""
    return {
        "schema": 3, "kind": "teacher_selection", **describe_task(Classification(10)), "baseline": model(0.81, 0.07),
        "rules": {"min_margin": 5.0, "latency_budget": 2.0, "max_latency_ratio": 30.0, "has_latency_budget": False},
        "candidates": {
            "big": model(0.93, 0.11, is_selected=True, reason="kept first: best alone (NLL 0.268)"),
            "wide": model(0.88, 0.02), "near": model(0.83, 0.5, reason="too close to the student: +2.0 points"),
        },
        "pairs": [
            {"first": a, "second": b, "disagreement": 0.12, "error_correlation": None, "double_fault": 0.04,
             "cka": 0.61, "cka_input": cka_input}
            for a, b, cka_input in (("big", "wide", "features"), ("big", "near", "logits"), ("wide", "near", "logits"))
        ],
        "selection": {
            "selected": ["big"], "criterion_name": "NLL",
            "steps": [{"name": "big", "criterion_value": 0.268, "value": 0.93, "latency_ms": 0.11}],
        },
        "warnings": ["the teacher 'near' is too close"],
    }  # fmt: skip


def test_the_table_has_a_line_of_figures_and_a_reason_for_each(selection):
    text = render_candidates_table(selection)
    lines = text.splitlines()
    assert re.search(r"● +big +93.0 % +\+12.0 +0.300 nats +0.040 +24 k +0.11 ms +122 kB", text)
    assert re.search(r"● +big +kept first: best alone \(NLL 0.268\)", text)
    assert re.search(r"\n +near +too close to the student: \+2.0 points", text)
    assert next(line for line in lines if "baseline" in line).split()[1:3] == ["81.0", "%"]
    assert re.search(r"big – wide +12.0 % +– +4.0 % +0.61", text)
    assert "0.61 of logits" in text
    assert " - the teacher 'near' is too close" in text
    assert lines[-1] == "Selected: big: accuracy 93.0 %, NLL 0.268, 0.11 ms of a budget of 2 ms, 30 times the student"
    assert not any(line.endswith(" ") or "\x1b" in line for line in lines)


def test_names_with_brackets_are_no_markup(selection):
    selection["candidates"] = {"[red]big[/]": selection["candidates"]["big"]}
    assert render_candidates_table(selection).count("[red]big[/]") == 2


def test_an_empty_selection_is_stated(selection):
    selection["selection"] = {"selected": [], "steps": []}
    assert render_candidates_table(selection).splitlines()[-1] == "Selected: none of them; the reasons are above."


def test_of_many_pairs_the_most_alike_are_shown_and_the_rest_is_counted(selection):
    pair = selection["pairs"][0]
    selection["pairs"] = [{**pair, "first": f"m{i}", "disagreement": i / 100} for i in range(12)]
    text = render_candidates_table(selection)
    assert "the 10 most similar of 12 pairs" in text
    assert "m9 – wide" in text
    assert "m10 – wide" not in text


def test_the_plot_is_a_standalone_file_for_light_and_dark(selection, tmp_path):
    (tmp_path / "teacher_selection.json").write_text(json.dumps(selection))
    plot = write_selection_plot(tmp_path)
    text = plot.read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in text
    assert "var(--distilled)" in text
    assert not re.search(r"#[0-9a-f]{2}00fe|https?://(?!www\.w3\.org)", text)
    words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"big", "+12.0 points", "5 points better than the baseline", "88.0 %", "0.61"} <= words
    assert "Selected: big." in root[0].text
    assert write_selection_plot(tmp_path).read_text() == text


def test_the_budget_is_drawn_where_it_lies_among_the_marks(selection, tmp_path):
    for budget, drawn in ((2.0, False), (0.3, True)):
        selection["rules"]["latency_budget"] = budget
        (tmp_path / "teacher_selection.json").write_text(json.dumps(selection))
        assert (">budget<" in write_selection_plot(tmp_path).read_text()) == drawn


def test_a_single_candidate_has_no_matrix(selection, tmp_path):
    selection["candidates"], selection["pairs"] = {"big": selection["candidates"]["big"]}, []
    (tmp_path / "teacher_selection.json").write_text(json.dumps(selection))
    assert "Agreement (below)" not in write_selection_plot(tmp_path).read_text()
    assert "similarity" not in render_candidates_table(selection)


def test_names_are_escaped_in_the_plot(selection, tmp_path):
    selection["candidates"]["<b>&$x$"] = selection["candidates"].pop("big")
    for pair in selection["pairs"]:
        pair["first"] = pair["first"].replace("big", "<b>&$x$")
    (tmp_path / "teacher_selection.json").write_text(json.dumps(selection))
    root = ElementTree.fromstring(write_selection_plot(tmp_path).read_text())
    assert "<b>&$x$" in {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}


@pytest.mark.parametrize(
    ("text", "says"), [("", "cannot be read"), ("{}", "cannot be read"), ('{"kind": "x"}', "not what this")]
)
def test_what_is_no_such_file_is_one_sentence(tmp_path, text, says):
    (tmp_path / "teacher_selection.json").write_text(text)
    with pytest.raises(LimbeckError, match=says):
        write_selection_plot(tmp_path)
