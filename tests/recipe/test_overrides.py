"""The command line changes what it names, creates only what the schema allows, and says what it does not know."""

from __future__ import annotations

import pytest

from limbeck.recipe.overrides import apply_overrides
from limbeck.recipe.yaml_io import parse_yaml

SMALL = {
    "task": "Classification",
    "data": "Digits",
    "student": "small_cnn",
    "stages": [{"name": "a", "epochs": 3, "objective": {"t": "CrossEntropyLoss"}}],
}


def _at(data, path):
    for step in path.split("."):
        data = data[int(step) if isinstance(data, list) else step]
    return data


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("student.width", "16", 16),
        ("stages.0.epochs", "5", 5),
        ("training.optimizer.lr", "1e-2", 0.01),
        ("data.num_labeled", "null", None),
        ("data.augment.transforms.0.degrees", "3", 3),
        ("data.augment.transforms", "[]", []),
        ("student", "{use: mlp, hidden: [8]}", {"use": "mlp", "hidden": [8]}),
        ("student", "mlp", "mlp"),
        ("teachers.new", "{use: mlp}", {"use": "mlp"}),
        ("stages.0.objective.hint", "{use: FitNetLoss, layer: mid}", {"use": "FitNetLoss", "layer": "mid"}),
        ("stages.0.objective.soft.weight", "3", 3),
        ("stages.0.objective.soft.weight.end", "0.1", 0.1),
        ("stages.0.feature_layers.other.low", "block1", "block1"),
        ("stages.0.training.optimizer.lr", "1", 1),
        ("stages.0.training.batch_size", "1", 1),
        ("name", "a=b", "a=b"),
        ("name", "''", ""),
    ],
)
def test_a_path_is_set(digits, path, text, value):
    document = parse_yaml(digits)
    changed = apply_overrides(document, [f"{path}={text}"])
    assert _at(changed, path) == value
    assert document == parse_yaml(digits)


def test_a_bare_name_becomes_a_node_when_a_setting_is_given():
    assert apply_overrides(SMALL, ["student.width=3"])["student"] == {"use": "small_cnn", "width": 3}
    terms = apply_overrides(SMALL, ["stages.0.objective.t.weight=2"])["stages"][0]["objective"]
    assert terms == {"t": {"use": "CrossEntropyLoss", "weight": 2}}


def test_what_is_absent_starts_from_its_default():
    changed = apply_overrides(SMALL, ["training.optimizer.lr=1"])["training"]
    assert changed["optimizer"] == {"use": "AdamW", "lr": 1}
    assert changed["batch_size"] == 64
    assert apply_overrides({**SMALL, "training": {"batch_size": 3}}, ["training.optimizer.lr=1"])["training"] == {
        "batch_size": 3,
        "optimizer": {"use": "AdamW", "lr": 1},
    }


def test_later_overrides_see_earlier_ones():
    changed = apply_overrides(
        SMALL, ["training.scheduler.use=StepLR", "training.scheduler.step_size=3", "seed=1", "seed=2"]
    )
    assert changed["training"]["scheduler"] == {"use": "StepLR", "step_size": 3}
    assert changed["seed"] == 2


def test_values_shared_by_an_alias_are_changed_one_by_one():
    document = parse_yaml("student: &net {use: mlp}\nteachers: {big: *net}")
    changed = apply_overrides(document, ["student.size=3"])
    assert changed == {"student": {"use": "mlp", "size": 3}, "teachers": {"big": {"use": "mlp"}}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("traning.batch_size=3", "traning is no setting of a recipe; the recipe has: training"),
        ("sede=3", "sede is no setting of a recipe; the recipe has: seed"),
        ("training.bach_size=3", "training.bach_size is no setting of a recipe; training has: batch_size"),
        ("stages.0.epoch=3", "stages.0.epoch is no setting of a recipe; stages.0 has: epochs"),
        (
            "stages.0.training.btch_size=3",
            "stages.0.training.btch_size is no setting of a recipe; stages.0.training has: batch_size",
        ),
        ("stages.1.epochs=3", "stages is a list: '1' is not one of its indices, which are 0 to 0"),
        ("stages.-1.epochs=3", "stages is a list: '-1' is not one of its indices"),
        ("stages.distill.epochs=3", "stages is a list: 'distill' is not one of its indices"),
        ("export.to.1=onnx", "export.to is a list: '1'"),
        ("seed.x=5", "seed is 0, and has no 'x' below it"),
        ("stages.0.objective.truth.weight.end=5", "stages.0.objective.truth.weight is 0.1, and has no 'end' below it"),
        ("teachers.bgi.width=3", "teachers.bgi does not exist; teachers has: big"),
        (
            "stages.0.objective.sfot.temperature=3",
            "stages.0.objective.sfot does not exist; stages.0.objective has: soft",
        ),
        ("data.agment.num_views=3", "data.agment is not in the recipe, so give it whole"),
        ("seed", "the override 'seed' is not of the form path.to.setting=value"),
        ("=3", "is not of the form"),
        ("a..b=3", "is not of the form"),
        ("seed=", "has no value: write null for none"),
        ("seed=[1", "is not valid YAML at line 1"),
        ("seed=!!python/name:os.system ''", "the tag !!python/name:os.system is refused"),
        ("student={use: a, use: b}", "'use' is twice"),
    ],
)
def test_a_path_that_leads_nowhere_is_a_sentence(sentence, digits, override, message):
    assert message in sentence(apply_overrides, parse_yaml(digits), [override])


def test_a_required_part_is_not_made_up(sentence):
    assert "task is missing: set task.use first" in sentence(apply_overrides, {}, ["task.classes=3"])
