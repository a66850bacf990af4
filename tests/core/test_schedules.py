"""Schedules are functions of the fraction of training that is done, which they read from Progress."""

from __future__ import annotations

import math
import pickle

import pytest

from limbeck import schedules
from limbeck.core.errors import LimbeckError
from limbeck.core.progress import Progress
from limbeck.core.schedules import Schedule

LINE, WAVE = schedules.linear(100.0, 0.0), schedules.cosine(1.0, 0.2)
STAIRS, RAMP = schedules.multistep(1.0, gamma=0.1, milestones=(0.5, 0.75)), schedules.warmup(8.0, fraction=0.25)


@pytest.mark.parametrize(
    ("schedule", "start", "eighth", "middle", "end"),
    [
        (LINE, 100.0, 87.5, 50.0, 0.0),
        # 0.2 + 0.8 · (1 + cos(π/8)) / 2 = 0.2 + 0.8 · 0.961940 = 0.969552.
        (WAVE, 1.0, 0.969552, 0.6, 0.2),
        (STAIRS, 1.0, 1.0, 0.1, 0.01),
        (RAMP, 0.0, 4.0, 8.0, 8.0),
    ],
)
def test_values_at_the_start_an_eighth_the_middle_and_the_end(schedule, start, eighth, middle, end):
    values = [schedule(Progress(step=step, steps=8)) for step in (0, 1, 4, 8)]
    assert values == pytest.approx([start, eighth, middle, end], abs=1e-6)


@pytest.mark.parametrize("schedule", [LINE, WAVE, STAIRS, RAMP])
def test_a_schedule_keeps_its_shape_when_training_has_more_steps(schedule):
    short, long = (schedule(Progress(step=steps // 4, steps=steps)) for steps in (8, 8000))
    assert short == pytest.approx(long)


@pytest.mark.parametrize("schedule", [LINE, WAVE, STAIRS, RAMP])
def test_a_schedule_is_constant_after_the_end(schedule):
    assert schedule(Progress(step=99, steps=8)) == schedule(Progress(step=8, steps=8))


@pytest.mark.parametrize("schedule", [LINE, WAVE, STAIRS, RAMP])
def test_a_schedule_has_the_protocol_and_can_be_pickled(schedule):
    assert isinstance(schedule, Schedule)
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_a_milestone_counts_from_the_step_that_reaches_it():
    assert [STAIRS(Progress(step=step, steps=4)) for step in (1, 2, 3)] == pytest.approx([1.0, 0.1, 0.01])


def test_the_order_of_the_milestones_does_not_matter():
    backwards = schedules.multistep(1.0, gamma=0.1, milestones=(0.75, 0.5))
    assert backwards(Progress(step=5, steps=8)) == STAIRS(Progress(step=5, steps=8))


def test_a_number_needs_no_progress_and_a_schedule_does():
    assert schedules.resolve(0.5, Progress()) == 0.5
    assert schedules.resolve(3, Progress()) == 3.0
    assert schedules.resolve(lambda progress: progress.epoch / 2, Progress(epoch=3)) == 1.5
    with pytest.raises(LimbeckError, match=r"set `distiller.progress = limbeck.Progress\(step=..., steps=...\)`"):
        schedules.resolve(LINE, Progress())


@pytest.mark.parametrize("milestones", [(0.5, 1.5), (-0.1,), (30.0,), (math.nan,)])
def test_milestones_outside_training_are_refused(milestones):
    with pytest.raises(LimbeckError, match="fractions of training between 0 and 1"):
        schedules.multistep(1.0, gamma=0.1, milestones=milestones)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.01, 5, math.nan])
def test_a_warm_up_outside_training_is_refused(fraction):
    with pytest.raises(LimbeckError, match="above 0 and up to 1"):
        schedules.warmup(1.0, fraction=fraction)


def test_schedules_have_a_readable_string():
    assert [str(schedule) for schedule in (LINE, WAVE, STAIRS, RAMP)] == [
        "100→0", "1⤳0.2", "1·0.1^passed(0.5, 0.75)", "0→8",
    ]  # fmt: skip


def test_progress_is_the_fraction_of_steps_done():
    assert [Progress(step=step, steps=4).fraction for step in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]


def test_progress_of_unknown_length_is_an_error_with_a_remedy():
    with pytest.raises(LimbeckError, match=r"number of steps.*train with limbeck.fit"):
        _ = Progress(step=3).fraction


def test_an_overall_schedule_continues_across_stages():
    """Stages of 3 and 5 steps: the line is the one of a single stage of 8 steps."""
    stages = [(step, 3, 0) for step in range(3)] + [(step, 5, 3) for step in range(5)]
    schedule = schedules.across_stages(LINE)
    values = [schedule(Progress(step, steps, steps_before=before, total_steps=8)) for step, steps, before in stages]
    assert values == pytest.approx([100 - 12.5 * step for step in range(8)])
    stage_values = [LINE(Progress(step, steps, steps_before=before, total_steps=8)) for step, steps, before in stages]
    assert stage_values[3] == 100.0


@pytest.mark.parametrize("inner", [LINE, WAVE, STAIRS, RAMP])
def test_any_schedule_can_be_overall(inner):
    schedule = schedules.across_stages(inner)
    assert schedule(Progress(1, 2, steps_before=4, total_steps=8)) == inner(Progress(5, 8))
    assert isinstance(schedule, Schedule)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert str(schedule) == f"{inner} over all stages"


def test_an_overall_schedule_of_unknown_length_is_an_error():
    with pytest.raises(
        LimbeckError,
        match=r"steps_before=\.\.\., total_steps=\.\.\..*give steps_before= and total_steps= to limbeck\.fit",
    ):
        schedules.across_stages(LINE)(Progress(step=1, steps=8))


@pytest.mark.parametrize("inner", [0.5, "linear", schedules.linear])
def test_across_stages_takes_schedules_only(inner):
    with pytest.raises(LimbeckError, match="across_stages needs a schedule"):
        schedules.across_stages(inner)


def test_step_changes_switch_at_the_milestone():
    soft, hard = schedules.step_change(1.0, 0.0, milestone=0.5), schedules.step_change(0.0, 1.0, milestone=0.5)
    for step in range(11):
        now = Progress(step=step, steps=10)
        assert (soft(now), hard(now)) == ((1.0, 0.0) if step < 5 else (0.0, 1.0))


@pytest.mark.parametrize("milestone", [0.0, 1.0, -0.5, 2.0])
def test_a_step_change_outside_training_is_refused(milestone):
    with pytest.raises(LimbeckError, match="between 0 and 1"):
        schedules.step_change(1.0, 0.0, milestone=milestone)
