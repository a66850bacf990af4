"""Temperatures, loss shares and gradient norms are drawn where a run has them, and only there."""

from __future__ import annotations

import re

from limbeck.report import render_report
from limbeck.report.metrics_csv import TrainingCurve
from limbeck.report.plots.curves import (
    describe_constants,
    plot_gradient_ratios,
    plot_learning_rate,
    plot_loss_shares,
    plot_temperatures,
)
from limbeck.training.callbacks import read_metrics

MISSING = float("nan")


def curve(**columns):
    named = {name.replace("__", "/"): tuple(values) for name, values in columns.items()}
    count = len(next(iter(named.values())))
    return TrainingCurve("d", tuple(range(1, count + 1)), {}, {"d": 0}, named)


def test_a_temperature_that_differs_within_an_epoch_has_a_band():
    plot = plot_temperatures(curve(temperature__kd=[4, 5], temperature_min__kd=[3, 3], temperature_max__kd=[6, 6]))
    assert "The band goes" in plot.note
    assert plot.alt_text == "Temperature by step: kd, last 5."


def test_what_is_constant_is_a_line_of_text_and_no_plot():
    constant = curve(
        temperature__kd=[4, 4], temperature_min__kd=[4, 4], temperature_max__kd=[4, 4], lr=[0.001, 0.001]
    )  # fmt: skip
    assert plot_temperatures(constant) is plot_learning_rate(constant) is None
    assert describe_constants(constant) == "Constant over the training: learning rate 0.001; temperature of kd 4."
    changing = curve(temperature__kd=[4, 4], lr=[0.1, 0.0])
    assert plot_learning_rate(changing).alt_text == "Learning rate by step: learning rate, last 0."
    assert describe_constants(changing) == "Constant over the training: temperature of kd 4."


def test_a_constant_temperature_of_a_later_stage_is_stated():
    later = curve(temperature__kd=[MISSING, 4], lr=[0.1, 0.1])
    assert describe_constants(later) == "Constant over the training: learning rate 0.1; temperature of kd 4."


def test_every_step_shows_its_values_on_hover():
    svg = plot_learning_rate(curve(lr=[0.1, 0.05, 0.0])).svg
    assert svg.count('<rect class="hover"') == 3
    assert "<title>step 2\nlearning rate: 0.05</title>" in svg
    assert re.search(r">0\.0050?<", plot_learning_rate(curve(lr=[0.01, 0.005, 0.0])).svg), "digits of labels are kept"
    many = plot_learning_rate(curve(lr=[step / 500 for step in range(500)])).svg
    assert many.count("<title>") <= 60
    assert "<title>step 500\n" in many


def test_gradient_norms_are_drawn_at_the_epochs_in_which_they_were_measured():
    plot = plot_gradient_ratios(curve(grad_norm_ratio__kd=[30.0, MISSING, 0.5], grad_norm_ratio__off=[0.0, 0.0, 0.0]))
    assert "kd, last 0.5" in plot.alt_text
    assert "off" not in plot.alt_text, "a logarithm of 0 is drawn nowhere"


def test_a_narrow_range_of_gradient_norms_has_several_ticks():
    svg = plot_gradient_ratios(curve(grad_norm_ratio__kd=[1.4, 2.1])).svg
    assert all(f">{tick}×<" in svg for tick in ("0.5", "1", "2"))


def test_the_share_of_a_single_loss_is_not_drawn():
    assert plot_loss_shares(curve(loss_share__kd=[1.0])) is None
    assert "target, last 0.75" in plot_loss_shares(curve(loss_share__kd=[0.25], loss_share__target=[0.75])).alt_text


def test_missing_columns_give_no_plot():
    bare = curve(loss__kd=[1.0, 2.0])
    assert (
        plot_temperatures(bare)
        is plot_loss_shares(bare)
        is plot_gradient_ratios(bare)
        is plot_temperatures(None)
        is None
    )


def test_the_page_shows_temperatures_shares_and_gradients(record, write):
    folder = write(record)
    rows = read_metrics(folder / "metrics.csv")
    page = render_report(folder)
    assert "Gradient norm relative" not in page
    for row in rows:
        if row["phase"] == "distilled":
            row |= {
                "temperature/kd": 4.0 + int(row["epoch"]) / 30,
                "temperature_min/kd": 3.0,
                "temperature_max/kd": 6.0,
            }
            row |= {"loss_share/kd": 0.9, "loss_share/target": 0.1, "grad_norm_ratio/kd": 12.0}
    page = render_report(write(record, rows=rows))
    for words in ("Temperature", "Share of each loss", "Gradient norm relative to the supervised loss"):
        assert f"{words}</h3>" in page
    assert "kd, last 12" in page
