"""A node is checked against the signature of what it names, and built from what was checked."""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from limbeck.core.errors import LimbeckError
from limbeck.core.schedules import Schedule, linear
from limbeck.data import Augmentation, default_augmentation, mixup, random_crop, torchvision
from limbeck.recipe import registry as aliases
from limbeck.recipe import resolve_node as build
from limbeck.recipe.registry import NodeKind
from limbeck.recipe.resolved_node import DEFERRED
from limbeck.recipe.type_hints import describe_hint, get_hints, make_type_adapter

LATE = dict.fromkeys(("classes", "channels", "seed", "steps"), DEFERRED)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Other:
    """Nothing that a schedule could be."""


Width = NewType("Width", int)
T = TypeVar("T")


def thing(
    width: int,
    *,
    rate: float = 1,
    flag: bool = False,
    name: str = "x",
    path: Path | None = None,
    pair: tuple[float, float] = (0.5, 1),
    many: Sequence[int] = (),
    by_name: Mapping[str, float] | None = None,
    mode: Literal["a", "b"] = "a",
    part: float | str = 0.5,
    colour: Colour = Colour.RED,
    tau: float | Schedule = 4.0,
    schedules: list[Schedule] | None = None,
    tensor: torch.Tensor | None = None,
    lr: float | torch.Tensor = 0.1,
    new: Width = Width(1),
    noted: Annotated[int, "a note"] = 1,
    bounded: Annotated[int, Field(ge=1)] = 1,
    call: Callable[[int], int] | None = None,
    anything: Any = None,
    gone: "NoSuchName | None" = None,  # noqa: F821, UP037
    act: Any = print,
) -> dict[str, Any]:
    return dict(locals())


def open_thing(width: int = 1, **options: Any) -> dict[str, Any]:
    return {"width": width, **options}


def closed(*, classes: int = 10, channels: int = 1) -> tuple[int, int]:
    if classes < 2:
        raise ValueError(f"two classes at least,\nnot {classes}")
    return classes, channels


def wrapper(*, inner: Any = None, classes: int = 0) -> Any:
    return inner, classes


@dataclass(frozen=True)
class Frozen:
    width: int = 3
    tags: tuple[str, ...] = field(default_factory=tuple)


@pytest.fixture(autouse=True)
def _room(monkeypatch):
    room = types.ModuleType("fake_room")
    things = (thing, open_thing, closed, wrapper, Frozen, Other)
    room.__all__ = [each.__name__ for each in things]
    for each in things:
        setattr(room, each.__name__, each)
    monkeypatch.setitem(sys.modules, "fake_room", room)
    fake = NodeKind(
        display_name="fake",
        module="fake_room",
        is_member=callable,
        builds=(),
        injected_args={"classes": "classes", "channels": "channels"},
    )
    monkeypatch.setattr(aliases, "NODE_KINDS", {"fake": fake, **aliases.NODE_KINDS})


def check(node, kind="fake", **more):
    return build.resolve_node(node, kind, config_path="here", **more)


def test_a_misspelt_setting_names_the_right_one(sentence):
    message = sentence(build.resolve_node, {"use": "small_cnn", "widht": 3}, "model", config_path="student")
    assert message == (
        "student: small_cnn has no setting 'widht'; did you mean 'width'? (settings: width, depth, classes, channels)"
    )


