"""Curves from metrics.csv, and where their axes begin and end."""

from __future__ import annotations

import math
import re

import pytest

from limbeck.core.errors import LimbeckError
from limbeck.report.metrics_csv import TrainingCurve, load_curves
from limbeck.report.plots.curves import plot_loss_components


def table(tmp_path, text):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    return path


def test_stages_that_count_from_one_are_joined_end_to_end(tmp_path):
    head = "phase,stage,step,val/accuracy,loss/a,loss/b\n"
    rows = "d,warm,5,0.1,1,\nd,warm,10,0.2,1,\nd,soft,5,0.3,,2\nd,soft,10,0.4,,2\n"
    curve = load_curves(table(tmp_path, head + rows))["d"]
    assert curve.steps == (5, 10, 15, 20)
    assert curve.stages == {"warm": 0, "soft": 10}
    assert curve.losses["a"][:2] == (1, 1)
    assert all(map(math.isnan, curve.losses["a"][2:]))


def test_stages_that_count_on_stay_as_they_are(tmp_path):
    curve = load_curves(table(tmp_path, "phase,stage,step,val/accuracy\nd,a,5,0.1\nd,b,10,0.2\n"))["d"]
    assert curve.steps == (5, 10)


def test_cells_that_are_no_number_are_missing(tmp_path):
    curve = load_curves(table(tmp_path, "phase,stage,step,val/accuracy,loss/x\nd,a,1,,\nd,a,2,inf,\nd,a,3,soon,\n"))[
        "d"
    ]
    assert all(map(math.isnan, curve.validation("accuracy")))
    assert curve.losses == {}


def test_columns_phases_and_stages_of_schema_2_have_todays_names(tmp_path):
    head = "phase,stage,step,images_per_second,train_accuracy,validation_top1,validation_nll,loss/kd,weight/kd,share/kd"
    head += ",gradient/kd,gradient_ratio/kd,flatness/kd,tau/kd,tau_min/kd,tau_max/kd\n"
    row = ",5,1,2,0.5,3,4,5,6,7,8,9,10,11,12\n"
    phases = ("big,teaching", "alone,distill", "direct,distill", "longer,distill", "smoothed,distill")
    curves = load_curves(table(tmp_path, head + "".join(phase + row for phase in phases)))
    assert list(curves) == ["big", "baseline", "no_assistants", "equal_time", "label_smoothing"]
    assert curves["big"].stages == {"teacher_training": 0}
    assert curves["baseline"].validation("accuracy") == (0.5,)
    assert {name: values[0] for name, values in curves["baseline"].columns.items()} == {
        "step": 5, "samples_per_second": 1, "train/accuracy": 2, "val/accuracy": 0.5, "val/nll": 3, "loss/kd": 4,
        "loss_weight/kd": 5, "loss_share/kd": 6, "grad_norm/kd": 7, "grad_norm_ratio/kd": 8, "teacher_entropy/kd": 9,
        "temperature/kd": 10, "temperature_min/kd": 11, "temperature_max/kd": 12,
    }  # fmt: skip


def test_no_file_and_no_row_are_no_curves(tmp_path):
    assert load_curves(tmp_path / "metrics.csv") == {}
    assert load_curves(table(tmp_path, "phase,step\n")) == {}


def test_other_file_is_one_sentence(tmp_path):
    with pytest.raises(LimbeckError, match="at least phase and step"):
        load_curves(table(tmp_path, "a,b\n1,2\n"))


def curve(**losses):
    count = len(next(iter(losses.values())))
    return TrainingCurve("d", tuple(range(1, count + 1)), {k: tuple(v) for k, v in losses.items()}, {"d": 0})


def test_parts_are_stacked_only_where_none_is_negative():
    assert "stacked, they are the training loss" in plot_loss_components(curve(a=[1, 2], b=[3, 4])).note
    assert "dotted line is their sum" in plot_loss_components(curve(a=[1, -2], b=[3, 4])).note


def test_a_tall_first_epoch_is_clipped_with_a_note():
    plot = plot_loss_components(curve(a=[500.0] + [1.0] * 39))
    assert "up to 500, are cut off" in plot.note
    ticks = [float(t) for t in re.findall(r"<text [^>]*text-anchor: end[^>]*>([\d.]+)</text>", plot.svg)]
    assert max(ticks) < 3


def test_a_phase_without_losses_has_no_plot():
    assert plot_loss_components(None) is None
    assert plot_loss_components(TrainingCurve("d", (1,), {}, {})) is None
