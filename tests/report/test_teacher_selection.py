"""Candidates on the terminal and as a picture of its own."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest

from limbeck.core.errors import LimbeckError
from limbeck.report import render_candidates_table, write_selection_plot


def quality(top1, nll=0.3):
    return {"examples": 360, "top1": top1, "nll": nll, "ece": 0.04}


def model(top1, latency, **more):
    return {
        "validation": quality(top1), "latency_ms": {"median": latency}, "parameters": 24_000, "memory": 122_000,
        "margin_points": 100 * (top1 - 0.81), "chosen": False, "reason": "left out: +0.1 points", **more,
    }  # fmt: skip


@pytest.fixture
def found():
    """What teachers.json holds, as far as people see it."""
    return {
        "schema": 1, "kind": "teachers", "alone": model(0.81, 0.07),
        "rules": {"margin": 5.0, "budget": 2.0, "times": 30.0, "given": False},
        "candidates": {
            "big": model(0.93, 0.11, selected=True, reason="kept first: best alone (NLL 0.268)"),
            "wide": model(0.88, 0.02), "near": model(0.83, 0.5, reason="too close to the student: +2.0 points"),
        },
        "pairs": [
            {"first": a, "second": b, "disagreement": 0.12, "error_correlation": None, "double_fault": 0.04,
             "cka": 0.61, "cka_of": of}
            for a, b, of in (("big", "wide", "features"), ("big", "near", "logits"), ("wide", "near", "logits"))
        ],
        "selection": {"chosen": ["big"], "steps": [{"name": "big", "nll": 0.268, "top1": 0.93, "latency": 0.11}]},
        "warnings": ["the teacher 'near' is too close"],
    }  # fmt: skip


def test_the_table_has_a_line_of_figures_and_a_reason_for_each(found):
    text = render_candidates_table(found)
    lines = text.splitlines()
    assert re.search(r"● +big +93.0 % +\+12.0 +0.300 +0.040 +24 k +0.11 ms +122 kB", text)
    assert re.search(r"● +big +kept first: best alone \(NLL 0.268\)", text)
    assert re.search(r"\n +near +too close to the student: \+2.0 points", text)
    assert next(line for line in lines if "student alone" in line).split()[2:4] == ["81.0", "%"]
    assert re.search(r"big – wide +12.0 % +– +4.0 % +0.61", text)
    assert "0.61 of logits" in text
    assert " - the teacher 'near' is too close" in text
    assert lines[-1] == "Chosen: big: 93.0 %, NLL 0.268, 0.11 ms of a budget of 2 ms, 30 times the student"
    assert not any(line.endswith(" ") or "\x1b" in line for line in lines)


def test_names_with_brackets_are_no_markup(found):
    found["candidates"] = {"[red]big[/]": found["candidates"]["big"]}
    assert render_candidates_table(found).count("[red]big[/]") == 2


def test_where_nobody_was_chosen_it_says_so(found):
    found["selection"] = {"chosen": [], "steps": []}
    assert render_candidates_table(found).splitlines()[-1] == "Chosen: none of them; the reasons stand above."


def test_of_many_pairs_the_most_alike_are_shown_and_the_rest_is_counted(found):
    pair = found["pairs"][0]
    found["pairs"] = [{**pair, "first": f"m{i}", "disagreement": i / 100} for i in range(12)]
    text = render_candidates_table(found)
    assert "the 10 most alike of 12 pairs" in text
    assert "m9 – wide" in text
    assert "m10 – wide" not in text


def test_the_picture_is_a_file_of_its_own_for_light_and_dark(found, tmp_path):
    (tmp_path / "teachers.json").write_text(json.dumps(found))
    picture = write_selection_plot(tmp_path)
    text = picture.read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in text
    assert "var(--distilled)" in text
    assert not re.search(r"#[0-9a-f]{2}00fe|https?://(?!www\.w3\.org)", text)
    words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"big", "+12.0 points", "5 points above the student alone", "88.0 %", "0.61"} <= words
    assert "Chosen: big." in root[0].text
    assert write_selection_plot(tmp_path).read_text() == text


def test_the_budget_is_drawn_where_it_lies_among_the_marks(found, tmp_path):
    for budget, drawn in ((2.0, False), (0.3, True)):
        found["rules"]["budget"] = budget
        (tmp_path / "teachers.json").write_text(json.dumps(found))
        assert (">budget<" in write_selection_plot(tmp_path).read_text()) == drawn


def test_a_single_candidate_has_no_matrix(found, tmp_path):
    found["candidates"], found["pairs"] = {"big": found["candidates"]["big"]}, []
    (tmp_path / "teachers.json").write_text(json.dumps(found))
    assert "Same answer" not in write_selection_plot(tmp_path).read_text()
    assert "how alike" not in render_candidates_table(found)


def test_names_are_no_markup_in_the_picture(found, tmp_path):
    found["candidates"]["<b>&$x$"] = found["candidates"].pop("big")
    for pair in found["pairs"]:
        pair["first"] = pair["first"].replace("big", "<b>&$x$")
    (tmp_path / "teachers.json").write_text(json.dumps(found))
    root = ElementTree.fromstring(write_selection_plot(tmp_path).read_text())
    assert "<b>&$x$" in {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}


@pytest.marker.parametrize(
    ("text", "says"), [("", "cannot be read"), ("{}", "cannot be read"), ('{"kind": "x"}', "not what this")]
)
def test_what_is_no_such_file_is_one_sentence(tmp_path, text, says):
    (tmp_path / "teachers.json").write_text(text)
    with pytest.raises(LimbeckError, match=says):
        write_selection_plot(tmp_path)
