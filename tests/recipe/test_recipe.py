"""A recipe is read whole, checked against itself and what it names, shown, and read back the same."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import loss_attribute
from limbeck.core.schedules import linear
from limbeck.recipe import Recipe, fill_defaults, find_recipe, list_recipes, load_recipe, resolve_recipe, to_yaml
from limbeck.recipe.registry import list_names, resolve_target
from limbeck.recipe.schema import to_plain, validate
from limbeck.recipe.yaml_io import dump_yaml, parse_yaml

DESIGN = """
task: {use: Classification, classes: 10}
data: {use: ImageFolder, root: data/cifar10, augment: {use: Augmentation, transforms: [random_crop, horizontal_flip],
num_views: 4}}
teachers: {big: {use: timm, name: resnet50, weights: runs/teacher}}
student: {use: torchvision, name: mobilenet_v3_small}
stages:
  - {name: warmup, epochs: 5, objective: {truth: {use: CrossEntropyLoss}}}
  - name: distill
    epochs: 30
    objective: {truth: {use: CrossEntropyLoss, weight: 0.1}, soft: {use: KDLoss, temperature: 4, weight: 0.9}}
export: {to: [onnx]}
"""


def changed(data, path, value):
    """A copy of ``data`` with ``value`` at ``path``; ``...`` removes what is there."""
    data = copy.deepcopy(data)
    here, (*steps, last) = data, path
    for step in steps:
        here = here[step]
    if value is ...:
        del here[last]
    else:
        here[last] = value
    return data


def test_the_whole_recipe_is_read(digits):
    recipe = load_recipe(digits)
    assert (recipe.name, recipe.seed, recipe.baselines, recipe.export.to) == ("digits", 0, ("student_only",), ("onnx",))
    assert recipe.teachers["big"].weights == "runs/teacher"
    assert recipe.teacher_training is not None and recipe.teacher_training.epochs == 40  # noqa: PT018
    soft = recipe.stages[0].objective["soft"]
    assert soft.weight.use == "linear" and soft.temperature == 4  # noqa: PT018
    assert recipe.training.scheduler.interval == "step"


def test_defaults_are_those_of_the_schema():
    recipe = load_recipe(DESIGN)
    training = recipe.training
    assert to_plain(training).items() >= {
        "optimizer": {"use": "AdamW", "lr": 0.001}, "scheduler": None, "batch_size": 64, "grad_accum_steps": 1,
        "max_grad_norm": None, "ema_decay": None, "early_stopping_patience": None, "precision": "32-true",
        "keep_weights": "last",
    }.items()  # fmt: skip
    assert (recipe.seed, recipe.plugins, recipe.baselines, recipe.teacher_training) == (0, (), ("student_only",), None)
    assert recipe.stages[0].objective["truth"].weight == 1.0


@pytest.mark.parametrize("override", [[], ["student=mlp"], ["training.scheduler=null"], ["teachers.big.weights=null"]])
def test_a_shown_recipe_reads_back_the_same(digits, override):
    for text in (digits, DESIGN):
        recipe = load_recipe(text, override if text is digits else [])
        shown = to_yaml(recipe)
        assert load_recipe(shown) == fill_defaults(recipe)
        assert to_yaml(load_recipe(shown)) == shown
        assert load_recipe(dump_yaml(to_plain(recipe))) == recipe


def test_a_shown_recipe_has_every_setting_in_the_order_of_the_schema(digits):
    data = parse_yaml(to_yaml(load_recipe(digits)))
    assert list(data) == list(Recipe.model_fields)
    assert data["student"] == {"use": "small_cnn", "width": 8, "depth": 3}
    assert data["training"]["optimizer"]["betas"] == [0.9, 0.999]
    assert data["stages"][0]["objective"]["truth"] == {"use": "CrossEntropyLoss", "label_smoothing": 0.0, "weight": 0.1}
    assert "steps" not in data["stages"][0]


def test_what_the_data_decides_is_shown_only_when_it_is_given(digits):
    recipe = load_recipe(digits)
    assert "classes" not in parse_yaml(to_yaml(recipe))["task"]
    given = parse_yaml(to_yaml(recipe, provided={"classes": 10, "channels": 1}))
    assert given["task"] == {"use": "Classification", "classes": 10}
    assert given["student"]["channels"] == 1


def test_a_plan_builds_live_objects(digits):
    plan = resolve_recipe(load_recipe(digits))
    assert plan.task.build(classes=10).classes == 10
    student = plan.student.build(classes=10, channels=1)
    assert student(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert isinstance(plan.teachers["big"].build(classes=10, channels=1), nn.Module)
    terms, weights = plan.stages[0].build_objective()
    assert list(terms) == ["truth", "soft"]
    assert weights == {"truth": 0.1, "soft": linear(1.0, 0.5)}
    optimizer = plan.stages[0].optimizer.build(student.parameters())
    assert plan.stages[0].scheduler.build(optimizer, steps=30).total_steps == 30
    assert plan.data.settings["num_labeled"] == 200


def test_checking_builds_nothing(digits, monkeypatch):
    monkeypatch.setattr(
        "limbeck.recipe.resolved_node.ResolvedNode.build", lambda *_args, **_more: pytest.fail("was built")
    )
    resolve_recipe(load_recipe(digits))


def test_a_stage_changes_single_settings_of_the_training(digits):
    recipe = load_recipe(digits, ["stages.0.training={batch_size: 8, optimizer: {lr: 1}, scheduler: null}"])
    training = recipe.stage_training(recipe.stages[0])
    assert to_plain(training.optimizer) == {"use": "AdamW", "lr": 1}
    assert (training.batch_size, training.scheduler, training.keep_weights) == (8, None, "last")
    other = load_recipe(digits, ["stages.0.training.optimizer={use: SGD, momentum: 0.9}"])
    assert to_plain(other.stage_training(other.stages[0]).optimizer) == {"use": "SGD", "momentum": 0.9}
    assert recipe.training.batch_size == 64
    stage = resolve_recipe(other).stages[0]
    assert stage.optimizer.target is torch.optim.SGD


def test_the_file_names_a_recipe_without_a_name(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(DESIGN)
    assert load_recipe(file).name == load_recipe(str(file)).name == "mine"
    assert load_recipe(file, ["name=other"]).name == "other"
    assert load_recipe(DESIGN).name == "run"


def test_numbers_in_yaml_s_old_blind_spot_are_numbers(digits):
    text = digits.replace("lr: 0.003", "lr: 3e-3").replace("max_grad_norm: null", "max_grad_norm: '1e-1'")
    recipe = load_recipe(text)
    assert (recipe.training.optimizer.lr, recipe.training.max_grad_norm) == (0.003, 0.1)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ["sed"],
            3,
            "recipe: a recipe has no setting 'sed'; did you mean 'seed'? (settings: name, seed, split_seed,",
        ),
        (["seed"], "x", "seed: 'x' is not an integer"),
        (["seed"], True, "seed: true is not an integer"),
        (["seed"], -1, "seed: -1 is not at least 0"),
        (["student"], ..., "recipe: 'student' is missing"),
        (["student"], 3, "student: 3 is not a node: write {use: NAME}"),
        (["student"], {"widht": 3}, "student: {widht: 3} lacks `use`"),
        (["student", 1], 3, "student: the key 1 is not text"),
        (
            ["stages", 0, "epoch"],
            3,
            "stages.0: a stage has no setting 'epoch'; did you mean 'epochs'? (settings: name,",
        ),
        (["stages", 0, "steps"], 3, "stages.0: the stage 'distill' has both epochs and steps"),
        (["stages", 0, "epochs"], ..., "stages.0: the stage 'distill' has no length: give epochs or steps"),
        (["stages", 0, "epochs"], 0, "stages.0.epochs: 0 is not at least 1"),
        (["stages", 0, "epochs"], 1.5, "stages.0.epochs: 1.5 is not an integer"),
        (["stages", 0, "name"], ..., "stages.0: 'name' is missing"),
        (["stages", 0, "name"], "a/b", "stages.0.name: 'a/b' is not a name"),
        (["stages", 0, "objective"], {}, "stages.0: objective has no loss"),
        (["stages", 0, "objective"], [1], "stages.0: objective is losses by name"),
        (["stages", 0, "objective", "weights"], {"soft": 1}, "objective has 'weights' beside its losses"),
        (["stages", 0, "objective", "a.b"], "GramLoss", "stages.0.objective.a.b: 'a.b' is not a name"),
        (["stages", 0, "objective", "soft", "weight"], "abc", "soft.weight: 'abc' is not a number or a schedule"),
        (["stages", 0, "objective", "soft", "weight"], True, "soft.weight: true is not a number or a schedule"),
        (["stages", 0, "objective", "soft", "weight"], float("inf"), "soft.weight: inf is not a finite number"),
        (["stages", 0, "objective", "soft", "weight"], {"end": 1}, "soft.weight: {end: 1} lacks `use`"),
        (["stages", 0, "feature_layers"], {"student": "x"}, "stages.0.feature_layers.student: 'x' is not a mapping"),
        (["stages", 0, "freeze"], "x", "stages.0.freeze: 'x' is not a list"),
        (
            ["stages", 0, "training"],
            {"bach_size": 3},
            "stages.0.training: training has no setting 'bach_size'; did you mean 'batch_size'",
        ),
        (["stages", 0, "training"], {"batch_size": "x"}, "stages.0.training.batch_size: 'x' is not an integer"),
        (["stages"], {"a": 1}, "stages: {a: 1} is not a list"),
        (["training", "precision"], "32", "training.precision: '32' is not one of '32-true', '16-mixed'"),
        (["training", "keep_weights"], "first", "training.keep_weights: 'first' is not one of 'last', 'best'"),
        (["training", "max_grad_norm"], 0, "training.max_grad_norm: 0 is not above 0"),
        (["training", "ema_decay"], 1.0, "training.ema_decay: 1.0 is not below 1"),
        (["training", "early_stopping_patience"], 0, "training.early_stopping_patience: 0 is not at least 1"),
        (["training", "batch_size"], "x", "training.batch_size: 'x' is not an integer"),
        (["training", "scheduler", "interval"], "x", "training.scheduler.interval: 'x' is not one of 'step', 'epoch'"),
        (["teachers"], ["a"], "teachers: ['a'] is not a mapping"),
        (["teachers", "student"], "mlp", "teachers.student: a teacher cannot be named student"),
        (["teachers", "big", "weights"], 3, "teachers.big.weights: 3 is not text"),
        (["plugins"], ["os"], "plugins.0: 'os' is part of Python itself"),
        (["plugins"], "mine", "plugins: 'mine' is not a list"),
        (["name"], False, "name: false is not text: put it in quotes"),
        (["name"], "../x", "name: '../x' is not a name that can be a folder"),
        (["baselines"], ["student"], "baselines: 'student' is not one of 'student_only', 'no_assistants'"),
        (
            ["baselines"],
            "student_only",
            "baselines: 'student_only' is not a list: write [student_only], or [] for none",
        ),
        (["export"], {"to": ["onx"]}, "export.to.0: 'onx' is not one of 'onnx'"),
        (["export", "taget"], "x", "export: export has no setting 'taget' (settings: to)"),
        (["teacher_training", "name"], 3, "teacher_training.name: 3 is not text"),
        (["teacher_training", "objective"], ..., "teacher_training: 'objective' is missing"),
    ],
)
def test_a_schema_error_names_its_config_path(sentence, digits, path, value, message):
    assert message in sentence(load_recipe, dump_yaml(changed(parse_yaml(digits), path, value)))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.widht=3"], "student: small_cnn has no setting 'widht'; did you mean 'width'?"),
        (["student.width=abc"], "student.width: 'abc' is not an integer"),
        (["student.weight=3"], "`weight` is a setting of the losses of an objective"),
        (["student.weights=x"], "`weights` is a setting of teachers only"),
        (["student=smal_cnn"], "student: no model is named 'smal_cnn'; available: small_cnn"),
        (["student=KDLoss"], "student: no model is named 'KDLoss'"),
        (["teachers.big.widht=3"], "teachers.big: small_cnn has no setting 'widht'"),
        (["data=digits"], "data: no data source is named 'digits'; available: Digits"),
        (["data.augment.transforms=[random_crop, flop]"], "data.augment.transforms.1: no transform is named 'flop'"),
        (["data.augment.transforms.0.degree=3"], "data.augment.transforms.0: affine has no setting 'degree'"),
        (["training.optimizer.lrr=3"], "training.optimizer: AdamW has no setting 'lrr'; did you mean 'lr'?"),
        (["stages.0.training.optimizer.lrr=3"], "stages.0.training.optimizer: AdamW has no setting 'lrr'"),
        (["training.scheduler.gamma=3"], "training.scheduler: OneCycleLR has no setting 'gamma'"),
        (
            ["stages.0.objective.soft.temperature=abc"],
            "stages.0.objective.soft.temperature: 'abc' is not a number or a Schedule",
        ),
        (["stages.0.objective.soft.weight={use: linear}"], "stages.0.objective.soft.weight: linear needs 'start'"),
        (["stages.0.objective.soft.weight={use: SGD}"], "weight: no schedule is named 'SGD'"),
        (["stages=[]"], "stages: a recipe needs at least one"),
        (
            ["teachers.big.weights=null", "teacher_training=null"],
            "teachers.big: it has no weights, and there is no `teacher_training`",
        ),
        (["stages.0.feature_layers.bgi={a: b}"], "stages.0.feature_layers: no network is named 'bgi'; available: big"),
        (["stages.0.objective.soft.teacher=bgi"], "soft.teacher: no teacher is named 'bgi'; available: big"),
        (["teacher_training.objective.soft=KDLoss"], "teacher_training.objective.soft: KDLoss compares with a teacher"),
        (["teacher_training.feature_layers.big={a: b}"], "in teacher_training, the teacher is called student"),
        (["teachers={}", "stages.0.feature_layers={}"], "KDLoss compares with a teacher, and the recipe has none"),
        (["stages.0.objective.h={use: FitNetLoss, layer: mdi}"], "h.layer: no feature layer of student is named 'mdi'"),
        (
            ["stages.0.objective.h={use: ReviewKDLoss, layers: [mid, mdi]}"],
            "h.layers: no feature layer of student is named 'mdi'",
        ),
        (
            ["stages.0.objective.h={use: FitNetLoss, layer: mid}", "stages.0.feature_layers.big={}"],
            "h.layer: no feature layer of big is named 'mid'",
        ),
        (
            ["stages.0.objective.h={use: FSPLoss, first_layer: mdi, last_layer: mid}"],
            "h.first_layer: no feature layer of student is named 'mdi'",
        ),
        (["training.scheduler=ReduceLROnPlateau"], "set interval: epoch in training.scheduler"),
    ],
)
def test_an_error_in_a_named_node_names_its_config_path(sentence, digits, overrides, message):
    recipe = load_recipe(digits, overrides)
    assert message in sentence(resolve_recipe, recipe)
    assert message in sentence(to_yaml, recipe)


def test_a_loss_on_the_student_alone_needs_no_layers_of_the_teacher(sentence, digits):
    byot = "stages.0.objective.exits={use: BYOTLoss, layers: [early]%s}"
    layers = "stages.0.feature_layers={student: {early: block1}}"
    resolve_recipe(load_recipe(digits, [byot % "", layers]))
    wrong = load_recipe(digits, [byot % ", deepest_layer: late", layers])
    assert "exits.deepest_layer: no feature layer of student is named 'late'" in sentence(resolve_recipe, wrong)


def test_each_loss_declares_which_of_its_settings_are_layers():
    for name in list_names("loss"):
        loss = resolve_target(name, ["loss"])[1]
        settings = {setting for setting in inspect.signature(loss).parameters if "layer" in setting}
        assert set(loss_attribute(loss, "layer_settings")) == settings, name


def test_two_stages_of_one_name_are_refused(sentence, digits):
    data = parse_yaml(digits)
    data["stages"].append(data["stages"][0])
    assert "stages.1.name: 'distill' is the name of stages.0 already" in sentence(
        resolve_recipe, load_recipe(dump_yaml(data))
    )


def test_a_change_of_a_scheduler_that_is_not_there_is_refused(sentence):
    message = sentence(load_recipe, DESIGN, ["stages.0.training.scheduler.gamma=3"])
    assert message.startswith("stages.0.training.scheduler: {gamma: 3} changes nothing, as the recipe has none")


def test_a_teacher_that_is_taught_needs_no_weights(digits):
    assert resolve_recipe(load_recipe(digits, ["teachers.big.weights=null"])).recipe.teachers["big"].weights is None


def test_a_plugin_is_used_where_it_is_listed(sentence, digits, plugin):
    overrides = [f"student={{use: '{plugin}.nets:Net', width: 3}}"]
    assert f"student: {plugin}.nets:Net is not part of limbeck" in sentence(
        resolve_recipe, load_recipe(digits, overrides)
    )
    plan = resolve_recipe(load_recipe(digits, [*overrides, f"plugins=[{plugin}]"]))
    assert plan.student.build(classes=4).classes == 4
    assert "has no setting 'widht'" in sentence(
        resolve_recipe, load_recipe(digits, [f"student={{use: '{plugin}.nets:Net', widht: 3}}", f"plugins=[{plugin}]"])
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the recipe is empty"),
        ("\n# nothing\n", "the recipe is empty"),
        ("---\n", "the recipe is empty"),
        ("- a\n- b\n", "the recipe is ['a', 'b'], and a recipe is a mapping"),
        ("just words\nand more", "and a recipe is a mapping"),
        ("task: !!python/object/apply:os.system ['echo']", "is refused"),
        ("seed: 1\nseed: 2", "'seed' is twice"),
        ("seed: [1", "is not valid YAML at line 1"),
        ("{}", "recipe: 'task' is missing"),
    ],
)
def test_a_text_that_is_no_recipe_is_a_sentence(sentence, text, message):
    assert message in sentence(load_recipe, text)


def test_an_empty_file_is_named(sentence, tmp_path):
    file = tmp_path / "x.yaml"
    file.touch()
    assert sentence(load_recipe, file).startswith(f"{file} is empty")


def test_a_recipe_cannot_be_changed(digits):
    with pytest.raises(ValueError, match="frozen"):
        load_recipe(digits).seed = 3


def test_unknown_text_anywhere_is_a_sentence(digits):
    """Each value of the recipe in turn is replaced by things that do not belong there."""
    document = parse_yaml(digits)
    paths = list(_paths(document))
    assert len(paths) > 40
    for path in paths:
        for value in ("§", -7, {"use": "§"}, [[1]], None):
            try:
                resolve_recipe(validate(Recipe, changed(document, path, value)))
            except LimbeckError as error:
                assert "\n" not in str(error)  # noqa: PT017


def _paths(value, path=()):
    if path:
        yield list(path)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


def test_the_schema_can_be_written_for_editors():
    assert "stages" in Recipe.model_json_schema()["properties"]


def test_what_is_no_mapping_is_no_recipe(sentence):
    assert "a recipe: [1] is not a mapping" in sentence(validate, Recipe, [1])


@pytest.mark.parametrize("name", [name for name, _ in list_recipes()])
@pytest.mark.parametrize("settings", [[], ["training.optimizer={use: SGD, lr: 1, momentum: 0}", "student.width=8"]])
def test_what_is_shown_shows_itself_for_every_recipe_that_comes_along(name, settings):
    if settings and name != "digits":
        settings = settings[:1]
    shown = to_yaml(load_recipe(find_recipe(name), settings))
    assert to_yaml(load_recipe(shown)) == shown


def test_a_folder_or_a_misspelled_file_instead_of_a_recipe_says_what_to_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(LimbeckError, match=r"got the folder photos: .*limbeck new --data photos"):
        find_recipe("photos")
    with pytest.raises(LimbeckError, match=r"no recipe of that name; available: mine\.yaml"):
        find_recipe("mine.yam")