def test_a_wrong_value_names_its_config_path(sentence):
    message = sentence(build.resolve_node, {"use": "small_cnn", "width": "abc"}, "model", config_path="student")
    assert message == "student.width: 'abc' is not an integer"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("width", "abc", "here.width: 'abc' is not an integer"),
        ("width", True, "here.width: true is not an integer"),
        ("width", 2.0, "here.width: 2.0 is not an integer"),
        ("width", "3", "here.width: '3' is not an integer"),
        ("width", None, "here.width: null is not an integer"),
        ("rate", "abc", "here.rate: 'abc' is not a number"),
        ("rate", False, "here.rate: false is not a number"),
        ("rate", float("nan"), "here.rate: nan is not a number"),
        ("rate", [1.0], "here.rate: [1.0] is not a number"),
        ("flag", 1, "here.flag: 1 is not true or false"),
        ("flag", "yes", "here.flag: 'yes' is not true or false"),
        ("name", 3, "here.name: 3 is not text"),
        ("path", 3, "here.path: 3 is not a path or null"),
        ("pair", [1.0], "here.pair: [1.0] is not a list of 2 numbers"),
        ("pair", [1.0, "x"], "here.pair.1: 'x' is not a number"),
        ("pair", 3, "here.pair: 3 is not a list of 2 numbers"),
        ("many", [1, 2.5], "here.many.1: 2.5 is not an integer"),
        ("many", "12", "here.many: '12' is not a list of integers"),
        ("by_name", {"a": "x"}, "here.by_name.a: 'x' is not a number"),
        ("by_name", [1], "here.by_name: [1] is not a mapping or null"),
        ("mode", "c", "here.mode: 'c' is not one of 'a', 'b'"),
        ("colour", "green", "here.colour: 'green' is not one of 'red', 'blue'"),
        ("tau", "abc", "here.tau: 'abc' is not a number or a Schedule (a node with `use`)"),
        ("tensor", [1.0], "here.tensor: [1.0] is not null"),
        ("lr", "abc", "here.lr: 'abc' is not a number"),
        ("new", "abc", "here.new: 'abc' is not an integer"),
        ("noted", True, "here.noted: true is not an integer"),
        ("bounded", 0, "here.bounded: 0 is not at least 1"),
        ("bounded", "x", "here.bounded: 'x' is not an integer"),
        ("schedules", [3], "here.schedules.0: 3 is not a Schedule (a node with `use`)"),
    ],
)
def test_values_are_read_strictly(sentence, setting, value, message):
    assert sentence(check, {"use": "thing", "width": 1, setting: value}) == message


@pytest.mark.parametrize(
    ("setting", "value", "built"),
    [
        ("rate", 3, 3.0),
        ("rate", "1e-3", 0.001),
        ("rate", float("inf"), float("inf")),
        ("path", "a/b", Path("a/b")),
        ("pair", [1, "2e0"], (1.0, 2.0)),
        ("many", [1, 2], [1, 2]),
        ("by_name", {"a": 1}, {"a": 1.0}),
        ("colour", "blue", Colour.BLUE),
        ("part", "2024", "2024"),
        ("part", 1, 1.0),
        ("tau", "1e-1", 0.1),
        ("lr", 1, 1.0),
        ("anything", {"a": [1, None]}, {"a": [1, None]}),
        ("gone", "whatever", "whatever"),
    ],
)
def test_values_arrive_as_the_hint_says(setting, value, built):
    checked = check({"use": "thing", "width": 1, setting: value})
    result = checked.build()[setting]
    assert result == built
    assert type(result) is type(built)


def test_a_required_setting_is_demanded(sentence):
    assert sentence(check, "thing") == "here: thing needs 'width', an integer"


@pytest.mark.parametrize("node", [3, None, [], {}, {"width": 3}, {"use": 3}, {"use": None}])
def test_what_is_no_node_is_a_sentence(sentence, node):
    assert "is not a node: write {use: NAME}" in sentence(check, node)


def test_a_bare_name_is_a_node():
    assert check("Frozen").build() == Frozen()


def test_a_key_that_is_not_text_is_a_sentence(sentence):
    assert "has no setting 3" in sentence(check, {"use": "Frozen", 3: 1})
    assert "has no setting null" in sentence(check, {"use": "open_thing", None: 1})


def test_options_pass_where_the_callable_takes_them():
    checked = check({"use": "open_thing", "dropout": 0.5, "more": [1, 2]})
    assert checked.build() == {"width": 1, "dropout": 0.5, "more": [1, 2]}
    assert checked.config == {"use": "open_thing", "width": 1, "dropout": 0.5, "more": [1, 2]}


def test_resolved_has_every_setting_that_yaml_can_say():
    resolved = check({"use": "thing", "width": 3, "tau": {"use": "linear", "start": 1, "end": 0}}).config
    assert resolved["tau"] == {"use": "linear", "start": 1.0, "end": 0.0}
    assert resolved["pair"] == [0.5, 1.0]
    assert resolved["rate"] == 1.0 and isinstance(resolved["rate"], float)  # noqa: PT018
    assert list(resolved)[:4] == ["use", "width", "rate", "flag"]
    assert "act" not in resolved  # a function cannot be written as YAML


def test_resolved_is_stable_and_builds_the_same():
    once = check({"use": "thing", "width": 3, "path": "a", "colour": "blue", "many": [1]})
    again = check({**once.config, "colour": "blue"})
    assert again.config == once.config
    assert again.build() == once.build()


