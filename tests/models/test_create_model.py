"""A network has one name in Python, in recipes and on the command line."""

import pytest
import torch

from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.models import create_model
from limbeck.recipe import load_recipe, resolve_recipe

RECIPE = """
task: Classification
data: Digits
teachers: {{big: {{use: {teacher}, weights: somewhere}}}}
assistants: {{middle: "{name}"}}
student: {name}
stages: [{{name: distill, steps: 2, objective: {{kd: KDLoss}}}}]
"""


@pytest.mark.parametrize("name", ["timm:test_efficientnet", "torchvision:squeezenet1_1", "small_cnn"])
def test_one_name_everywhere(name, capsys):
    model = create_model(name, classes=7, channels=1)
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 7)
    assert main(["layers", name, "--input", "1x64x64"]) == 0
    recipe = load_recipe(RECIPE.format(name=name, teacher=name))
    resolved = resolve_recipe(recipe)
    for node in (resolved.student, resolved.teachers["big"], resolved.assistants["middle"]):
        built = node.build(classes=7, channels=1)
        assert [p.shape for p in built.parameters()] == [p.shape for p in model.parameters()]


def test_a_prefixed_name_is_shown_as_its_builder_and_takes_settings():
    recipe = load_recipe(RECIPE.format(name="timm:test_efficientnet", teacher="onnx:t.onnx"), ["student.drop_rate=0.1"])
    assert recipe.student.model_dump() == {"use": "timm", "name": "test_efficientnet", "drop_rate": 0.1}
    teacher = recipe.teachers["big"]
    assert (teacher.use, teacher.path) == ("onnx", "t.onnx")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("'timm:'", "student: timm: must name a network after the colon"),
        ("{use: 'timm:resnet18', name: resnet34}", "student: timm:resnet18 names the network, and name must not"),
        ("resnet18", None),
    ],
)
def test_a_mistake_in_a_name_is_one_sentence(name, message):
    with pytest.raises(LimbeckError) as error:
        resolve_recipe(load_recipe(RECIPE.format(name="small_cnn", teacher="small_cnn"), [f"student={name}"]))
    assert str(error.value).startswith(message or "student: no model is named 'resnet18'; available: ")


def test_an_unknown_name_in_python_lists_the_prefixes():
    with pytest.raises(LimbeckError, match=r"name must be timm:…, torchvision:…, hf:… or a network of limbeck\.models"):
        create_model("smal_cnn", classes=2)
    with pytest.raises(LimbeckError, match=r"use limbeck\.teachers\.onnx"):
        create_model("onnx:teacher.onnx", classes=2)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'limbeck[text]'")
    folder = tmp_path_factory.mktemp("vit")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


def test_an_image_classifier_of_transformers_keeps_its_head_for_as_many_classes(vit, capfd):
    from transformers import ViTForImageClassification

    images, original = torch.randn(2, 3, 8, 8), ViTForImageClassification.from_pretrained(vit).eval()
    torch.testing.assert_close(create_model(f"hf:{vit}", classes=3).eval()(images), original(images).logits)
    capfd.readouterr()
    assert create_model(f"hf:{vit}", classes=5)(images).shape == (2, 5)
    assert "MISMATCH" not in "".join(capfd.readouterr())
    loaded = create_model(f"hf:{vit}", classes=3, pretrained=False, weights=vit).eval()
    torch.testing.assert_close(loaded(images), original(images).logits)
    with pytest.raises(LimbeckError, match="does not fit the model"):
        create_model(f"hf:{vit}", classes=5, weights=vit)


@pytest.mark.parametrize(("setting", "value"), [("pooling", "mean"), ("dropout", 0.1)])
def test_settings_of_text_are_refused_for_an_image_classifier(vit, setting, value):
    message = f"^{setting} must not be set for an image classifier, got {value!r}: remove it"
    with pytest.raises(LimbeckError, match=message):
        create_model(f"hf:{vit}", classes=3, **{setting: value})
