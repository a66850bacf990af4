"""`limbeck new`: what it writes is what it has checked, and a mistake leaves no file."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.data.image_preprocessing import ImagePreprocessing
from limbeck.export import ModelMetadata
from limbeck.models import save_weights, small_cnn
from limbeck.recipe import load_recipe
from limbeck.workflows.new_recipe.network_spec import read_student, read_teacher
from limbeck.workflows.new_recipe.run import new_recipe

CLASSES = ("cat", "dog")


def write_images(root, mode="RGB", sizes=((40, 40),), number=10):
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for index in range(number):
            width, height = sizes[index % len(sizes)]
            pixels = generator.integers(0, 255, (height, width, 3), np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("photos"))


def write_onnx(path, size=48):
    """The mean of each of two channels."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Slice", ["pooled", "start", "end", "axis"], ["two"]),
        helper.make_node("Flatten", ["two"], ["logits"]),
    ]
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("input", ["n", 3, size, size]), ("logits", ["n", 2]))
    ]
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [1], [value])
        for name, value in (("start", 0), ("end", 2), ("axis", 1))
    ]
    graph = helper.make_graph(nodes, "teacher", shapes[:1], shapes[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def write_run(folder, classes):
    folder.mkdir()
    (folder / "recipe.yaml").write_text(
        "{task: Classification, data: Digits, student: {use: small_cnn, width: 4, channels: 3},"
        " stages: [{name: s, steps: 1, objective: {target: CrossEntropyLoss}}]}"
    )
    record = {
        "schema": 3,
        "name": "run",
        "seed": 0,
        "recipe": {},
        "models": {"distilled": {"role": "distilled"}},
        "data": {"classes": classes, "shape": [3, 24, 24], "normalization": {"mean": [0.5] * 3, "std": [0.25] * 3}},
    }
    (folder / "record.json").write_text(json.dumps(record))
    save_weights(small_cnn(classes=len(classes), channels=3, width=4), folder / "student.safetensors")
    return folder


def test_the_recipe_is_short_valid_and_named_with_the_next_command(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(root), "--teacher", "small_cnn", "--student", "timm:test_efficientnet", "--num-labeled", "8"]
    assert main(["new", *words]) == 0
    report, progress = capsys.readouterr()
    assert progress.splitlines()[0] == f"reading the images in {root} …"
    assert "running each stage on two samples …" in progress
    assert report.splitlines()[-1] == "next: limbeck distill recipe.yaml"
    assert " parameters, trained first, from random weights; student: " in report
    assert "20 images of 2 classes as 3×40×40" in report
    text = (tmp_path / "recipe.yaml").read_text()
    assert len(text.splitlines()) <= 20
    recipe = load_recipe("recipe.yaml")
    assert recipe.student.model_dump() == {"use": "timm", "name": "test_efficientnet"}
    assert recipe.data.model_dump()["num_labeled"] == 8
    assert recipe.teacher_training is not None
    assert main(["recipe", "check", "recipe.yaml"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("mode", "sizes", "expected"),
    [
        ("L", [(8, 8)], {"size": 32, "channels": 1}),
        ("RGB", [(300, 260), (280, 270)], {"size": 224}),
        ("RGB", [(40, 40)], {}),
        ("RGB", [(40, 48)], {"size": 40}),
    ],
)
def test_size_and_channels_are_those_of_the_images(tmp_path, mode, sizes, expected):
    root = write_images(tmp_path / "photos", mode, sizes)
    new_recipe(data=root, teacher="small_cnn", student="small_cnn", output=tmp_path / "r.yaml")
    data = load_recipe(tmp_path / "r.yaml").data.model_dump()
    assert {key: value for key, value in data.items() if key in ("size", "channels")} == expected


def test_an_onnx_file_gives_the_size_and_is_not_trained(root, tmp_path):
    file = write_onnx(tmp_path / "teacher.onnx")
    new_recipe(data=root, teacher=f"onnx:{file}", student="small_cnn", output=tmp_path / "r.yaml")
    recipe = load_recipe(tmp_path / "r.yaml")
    assert recipe.teachers["teacher"].model_dump()["path"] == str(file)
    assert (recipe.data.size, recipe.teacher_training) == (48, None)


@pytest.mark.parametrize(("classes", "expected"), [(("dog", "cat"), ("dog", "cat")), (("cat", "dog"), None)])
def test_an_export_of_limbeck_takes_pixels_and_has_its_class_names(root, tmp_path, classes, expected):
    preprocessing = ImagePreprocessing(size=(48, 48), channel_order="RGB", mean=(0.5,) * 3, std=(0.25,) * 3)
    metadata = ModelMetadata(task="Classification", class_names=classes, preprocessing=preprocessing)
    file = write_onnx(tmp_path / "teacher.onnx")
    model = onnx.load(file)
    helper.set_model_props(model, metadata.to_props())
    onnx.save(model, file)
    new_recipe(data=root, teacher=f"onnx:{file}", student="small_cnn", output=tmp_path / "r.yaml")
    teacher = load_recipe(tmp_path / "r.yaml").teachers["teacher"]
    assert (teacher.input_type, teacher.class_names) == ("pixels", expected)


def test_the_length_is_that_of_the_training_images(tmp_path):
    """30 epochs of 876 images are 410 steps, as many of 64 % of them are too few."""
    for split, number in (("train", 438), ("val", 2), ("test", 2)):
        write_images(tmp_path / "photos" / split, sizes=[(8, 8)], number=number)
    data, output = tmp_path / "photos", tmp_path / "r.yaml"
    new_recipe(data=data, teacher="small_cnn", student="small_cnn", output=output, num_labeled=60)
    recipe = load_recipe(output)
    assert (recipe.stages[0].epochs, recipe.teacher_training.steps) == (30, 400)


def test_a_run_is_a_teacher_with_its_weights_classes_and_normalization(root, tmp_path):
    run = write_run(tmp_path / "run", ["dog", "cat", "owl"])
    new_recipe(data=root, teacher=str(run), student="small_cnn", output=tmp_path / "r.yaml")
    recipe = load_recipe(tmp_path / "r.yaml")
    teacher = recipe.teachers["teacher"]
    assert (teacher.weights, teacher.class_names) == (str(run), ("dog", "cat", "owl"))
    assert teacher.normalize.mean == (0.5, 0.5, 0.5)
    assert (recipe.data.size, recipe.teacher_training) == (24, None)


def test_gray_images_fit_a_network_for_color_images_by_channels(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "color_nets.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, classes):\n        super().__init__(); self.fc = nn.Linear(3, classes)\n"
        "    def forward(self, images):\n        return self.fc(images.mean(dim=(2, 3)))\n"
    )
    options = {
        "data": write_images(tmp_path / "gray", "L"), "teacher": "small_cnn", "student": "color_nets:Net",
        "output": tmp_path / "r.yaml",
    }  # fmt: skip
    with pytest.raises(LimbeckError, match=r"the images are gray: for networks of color images give --channels 3"):
        new_recipe(**options)
    new_recipe(**options, channels=3)
    assert "channels: 1" not in (tmp_path / "r.yaml").read_text()


@pytest.mark.parametrize(
    "record",
    ["[1]", '{"data": [1]}', '{"schema": 3, "name": "r", "models": {}, "data": {"normalization": "x"}}'],
)
def test_a_run_without_a_readable_record_is_no_teacher(tmp_path, record):
    run = write_run(tmp_path / "run", list(CLASSES))
    (run / "record.json").write_text(record)
    with pytest.raises(LimbeckError, match=r"record\.json (must be a mapping|has schema|is not a record)"):
        read_teacher(str(run), CLASSES, weights=None, pretrained=False)


def test_a_network_of_ones_own_lists_its_package(root, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n"
        "    def __init__(self, classes):\n        super().__init__(); self.fc = nn.Linear(3, classes)\n"
        "    def forward(self, images):\n        return self.fc(images.mean(dim=(2, 3)))\n"
    )
    monkeypatch.setenv("PYTHONPATH", "here")
    report = new_recipe(data=root, teacher="small_cnn", student="own_nets:Net", output=tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml").plugins == ("own_nets",)  # trusted, as the command names it
    assert report.endswith(f"next: PYTHONPATH=here limbeck distill {tmp_path / 'r.yaml'}")


def test_weights_of_the_teacher_replace_its_training(root, tmp_path):
    save_weights(small_cnn(classes=2, channels=3), tmp_path / "teacher.safetensors")
    options = {"data": root, "student": "small_cnn", "teacher": "small_cnn", "output": tmp_path / "r.yaml"}
    new_recipe(**options, teacher_weights=str(tmp_path / "teacher.safetensors"))
    assert load_recipe(tmp_path / "r.yaml").teacher_training is None


def test_a_folder_of_transformers_with_the_classes_of_the_data_is_trained_already(tmp_path):
    labels = {"id2label": {"1": "cat", "0": "dog"}, "image_size": 64, "num_channels": 3}
    (tmp_path / "config.json").write_text(json.dumps(labels))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    spec = read_teacher(f"hf:{tmp_path}", CLASSES, weights=None, pretrained=False)
    assert spec.node == {
        "use": f"hf:{tmp_path}", "weights": str(tmp_path), "class_names": ["dog", "cat"],
        "normalize": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }  # fmt: skip
    assert (spec.is_trained, spec.size, spec.channels) == (True, 64, 3)
    other = read_teacher(f"hf:{tmp_path}", ("bird", "fish"), weights=None, pretrained=False)
    assert (other.is_trained, other.node) == (False, {"use": f"hf:{tmp_path}"})
    assert other.note == f"the classes of {tmp_path} are dog, cat, not those of the data"


def test_a_folder_with_control_characters_in_its_name(tmp_path):
    folder = write_images(tmp_path / "a\x1b[2J\tb")
    new_recipe(data=folder, teacher="small_cnn", student="small_cnn", output=tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml").data.root == str(folder)
    assert "\x1b" not in (tmp_path / "r.yaml").read_text()


def test_a_folder_of_unlabeled_images_is_no_class(tmp_path):
    root = write_images(tmp_path / "photos")
    (root / "more").mkdir()
    for name in ("0.png", "1.png"):
        (root / "cat" / name).rename(root / "more" / name)
    options = {"data": root, "teacher": "small_cnn", "student": "small_cnn", "output": tmp_path / "r.yaml"}
    assert "of 2 classes" in new_recipe(**options, unlabeled="more")
    assert load_recipe(tmp_path / "r.yaml").data.unlabeled == "more"


def test_timm_networks_of_a_fixed_size_give_the_size():
    assert read_student("timm:test_vit", pretrained=False).size == 160
    assert read_student("timm:test_resnet", pretrained=False).size is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "timm:resnte50"}, "timm has no network named 'resnte50'; the nearest: "),
        ({"teacher": "onnx:nowhere.onnx"}, "no ONNX file nowhere.onnx"),
        ({"teacher": "hf:nowhere"}, "path must be a folder with config.json"),
        ({"teacher": "small_cnn", "teacher_weights": "no.pt"}, "there are no weights at no.pt"),
        ({"student": "timm:"}, "timm: must name a network after the colon, such as timm:resnet50"),
        ({"student": "no_such_module:Net"}, "there is no module 'no_such_module'"),
        ({"student": "onnx:teacher.onnx"}, "an ONNX file is a teacher"),
        ({"student": "resnet18"}, "write timm:NAME, torchvision:NAME or hf:FOLDER"),
        ({"num_labeled": 1}, "num_labeled"),
        ({"size": 0}, "size must be from 1"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_file(root, tmp_path, changes, message):
    options = {"data": root, "teacher": "small_cnn", "student": "small_cnn", "output": tmp_path / "r.yaml", **changes}
    with pytest.raises(LimbeckError) as error:
        new_recipe(**options)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_images_and_an_existing_file_are_refused(root, tmp_path):
    networks = {"teacher": "small_cnn", "student": "small_cnn"}
    with pytest.raises(LimbeckError, match="--data must be a folder"):
        new_recipe(data=tmp_path / "nowhere", output=tmp_path / "r.yaml", **networks)
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    with pytest.raises(LimbeckError, match="got none that can be read"):
        new_recipe(data=tmp_path / "empty", output=tmp_path / "r.yaml", **networks)
    (tmp_path / "r.yaml").write_text("mine")
    with pytest.raises(LimbeckError, match="which exists"):
        new_recipe(data=root, output=tmp_path / "r.yaml", **networks)
    assert (tmp_path / "r.yaml").read_text() == "mine"


def test_a_failed_write_leaves_no_file(root, tmp_path, monkeypatch):
    def fail(path, text):
        raise LimbeckError("disk full")

    monkeypatch.setattr("limbeck.workflows.new_recipe.run.write_text", fail)
    with pytest.raises(LimbeckError, match="disk full"):
        new_recipe(data=root, teacher="small_cnn", student="small_cnn", output=tmp_path / "r.yaml")
    assert not (tmp_path / "r.yaml").exists()
    assert torch.get_num_threads() == 1
