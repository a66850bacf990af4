"""What the page of a comparison says, and that names from outside stay words in every format."""

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from limbeck.report.compare.compare_page import class_difference_rows, forest_rows, render_compare_page
from limbeck.report.compare.comparison import (
    AgreementMatrix,
    ClassChange,
    Comparison,
    GapRecovered,
    PairedGain,
    SeedMean,
    TrainingCost,
    TrialStatus,
    VariantResult,
)
from limbeck.report.compare.tables import to_csv, to_latex, to_markdown
from limbeck.report.html.templates import content_security_policy
from limbeck.report.latency import LatencyInterval
from limbeck.report.metrics_csv import TrainingCurve
from limbeck.report.plots.style import assign_styles
from limbeck.report.task_metrics import TaskMetrics
from limbeck.report.verdict import VARIANT_RULE, classify_gain
from limbeck.tasks import Classification
from limbeck.tasks.classification.metrics import ACCURACY
from limbeck.workflows._job.provenance import describe_task

CLASSIFICATION = TaskMetrics.model_validate(describe_task(Classification(2)))
EVIL = '=HYPERLINK("http://x.invalid"), <script>alert(1)</script> | a_b & 50% #1 {x} ~ ^ \\end{tabular} `q` *b*'
VOID = {"meta", "link", "img", "br", "hr", "input"}


def curve(name, last):
    return TrainingCurve(name, (10.0, 20.0, 30.0), {}, {}, {"val/accuracy": (0.3, 0.6, last)})


@pytest.fixture
def comparison():
    baseline = VariantResult(
        name="baseline", role="baseline", metrics={"accuracy": SeedMean(0.8, 0.78, 0.82, 3)}, parameters=1698,
        latency=LatencyInterval(0.07, 0.065, 0.075), steps=300, curves=(curve("baseline", 0.8),),
    )  # fmt: skip
    student = VariantResult(
        name="distilled", role="distilled", title="small_cnn", baseline="baseline",
        metrics={"accuracy": SeedMean(0.86, 0.84, 0.88, 3)},
        gain=PairedGain(mean=6.04, low=4.0, high=8.0, t_low=1.5, t_high=10.5, num_seeds=3),
        gap_recovered=GapRecovered(0.5), outcome="improves",
        verdict_text="distilled improves.", parameters=1698, latency=LatencyInterval(0.07, 0.065, 0.075), steps=300,
        resources=TrainingCost(3.0, 5.0, None, 12.5),
        class_changes=(ClassChange("cat", 4.0, 40), ClassChange("dog", -2.0, 40)), curves=(curve("distilled", 0.86),),
    )  # fmt: skip
    trials = tuple(
        TrialStatus(
            variant=variant, seed=seed, folder=f"runs/{seed}", state="done", value=0.8, num_reads=1, step=300
        )
        for variant in ("baseline", "distilled") for seed in (0, 1, 2)
    )  # fmt: skip
    return Comparison(
        title="digits", kind="runs", task_metrics=CLASSIFICATION, variants=(baseline, student), trials=trials,
        baselines=("baseline",),
        num_samples=360, rule=VARIANT_RULE,
        agreement=AgreementMatrix(("baseline", "distilled"), ((0.9, 0.85), (0.85, None))), limbeck="0.2.0",
    )  # fmt: skip


def named(comparison, name):
    """The same comparison with another name for its student."""
    student = replace(comparison.variants[1], name=name, title=name, note=name, verdict_text=f"{name} improves.")
    trials = tuple(
        replace(trial, variant=name if trial.variant == "distilled" else trial.variant, error=name)
        for trial in comparison.trials
    )
    return replace(
        comparison, title=name, variants=(comparison.variants[0], student), trials=trials, warnings=(name,),
        agreement=AgreementMatrix(("baseline", name), comparison.agreement.matrix), notes=(name,),
    )  # fmt: skip


def words(text):
    return re.sub(r"\s+", " ", re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL)).replace(
        "\xa0", " "
    )


def test_page_states_verdict_baseline_reads_and_rule(comparison):
    text = words(render_compare_page(comparison))
    assert "distilled improves." in text
    assert "Compared with baseline on 360 test samples, over up to 3 seeds" in text
    assert "read 3 times, by 3 finished runs" in text
    assert "+6.0 +1.5 to +10.5" in text  # the wider interval
    assert "at each end the wider one" in text
    assert "runs/2" in text


def test_page_says_when_a_test_set_was_read_again(comparison):
    trials = tuple(replace(trial, num_reads=2) for trial in comparison.trials)
    assert "more than once" in render_compare_page(replace(comparison, trials=trials))


def test_page_is_whole_and_asks_the_network_for_nothing(comparison):
    text = render_compare_page(comparison)

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
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*\"|url\((?!#)|@import|https?://", text)
    assert "default-src 'none'" in content_security_policy()
    assert "script-src 'sha256-" in content_security_policy()
    assert "unsafe-inline" not in content_security_policy().partition("script-src")[2]


def test_the_same_comparison_gives_the_same_page(comparison):
    assert render_compare_page(comparison) == render_compare_page(comparison)


def test_names_stay_words_on_the_page(comparison):
    text = render_compare_page(named(comparison, EVIL))
    assert text.count("<script>") == 1
    assert "alert(1)</script>" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_spreadsheet_runs_no_name_and_numbers_stay_numbers(comparison):
    degrades = replace(
        comparison.variants[1],
        name=EVIL,
        title="+1+2",
        note="@SUM(A1)",
        verdict_text="-x",
        gain=PairedGain(mean=-3.25, num_seeds=2),
    )
    text = to_csv(replace(comparison, variants=(comparison.variants[0], degrades)))
    row = list(csv.DictReader(io.StringIO(text)))[1]
    assert row["variant"] == f"'{EVIL}"
    assert (row["title"], row["note"], row["verdict_text"]) == ("'+1+2", "'@SUM(A1)", "'-x")
    assert float(row["gain"]) == -3.25
    assert float(row["joules"]) == 12.5
    assert row["gpu_seconds"] == ""
    assert text.endswith("\r\n")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "\n="])