def test_nested_nodes_are_built_at_any_depth():
    node = {"use": "thing", "width": 1, "schedules": [{"use": "linear", "start": 1, "end": 0}], "anything": {"a": [{"use": "Frozen", "width": 7}]}}  # fmt: skip # noqa: E501
    built = check(node).build()
    assert built["schedules"] == [linear(1.0, 0.0)]
    assert built["anything"] == {"a": [Frozen(7)]}


def test_a_nested_mistake_has_its_whole_place(sentence):
    node = {"use": "thing", "width": 1, "anything": {"a": [{"use": "Frozen"}, {"use": "Frozen", "widht": 7}]}}
    assert sentence(check, node).startswith("here.anything.a.1: Frozen has no setting 'widht'; did you mean 'width'?")


def test_a_nested_node_must_give_what_stands_there(sentence):
    def ask(setting, node):
        return sentence(check, {"use": "thing", "width": 1, setting: node})

    assert "here.rate: {use: linear, start: 1, end: 0} is a node" in ask(
        "rate", {"use": "linear", "start": 1, "end": 0}
    )
    assert "no schedule is named 'Frozen'" in ask("tau", {"use": "Frozen"})
    assert "Other builds a Other, but the value must be null" in ask("tensor", {"use": "Other"})


def test_text_names_a_node_only_where_no_text_can_stand():
    assert check({"use": "thing", "width": 1, "name": "Frozen"}).build()["name"] == "Frozen"
    augment = build.resolve_node({"use": "Digits", "augment": "Augmentation"}, "data").config["augment"]
    assert augment == {"use": "Augmentation", "transforms": [], "num_views": 0, "repeats": 1}


def test_a_default_that_is_an_object_is_shown_as_its_node():
    assert build.resolve_node("Digits", "data").config["augment"] == {
        "use": "Augmentation",
        "transforms": [],
        "num_views": 0,
        "repeats": 1,
    }


def test_limbeck_fills_in_what_the_recipe_leaves_out_and_nothing_else():
    assert check("closed", provided={"classes": 4, "channels": 3}).build() == (4, 3)
    assert check({"use": "closed", "classes": 7}, provided={"classes": 4, "channels": 3}).build() == (7, 3)
    assert check("closed", provided={"classes": 4, "channels": 3}).config == {
        "use": "closed",
        "classes": 4,
        "channels": 3,
    }
    assert check("Frozen", provided={"classes": 4}).build() == Frozen()
    assert check("closed").build() == (10, 1)


def test_what_comes_later_is_given_when_it_is_built(sentence):
    checked = check({"use": "closed", "channels": 3}, provided=LATE)
    assert checked.config == {"use": "closed", "channels": 3}
    assert checked.build(classes=5, channels=9, seed=1) == (5, 3)
    assert "'classes' of closed is not known yet" in sentence(checked.build)


def test_what_comes_later_reaches_nested_nodes():
    checked = check({"use": "wrapper", "inner": {"use": "closed"}}, provided=LATE)
    assert checked.build(classes=5, channels=2) == ((5, 2), 5)


def test_an_error_of_the_constructor_has_its_place(sentence):
    assert sentence(check({"use": "closed", "classes": 1}).build) == "here: closed: two classes at least,"
    assert "stages.0.soft: KDLoss: a temperature" in sentence(
        build.resolve_node({"use": "KDLoss", "temperature": -1}, "loss", config_path="stages.0.soft").build
    )


def test_an_optimizer_takes_its_parameters_when_it_is_built(sentence):
    checked = build.resolve_node({"use": "SGD", "lr": "1e-1", "momentum": 0}, "optimizer")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = checked.build([parameter])
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert "has no setting 'params'" in sentence(build.resolve_node, {"use": "SGD", "params": [1]}, "optimizer")


