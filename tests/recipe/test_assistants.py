"""Assistants, guides, controls and early stops in a recipe: what they mean, and what cannot be expressed."""

from __future__ import annotations

import pytest

from limbeck.recipe import load_recipe, resolve_recipe, to_yaml

CHAIN = """
name: chain
task: Classification
data: Digits
teachers: {big: {use: small_cnn, width: 12, stop: 0.5}}
assistants: {mid: {use: small_cnn, width: 8}, small: small_cnn}
student: {use: small_cnn, width: 4}
teaching: {steps: 12, objective: {truth: CrossEntropy}}
stages:
  - name: distill
    steps: 8
    objective: {soft: SoftTarget}
"""
HINT = "stages.0.objective={hint: {use: Hint, at: here}}"
LINE = "{use: linear, start: 1, end: 0}"


def test_the_order_of_the_recipe_is_the_order_of_the_chain():
    recipe = load_recipe(CHAIN)
    assert [tuple(link) for link in recipe.training_order()] == [
        ("mid", ("big",)), ("small", ("mid",)), ("student", ("small",)),
    ]  # fmt: skip
    assert load_recipe(CHAIN, ["guided=dense"]).training_order()[-1].teachers == ("big", "mid", "small")
    assert resolve_recipe(recipe).assistants["small"].config["width"] == 8


def test_what_is_shown_can_be_read_again():
    shown = to_yaml(load_recipe(CHAIN, ["control=[alone,direct]", "guided=dense"]))
    again = load_recipe(shown)
    assert to_yaml(again) == shown
    assert (again.assistant_mode, again.baseline_names, again.teachers["big"].train_fraction) == (
        "dense",
        ("alone", "direct"),
        0.5,
    )


@pytest.marker.parametrize(
    ("given", "meant"),
    [("alone", ("alone",)), ("none", ()), ("direct", ("direct",)), ("[direct,alone]", ("direct", "alone"))],
)
def test_controls_are_one_two_or_none(given, meant):
    assert load_recipe(CHAIN, [f"control={given}"]).baseline_names == meant


def test_an_assistant_has_taps_by_its_own_name():
    taps = "{student: {here: block1}, big: {here: block2}, mid: {here: block1}, small: {here: fc}}"
    resolve_recipe(load_recipe(CHAIN, [HINT, f"stages.0.taps={taps}"]))


def test_dense_may_name_the_teacher_whom_all_have():
    resolve_recipe(load_recipe(CHAIN, ["guided=dense", "stages.0.objective.soft.teacher=big"]))


@pytest.marker.parametrize(
    ("settings", "says"),
    [
        (["teachers.big.stop=1.5"], "teachers.big.stop: 1.5 is not at most 1"),
        (["teachers.big.stop=0"], "teachers.big.stop: 0 is not above 0"),
        (["teachers.big.stop=half"], "teachers.big.stop: 'half' is not a number"),
        (["teachers.big.weights=runs/x"], "a teacher with weights is not trained: drop one"),
        (["assistants.mid.stop=0.5"], "assistants.mid: small_cnn has no setting 'stop'"),
        (["assistants.mid.weights=runs/x"], "weights are read for teachers only"),
        (["assistants.mid.widht=3"], "did you mean 'width'"),
        (["assistants.alone=mlp"], "cannot be named alone, which is one of the students of a run"),
        (["teachers.distilled=mlp"], "cannot be named distilled"),
        (["assistants.student=mlp"], "cannot be named student"),
        (["assistants.big=mlp"], "assistants.big: a teacher has that name already"),
        (["guided=densely"], "guided: 'densely' is not one of 'last', 'dense'"),
        (["control=[alone,alone]"], "does not name each control once"),
        (["control=[]"], "does not name each control once"),
        (["control=[alone,none]"], "control: 'none' is not one of 'alone', 'direct'"),
        (["control=3"], "control: 3 is not one of 'alone', 'direct', 'none'"),
        (["teachers={}", "teaching=null"], "an assistant learns from the teachers, and the recipe has none"),
        (["assistants={}", "guided=dense"], "guided: dense says who guides assistants, and the recipe has none"),
        (["assistants={}", "control=direct"], "control: direct is the student without assistants"),
        (["stages.0.objective.soft.teacher=big"], "small goes through the same stages and learns from mid, not"),
        (["stages.0.objective.soft.teacher=mid", "guided=dense"], "learns from big, not from mid: leave"),
        (["stages.0.objective.soft.teacher=bgi"], "no teacher is named 'bgi'; there are: big"),
        ([HINT, "stages.0.taps={student: {here: fc}, big: {here: fc}}"], "no tap of mid is named 'here'"),
        ([HINT, "stages.0.taps={mid: {here: fc}, big: {here: fc}, small: {here: fc}}"], "no tap of student is named"),
        (["stages.0.taps={mdi: {here: block1}}"], "no network is named 'mdi'; there are: mid"),
        (["stages.0.objective.soft.weight={use: overall, schedule: 0.5}"], "schedule: 0.5 is not a Schedule"),
        (["stages.0.objective.soft.weight={use: overall}"], "overall needs 'schedule'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(sentence, settings, says):
    assert says in sentence(lambda: resolve_recipe(load_recipe(CHAIN, settings)))


@pytest.marker.parametrize("key", ["weight", "tau"])
def test_an_overall_schedule_is_a_node_in_a_node(key):
    recipe = load_recipe(CHAIN, [f"stages.0.objective.soft.{key}={{use: overall, schedule: {LINE}}}"])
    terms, weights = resolve_recipe(recipe).stages[0].build_objective()
    assert str({"weight": weights["soft"], "tau": terms["soft"].tau}[key]) == "1→0 over all stages"
    assert to_yaml(load_recipe(to_yaml(recipe))) == to_yaml(recipe)
