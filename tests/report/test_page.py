"""What the page says, and that it says something true of whatever a record lacks."""

from __future__ import annotations

import html
import json
import math
import re
from html.parser import HTMLParser

import pytest

from limbeck.core.errors import LimbeckError
from limbeck.report import write_report
from limbeck.report.verdict import RULE, format_verdict, format_vs_no_assistants
from limbeck.tasks.classification.metrics import ACCURACY

VOID = {"meta", "link", "img", "br", "hr", "input"}


def page(run):
    return write_report(run).read_text(encoding="utf-8")


def words(text):
    """What a reader sees: no styles, no tags, single spaces."""
    text = re.sub(r"<(style|title)>.*?</\1>", " ", text, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).replace("\u00a0", " ")


def test_page_states_the_verdict_the_baseline_and_the_test_set(record, write):
    text = words(page(write(record)))
    assert record["verdict"]["text"].split(": ")[1] in text
    assert "trained without a teacher on the 200 labeled samples for the same number of steps (510)" in text
    assert "360 test samples; the test set was read once" in text
    assert RULE in text


def test_page_shows_the_figures_of_the_record(record, write):
    text = words(page(write(record)))
    distilled = record["models"]["distilled"]["test"]["metrics"]
    assert f"{100 * distilled['accuracy']:.1f}" in text
    assert f"{distilled['ece']:.3f}" in text
    assert "50×" in text  # 94,026 / 1,898 parameters
    assert "÷50" in text
    assert "1.9 k against 94 k parameters" in text
    assert "9.5e-7" in text


def test_page_is_whole_and_every_tag_is_closed(record, write):
    run = write(record)
    text = page(run)

    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open_tags = []

        def handle_starttag(self, tag, attrs):
            if tag not in VOID:
                self.open_tags.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert self.open_tags.pop() == tag

    checker = Balance()
    checker.feed(text)
    assert checker.open_tags == []
    assert sorted(path.name for path in run.iterdir()) == ["metrics.csv", "record.json", "report.html"]


def test_page_asks_the_network_for_nothing(record, write):
    text = page(write(record))
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"|url\((?!#)|@import|https?://", text)


def test_ids_are_unique_over_all_plots_and_each_reference_resolves(record, write):
    text = page(write(record))
    ids = re.findall(r"\bid=\"([^\"]+)\"", text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"(?:href=\"|url\()#([^\")]+)", text)) <= set(ids)


def test_plots_take_their_colors_from_the_style_sheet(record, write):
    svgs = re.findall(r"<svg.*?</svg>", page(write(record)), flags=re.DOTALL)
    assert len(svgs) == 8
    for svg in svgs:
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r"href=\"#\S+\"|url\(#\S+\)", "", svg))
        assert "var(--" in svg
        assert "<text" in svg


def test_every_colour_in_use_is_defined_for_light_dark_and_print(record, write):
    text = page(write(with_assistants(record)))
    assert {"assistant", "no_assistants"} <= set(re.findall(r"var\(--([a-z0-9_]+)\)", text))
    used = set(re.findall(r"var\(--([a-z0-9_]+)\)", text)) - {"chip", "shade"}
    blocks = re.findall(r":root \{.*?\}", text, flags=re.DOTALL)
    light, dark, printed = (set(re.findall(r"--([a-z0-9_]+): #", block)) for block in blocks)
    assert used <= light == dark == printed


def test_same_record_gives_the_same_bytes(record, write):
    run = write(record)
    assert page(run) == page(run)


def test_words_of_the_record_stay_words(record, write):
    evil = "<script>alert('x')</script>"
    record["name"], record["warnings"] = evil, [evil]
    record["data"]["classes"][3] = record["models"]["distilled"]["title"] = evil
    record["versions"][evil] = record["machine"][evil] = record["recipe"][evil] = evil
    record["files"] = {evil: {"sha256": evil, "bytes": 1}}
    record["verdict"]["text"] = record["data"]["name"] = evil
    record["export"]["onnx"]["file"] = '"><img src=x onerror=alert(1)>'
    for one in record["models"].values():
        one["test"]["per_class"][3]["class"] = evil
        one["test"]["per_class"][3]["value"] = 0.1
    record["examples"][0] |= {"target": {"text": evil}, "input": {"png": '"><script>alert(1)</script>', "text": evil}}
    record["models"] = {
        evil: record["models"].pop("teacher"),
        "$x_{1}$": dict(record["models"]["baseline"], role="teacher"),
        **record["models"],
    }
    rows = [
        {"phase": "distilled", "stage": evil, "step": 5 * i, "val/accuracy": 0.5, f"loss/{evil}": 1.0} for i in (1, 2)
    ]
    text = page(write(record, rows=[*rows, {"phase": evil, "stage": "$", "step": 3, "val/accuracy": 0.5}]))
    assert "<script" not in text
    assert "<img src=x" not in text
    assert text.count("&lt;script&gt;") > 10
    assert "$x_{1}$" in text