@pytest.mark.parametrize(
    ("node", "total"),
    [
        ({"use": "OneCycleLR", "max_lr": 0.1}, 40),
        ({"use": "OneCycleLR", "max_lr": 0.1, "total_steps": 50}, 50),
        ({"use": "OneCycleLR", "max_lr": 0.1, "total_steps": None}, 40),
        ({"use": "OneCycleLR", "max_lr": 0.1, "epochs": 3, "steps_per_epoch": 2}, 6),
        ({"use": "OneCycleLR", "max_lr": 0.1, "epochs": None, "steps_per_epoch": None}, 40),
    ],
)
def test_the_length_of_a_schedule_is_that_of_training_unless_it_is_set(node, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    late = build.resolve_node(node, "scheduler", provided=LATE)
    assert late.build(optimizer, steps=40).total_steps == total
    assert build.resolve_node(late.config, "scheduler", provided=LATE).build(optimizer, steps=40).total_steps == total
    assert build.resolve_node(node, "scheduler", provided={"steps": 40}).build(optimizer).total_steps == total


def test_cosine_annealing_ends_with_training():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    assert build.resolve_node("CosineAnnealingLR", "scheduler", provided=LATE).build(optimizer, steps=7).T_max == 7


def test_every_optimizer_and_scheduler_of_torch_can_be_asked_for():
    for kind in ("optimizer", "scheduler"):
        for name in aliases.list_names(kind):
            assert get_hints(aliases.resolve_target(name, [kind])[1])


@pytest.mark.parametrize(
    "hint", [T, "NoName", list, dict, tuple, set[int], frozenset[str], Iterable[float], type[int], 3]
)
def test_a_reader_can_be_had_for_any_hint(hint):
    assert make_type_adapter(hint) is not None
    assert describe_hint(hint)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from(["width", "rate", "pair", "many", "by_name", "tau", "tensor", "anything", "mode", "part", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["use", "a", "start"]), inner, max_size=3)
            ),
            max_leaves=6,
        ),
    )
)
def test_any_settings_are_checked_or_a_sentence(node):
    from limbeck.core.errors import LimbeckError

    try:
        resolved = check({"use": "thing", **node}).config
    except LimbeckError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert str(error).startswith("here")  # noqa: PT017
    else:
        assert resolved["use"] == "thing"


def test_a_preset_of_views_stands_where_views_stand():
    node = {"use": "Digits", "augment": {"use": "default_augmentation", "crop": 1, "num_views": 8}}
    checked = build.resolve_node(node, "data")
    assert checked.config["augment"] == {
        "use": "default_augmentation", "crop": 1, "jitter": 0.4, "mixup": 0.2, "flip": 0.0, "num_views": 8,
        "repeats": 1,
    }  # fmt: skip
    assert checked.build().augment == default_augmentation(crop=1, num_views=8)


def test_transforms_are_bare_names_or_nodes():
    transforms = [
        "random_crop",
        {"use": "torchvision", "name": "RandomErasing", "p": 0.25, "scale": [0.02, 0.1]},
        "mixup",
    ]
    checked = build.resolve_node({"use": "Augmentation", "transforms": transforms, "repeats": 4}, "augmentation")
    assert checked.build() == Augmentation(
        (random_crop(), torchvision("RandomErasing", p=0.25, scale=(0.02, 0.1)), mixup()), repeats=4
    )
    assert checked.config["transforms"][1] == transforms[1]


def test_invalid_augmentations_name_their_config_path(sentence):
    node = {"use": "Augmentation", "transforms": ["mixup", "horizontal_flip"]}
    assert sentence(build.resolve_node(node, "augmentation").build).startswith(
        "augmentation: Augmentation: mixup and cutmix must come last"
    )
    assert sentence(build.resolve_node, {"use": "Augmentation", "transforms": [5]}, "augmentation").startswith(
        "augmentation.transforms.0: 5 is not"
    )


def test_a_response_term_without_a_temperature_gets_the_one_that_its_task_is_used_to():
    assert check("KDLoss", "loss", provided={"temperature": 2.0}).build().temperature == 2.0
    assert check("KDLoss", "loss", provided={"temperature": 2.0}).config["temperature"] == 2.0
    assert check({"use": "KDLoss", "temperature": 5}, "loss", provided={"temperature": 2.0}).build().temperature == 5.0
    assert "temperature" not in check("CrossEntropyLoss", "loss", provided={"temperature": 2.0}).settings


@pytest.mark.parametrize(
    ("temperature", "message"),
    [
        ({"use": "PerSampel"}, "no schedule or temperature is named 'PerSampel'; available: PerSample"),
        ({"use": "PerSample", "confidnt": 3}, "PerSample has no setting 'confidnt'; did you mean 'confident'"),
        ({"use": "LossAdaptive", "start": "warm"}, "'warm' is not a number"),
        ({"use": "GradNorm"}, "no schedule or temperature is named 'GradNorm'"),
    ],
)
def test_an_error_in_a_temperature_names_its_config_path(temperature, message):
    with pytest.raises(LimbeckError, match=message):
        check({"use": "KDLoss", "temperature": temperature}, "loss")