def test_every_way_to_begin_a_formula_is_stopped(comparison, start):
    row = list(csv.DictReader(io.StringIO(to_csv(named(comparison, f"{start}1+1")))))[1]
    assert row["variant"].startswith("'")


def test_a_heading_of_a_csv_is_no_formula(comparison):
    metrics = comparison.task_metrics
    info = next(iter(metrics.metric_info.values()))
    renamed = metrics.model_copy(update={"metric_info": {**metrics.metric_info, "=1+1": info}})
    assert "'=1+1" in next(csv.reader(io.StringIO(to_csv(replace(comparison, task_metrics=renamed)))))


def test_no_table_has_control_characters(comparison):
    metrics = comparison.task_metrics
    (name, info), *others = metrics.metric_info.items()
    renamed = metrics.model_copy(
        update={"metric_info": {name: info, **dict(others), "other": info.model_copy(update={"label": "a\x1b[2Jb"})}}
    )
    shown = named(replace(comparison, task_metrics=renamed), "a\x1b[2J\x9b0m\u202eb")
    for text in (to_csv(shown), to_markdown(shown), to_latex(shown)):
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202e]", text)


def test_markdown_has_the_same_number_of_columns_in_every_line(comparison):
    lines = [
        line for line in to_markdown(named(comparison, f"{EVIL}\nnew | line")).splitlines() if line.startswith("|")
    ]
    assert len(lines) == 4
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<script>" not in "".join(lines)
    assert r"a\_b" in lines[3]


def test_latex_escapes_what_latex_reads(comparison):
    text = to_latex(named(comparison, f"{EVIL}\n\\input{{secret}}"))
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    # Without what is escaped, no character is left that means something to LaTeX.
    bare = re.sub(r"\\(?:text\w+\{\}|[{}$&#_%])|\$[-\\a-z]+\$", "", rows[2][:-3].replace(" & ", " "))
    assert not set(bare) & set('\\{}$&#^_%~<>|"`')
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    # A comment may hold anything but a new line.
    assert all(line.startswith(("%", "\\")) or line.endswith(r"\\") for line in text.splitlines())


@pytest.mark.parametrize(
    ("gain", "says"),
    [
        (PairedGain(mean=2, low=1, high=3, t_low=0.5, t_high=3.5, num_seeds=4), "improves"),
        (PairedGain(mean=2, low=1, high=3, t_low=-0.5, t_high=4.5, num_seeds=3), "inconclusive"),
        (PairedGain(mean=-2, low=-3, high=-1, num_seeds=4), "degrades"),
        (PairedGain(mean=0.1, low=0.0, high=0.2, num_seeds=4), "inconclusive"),
        (PairedGain(mean=2, sample_interval=(0.5, 4)), "improves"),
        (PairedGain(mean=2, low=1, high=3, sample_interval=(-9, 9), num_seeds=5), "improves"),
        (PairedGain(mean=2), "unknown"),
        (None, "unknown"),
    ],
)
def test_rule(gain, says):
    assert classify_gain(gain) == says


def test_forest_places_means_and_intervals_on_one_axis(comparison):
    lines, axis = forest_rows(comparison.variants)
    (line,) = lines

    def place(points):
        """From 0 to 10.5 points with a margin of 6 % on both sides."""
        return 100 * (points + 0.63) / (10.5 + 1.26)

    assert line.mean == pytest.approx(place(6.04), abs=0.01)
    assert line.interval == pytest.approx((place(4), place(8)), abs=0.01)
    assert line.t_interval == pytest.approx((place(1.5), place(10.5)), abs=0.01)
    assert axis.zero == pytest.approx(place(0), abs=0.01)
    assert [words for _, words in axis.ticks] == ["0", "+5", "+10"]


def test_of_many_classes_those_that_changed_most_are_shown(comparison):
    many = tuple(ClassChange(f"class {i}", (-1) ** i * i / 10, 10) for i in range(200))
    names, rows, every = class_difference_rows(
        (comparison.variants[0], replace(comparison.variants[1], class_changes=many)), ACCURACY
    )
    assert (names, every, len(rows)) == (["distilled"], 200, 12)
    assert {row.name for row in rows} == {f"class {i}" for i in range(188, 200)}
    assert rows[-1].cells[0] == ("−19.9", pytest.approx(-19.9), -100)


def test_each_variant_has_a_style_of_its_own():
    variants = [
        VariantResult(name=f"{role} {i}", role=role)
        for role in ("teacher", "baseline", "baseline_equal_time", "distilled")
        for i in range(5)
    ]
    styles = assign_styles(variants)
    keys = {(style.color_name, style.marker, style.dash_index % 4) for style in styles.values()}
    assert len(keys) == len(variants)


def test_page_shows_what_is_there_when_nothing_else_is(comparison):
    bare = (
        VariantResult(name="baseline", role="baseline"),
        VariantResult(name="distilled", role="distilled", baseline="baseline"),
    )
    text = words(
        render_compare_page(
            replace(comparison, variants=bare, agreement=None, trials=(), num_samples=None, baselines=())
        )
    )
    assert "there is no gain to draw" in text
    assert "There are no curves" in text
    assert "agreement is unknown" in text
    assert "No costs are on record" in text