def test_null_result_reads_as_one(record, write):
    verdict = record["verdict"]
    verdict |= {"gain": 0.6, "interval": [-1.1, 2.2], "gap_recovered": 0.09}
    verdict["text"] = format_verdict(record["models"], 0.6, (-1.1, 2.2), 0.09, metric=ACCURACY)
    text = page(write(record))
    assert "No significant difference" in words(text)
    assert "Gap to the teacher recovered – no significant gain, so no fraction is stated" in words(text)
    assert 'class="interval inconclusive"' in text


def test_harm_reads_as_harm(record, write):
    verdict = record["verdict"]
    verdict |= {"gain": -2.0, "interval": [-3.1, -0.4], "gap_recovered": -0.4}
    verdict["text"] = format_verdict(record["models"], -2.0, (-3.1, -0.4), -0.4, metric=ACCURACY)
    text = page(write(record))
    assert "Distillation degrades accuracy:" in words(text)
    assert "−40 % distillation led away from the teacher" in words(text)
    assert 'class="interval degrades"' in text


def test_more_than_one_read_of_the_test_part_is_pointed_out(record, write):
    record["test_set"]["num_reads"] = 2
    assert "the test set was read 2 times , so its metrics may be optimistic" in words(page(write(record)))


def test_unequal_budgets_are_pointed_out(record, write):
    record["models"]["baseline"]["steps"] = 400
    assert "400 steps against 510: the budgets were not equal" in words(page(write(record)))


def test_run_without_baseline_says_so(record, write):
    del record["models"]["baseline"]
    record["verdict"] |= {"text": "", "gain": None, "interval": None, "gap_recovered": None}
    text = words(page(write(record)))
    assert "Whether distillation improves accuracy is unknown: the student was not trained without a teacher" in text
    assert "No baseline: the student was not trained without a teacher in this run" in text
    assert "vs. baseline" in text


def test_run_with_the_test_part_shut_shows_validation_and_says_so(record, write):
    for model in record["models"].values():
        model["test"] = None
    record["test_set"]["num_reads"] = 0
    text = words(page(write(record)))
    assert "The test set was not opened." in text
    assert "Metrics on the validation split, n = 360" in text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"export": {}}, "The student was not exported in this run."),
        ({"agreement": None}, "Agreement between student and teacher was not measured."),
        ({"examples": []}, "The record holds no sample on which student and teacher differ."),
        ({"recipe": {}}, "The record holds no recipe."),
        ({"files": {}}, "The record holds no hashes of files."),
        ({"verdict": None}, "Whether distillation improves accuracy is unknown"),
    ],
)
def test_each_missing_part_is_one_honest_sentence(record, write, change, sentence):
    assert sentence in words(page(write(record | change)))


def test_record_with_the_least_in_it_gives_a_page(write):
    least = {"schema": 1, "name": "least", "models": {"distilled": {"role": "distilled"}}}
    text = words(page(write(least, rows=[])))
    assert "metrics.csv holds none" in text
    assert "No model has both accuracy and latency" in text
    assert "Worst classes" not in text
    assert "Traceback" not in text
    assert "None" not in text
    assert "nan" not in text.split()


def test_null_and_nan_figures_are_dashes(record, write):
    for model in record["models"].values():
        model["test"]["metrics"] |= {"top5_accuracy": None, "nll": math.nan}
        model["test"]["reliability"] = []
        model["latency_ms"] = None
        model["flops"] = None
    text = words(page(write(record)))
    assert "Top-5 accuracy" not in text
    assert "calibration cannot be shown" in text
    assert "Latency vs. the teacher –" in text
    assert "nan" not in text.split()


def test_one_epoch_is_still_a_curve(record, write):
    rows = [{"phase": "distilled", "stage": "a", "step": 17, "val/accuracy": 0.5, "loss/kd": 1.25}]
    text = page(write(record, rows=rows))
    assert "Distilled, last 50.0" in words(text)
    assert "kd, last 1.25" in words(text)


def test_several_teachers_keep_their_names_and_the_best_is_compared(record, write):
    teacher = record["models"].pop("teacher")
    worse = json.loads(json.dumps(teacher))
    worse["test"]["metrics"]["accuracy"] = 0.5
    record["models"] = {"small": worse, "big": teacher, **record["models"]}
    text = words(page(write(record)))
    assert "vs. big" in text
    assert "small small_cnn(width=64)" in text


def with_assistants(record):
    """The record of a chain: two assistants, and the student that learned without them."""
    models = record["models"]
    more = {name: {**json.loads(json.dumps(models["teacher"])), "role": "assistant", "title": f"Assistant {name}: x"}
            for name in ("mid", "small")}  # fmt: skip
    no_assistants = {
        **json.loads(json.dumps(models["baseline"])),
        "role": "no_assistants",
        "title": "Student without assistants: x",
    }
    record["models"] = {**models, "no_assistants": no_assistants, **more}
    record["verdict"]["vs_no_assistants"] = {
        "outcome": "improves", "text": format_vs_no_assistants(2.0, (1.0, 3.0), metric=ACCURACY), "gain": 2.0,
        "interval": [1.0, 3.0],
    }  # fmt: skip
    return record


def test_assistants_and_the_student_without_them_have_columns_marks_and_a_verdict(record, write):
    text = page(write(with_assistants(record)))
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', text)
    assert heads[:6] == ["Teacher", "mid", "small", "Baseline", "No assistants", "Distilled"]
    assert text.count('class="chip up"') == 4  # beside its name and above its calibration, for two assistants
    assert text.count('class="chip down"') == 2
    assert "The assistants improve accuracy: +2.0 points against the same student without them" in words(text)
    # An assistant is no second teacher.
    assert "of the best teacher" not in text
    assert "vs. teacher" in text


def test_worst_classes_come_first_with_their_differences(record, write):
    for name, accuracy in (("distilled", 0.5), ("baseline", 0.4), ("teacher", 0.9)):
        record["models"][name]["test"]["per_class"][7] |= {"value": accuracy, "num_samples": 40}
    table = words(page(write(record))).split("Worst classes")[1]
    assert "7 40 50.0 40.0 +10.0 90.0 −40.0" in table
    assert "Accuracy of the class, %, on the test split; the worst 6 of 10 classes" in table


def test_what_is_no_png_is_left_out(record, write):
    record["examples"] = [dict(record["examples"][0], input={"png": "bm90IGEgcG5n"}, target={"text": "no label"})]
    text = page(write(record))
    assert "bm90IGEgcG5n" not in text
    assert "no label" in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"has no record\.json.*limbeck distill"),
        ("{", "is not JSON"),
        ("[1]", "must be a mapping, got list"),
        ('{"schema": 4}', r"has schema 4, and this version reads 1, 2, 3"),
        ('{"schema": 1, "name": "x", "models": {}}', "no model with the role 'distilled'"),
        ('{"schema": 1, "name": "x", "models": {"a": {"role": "pupil"}}}', r"models\.a\.role .*got 'pupil'"),
        (
            '{"schema": 1, "name": "x", "models": {"a": {"role": "distilled", "parameters": "many"}}}',
            "models.a.parameters",
        ),
        ("\x00\ud800", "could not be read"),
    ],
)
def test_record_that_is_absent_or_malformed_is_one_sentence(tmp_path, content, says):
    if content is not None:
        (tmp_path / "record.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(LimbeckError, match=says) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_no_significant_difference_says_what_to_try_and_a_plot_has_one_title(record, write):
    record["verdict"] |= {"interval": [-1.0, 2.0]}
    text = words(page(write(record)))
    assert text.count("Accuracy vs. latency") == 1
    assert "Try more unlabeled samples, a better teacher or a longer training, in this order." in text
    assert "<code>limbeck study</code> repeats the comparison" in page(write(record))
    record["verdict"] |= {"interval": [1.0, 2.0]}
    assert "What to change next" not in words(page(write(record)))


def test_a_table_of_all_classes_says_so(record, write):
    for model in record["models"].values():
        for split in ("validation", "test"):
            if model[split]:
                model[split]["per_class"] = model[split]["per_class"][:3]
    assert "on the test split; all 3 classes, the worst first. Small numbers" in words(page(write(record)))
