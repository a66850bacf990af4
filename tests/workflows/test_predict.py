"""Predictions of image files: the run and its exported file agree, without the data, and a mistake is one sentence."""

import csv
import io
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from limbeck.cli import main
from limbeck.core.errors import LimbeckError
from limbeck.data import from_datasets, from_tensors
from limbeck.data.image_preprocessing import ImagePreprocessing
from limbeck.data.sources import ImageFolder
from limbeck.export import read_model_metadata
from limbeck.workflows import distill
from limbeck.workflows.predict import ImageClassifier, find_images, load_image_classifier, predict

CLASSES = ["blue", "green", "red"]
RECIPE = """
name: colors
task: Classification
data: {use: ImageFolder, root: ROOT, size: 12, normalize: data}
student: {use: small_cnn, width: 4}
stages: [{name: only, steps: 30, objective: {target: CrossEntropyLoss}}]
training: {optimizer: {use: AdamW, lr: 0.02}, batch_size: 16}
export: {to: [onnx]}
baselines: []
num_threads: 1
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of images of unlike sizes, in which the class is the brightest channel."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for index in range(15):
            pixels = rng.integers(0, 120, (16 + index % 3, 20, 3))
            pixels[..., 2 - label] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index:02d}.png")
    return root


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "colors"
    (folder.parent / "colors.yaml").write_text(RECIPE.replace("ROOT", str(images)))
    distill(folder.parent / "colors.yaml", run_dir=folder, callbacks=[])
    assert main(["export", str(folder), "--int8"]) == 0
    # Predictions need no data, so nothing below reads it.
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(images), "/moved"))
    return folder


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_the_run_and_its_exported_file_give_the_same_classes(run, images, capsys):
    outputs = {}
    for model in (run, run / "student.onnx"):
        assert main(["predict", str(model), str(images), "--top-k", "2"]) == 0
        outputs[model.name] = rows(capsys.readouterr().out)
    first, second = outputs.values()
    assert len(first) == 2 * 45
    for one, other in zip(first, second, strict=True):
        assert [one[key] for key in ("file", "rank", "class")] == [other[key] for key in ("file", "rank", "class")]
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
    best = [row for row in first if row["rank"] == "1"]
    assert sum(row["file"].split("/")[-2] == row["class"] for row in best) >= 40


def test_the_file_says_how_an_image_becomes_its_input(run):
    for name in ("student.onnx", "student.int8.onnx"):
        props = {prop.key: prop.value for prop in onnx.load(run / name).metadata_props}
        assert (props["task"], json.loads(props["class_names"])) == ("Classification", CLASSES)
        preprocessing = json.loads(props["preprocessing"])
        assert {key: preprocessing[key] for key in ("size", "channel_order", "resize", "crop", "value_range")} == {
            "size": [12, 12], "channel_order": "RGB", "resize": "cover", "crop": "center", "value_range": [0, 1],
        }  # fmt: skip
    record = json.loads((run / "record.json").read_text())
    assert record["data"]["preprocessing"] == preprocessing
    assert [len(preprocessing[key]) for key in ("mean", "std")] == [3, 3]
    assert (record["export"]["onnx"]["num_images"], record["export"]["onnx"]["image_agreement"]) == (7, 1.0)
    card = (run / "README.md").read_text()
    assert "resized (bilinear) to cover 12×12, cropped at the center, as RGB" in card
    assert "blue, green, red" in card


def test_the_8_bit_file_is_compared_on_the_same_validation_samples(run):
    info = json.loads((run / "export.json").read_text())
    assert (info["int8"]["metric"], info["int8"]["num_samples"]) == ("accuracy", 7)
    for name, file in (("fp32", "student.onnx"), ("int8", "student.int8.onnx")):
        entry = info["int8"][name]
        assert (entry["file"], entry["bytes"]) == (file, (run / file).stat().st_size)
        assert 0 <= entry["value"] <= 1
        assert entry["latency_ms"]["median"] > 0


@pytest.mark.parametrize("output_format", ["csv", "json"])
def test_any_file_name_is_written_and_printed(run, images, tmp_path, capsys, output_format):
    """Also bytes that are no UTF-8, and control characters; JSON gives the name back."""
    path = tmp_path / "é\x7f\x9b\udcff.png"
    path.write_bytes((images / "red" / "00.png").read_bytes())
    words = ["predict", str(run / "student.onnx"), str(tmp_path), "--format", output_format]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "out.txt")]) == 0
    assert (tmp_path / "out.txt").read_text() == printed
    if output_format == "json":
        assert json.loads(printed)[0]["file"] == str(path)
    else:
        assert rows(printed)[0]["file"] == f"{tmp_path}/é\\x7f\\x9b\\udcff.png"


def test_an_unreadable_image_is_named_and_the_others_are_predicted(run, images, tmp_path, capsys):
    (tmp_path / "bad.png").write_text("no image")
    good = images / "red" / "00.png"
    output = tmp_path / "out.json"
    assert main(["predict", str(run / "student.onnx"), str(tmp_path), str(good), "--out", str(output)]) == 1
    assert f"limbeck: the image {tmp_path / 'bad.png'} cannot be read" in capsys.readouterr().err
    [entry] = json.loads(output.read_text())
    assert (entry["file"], entry["predictions"][0]["class"]) == (str(good), "red")


def test_folders_and_globs_name_images(images):
    files = find_images([str(images / "red" / "0[01].png"), str(images / "red"), str(images / "blue" / "03.png")])
    assert [file.name for file in files][:3] == ["00.png", "01.png", "02.png"]
    assert len(files) == 16
    assert len(find_images([f"{images}/**/*.png"])) == 45
    with pytest.raises(LimbeckError, match="must be an image, a folder of images or a glob, got none"):
        find_images([str(images / "nowhere*.png")])


def test_a_model_among_the_images_says_the_order(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").touch()
    for name in ("run", "student.onnx"):
        with pytest.raises(LimbeckError, match=r"must be an image, .*got a model: the run or ONNX file comes first"):
            find_images([str(tmp_path / name)])


def write_onnx(path, **props):
    nodes = [helper.make_node("Flatten", ["input"], ["logits"])]
    ports = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("input", ["batch", 1, 1, 2]), ("logits", ["batch", 2]))
    ]
    graph = helper.make_graph(nodes, "flat", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, props)
    onnx.save(model, str(path))
    return path


PREPROCESSING = {"size": [1, 2], "channel_order": "L", "mean": [0.0], "std": [1.0]}


def test_top_k_is_that_of_the_probabilities(tmp_path):
    names = json.dumps(["left", "right"])
    file = write_onnx(tmp_path / "a.onnx", class_names=names, preprocessing=json.dumps(PREPROCESSING))
    pixels = torch.tensor([[[[0.0, 1.0]]]])
    [[best, other]] = load_image_classifier(file).predict(pixels, top_k=5)
    expected = float(torch.tensor([0.0, 1.0]).double().softmax(dim=0)[1])
    assert best == {"class": "right", "index": 1, "probability": round(expected, 6)}
    assert other["class"] == "left"


@pytest.mark.parametrize(
    ("props", "message"),
    [
        ({}, "does not say how an image becomes its input"),
        ({"task": "SpeechCTC"}, "limbeck predict takes classifiers of images, and .* is of the task SpeechCTC"),
        ({"task": "Detection", "preprocessing": json.dumps(PREPROCESSING)}, "of the task Detection"),
        ({"class_names": "[" * 100_000}, "class_names must be JSON; export it again"),
        ({"class_names": "{}"}, "class_names must be a list of names"),
        ({"preprocessing": "[]"}, "preprocessing must be a mapping, got list"),
        ({"preprocessing": json.dumps({**PREPROCESSING, "size": [0, 2]})}, r"size must be .* got \[0, 2\]"),
        ({"preprocessing": json.dumps({**PREPROCESSING, "channel_order": "BGR"})}, "must be RGB or L, got 'BGR'"),
        ({"preprocessing": json.dumps({**PREPROCESSING, "mean": [1, 2]})}, r"mean must be 1 numbers for L, got"),
        ({"preprocessing": json.dumps({**PREPROCESSING, "channel_order": ["L"]})}, r"must be RGB or L, got \['L'\]"),
        ({"preprocessing": json.dumps({**PREPROCESSING, "size": [True, 2]})}, r"size must be .* got \[True, 2\]"),
        (
            {"preprocessing": json.dumps({**PREPROCESSING, "mean": [float("nan")]})},
            r"mean must be finite .* got \[nan\]",
        ),
        ({"preprocessing": json.dumps({**PREPROCESSING, "std": [0]})}, r"preprocessing\.std above 0, got .* and \[0\]"),
        ({"preprocessing": json.dumps({**PREPROCESSING, "crop": "none"})}, "crop must be 'center', got 'none'"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, props, message):
    with pytest.raises(LimbeckError, match=message) as caught:
        load_image_classifier(write_onnx(tmp_path / "a.onnx", **props))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_onnx_is_one_sentence(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(LimbeckError, match="cannot be read as ONNX"):
        read_model_metadata(tmp_path / "a.onnx")
    with pytest.raises(LimbeckError, match="there is no ONNX file"):
        read_model_metadata(tmp_path / "b.onnx")


def test_files_are_prepared_as_the_images_of_a_folder(images):
    data = ImageFolder(root=str(images), size=12, channels=1, normalize="none").load()
    preprocessing = ImagePreprocessing.from_data(data)
    assert torch.equal(preprocessing.read(data.validation.paths), data.validation.read(torch.arange(7)))
    assert ImagePreprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing


def test_the_preprocessing_of_other_inputs_is_unknown():
    labels = torch.arange(40) % 2
    own_transforms = from_datasets(TensorDataset(torch.rand(40, 1, 4, 4), labels))
    others = [from_tensors(inputs, labels) for inputs in (torch.randn(40, 1, 4, 4), torch.rand(40, 5))]
    for data in (own_transforms, *others):
        assert ImagePreprocessing.from_data(data) is None
    assert ImagePreprocessing.from_data(from_tensors(torch.rand(40, 3, 4, 6), labels)).size == (4, 6)


def test_logits_that_are_not_finite_are_no_prediction(tmp_path):
    props = {"class_names": '["left", "right"]', "preprocessing": json.dumps(PREPROCESSING)}
    classifier = load_image_classifier(write_onnx(tmp_path / "a.onnx", **props))
    with pytest.raises(LimbeckError, match="logits must be finite, got NaN or infinity"):
        classifier.predict(torch.tensor([[[[0.0, float("nan")]]]]))


def test_large_images_are_predicted_in_small_batches(tmp_path, monkeypatch):
    props = {"class_names": '["left", "right"]', "preprocessing": json.dumps(PREPROCESSING)}
    file, sizes = write_onnx(tmp_path / "a.onnx", **props), []
    for index in range(5):
        Image.new("L", (2, 1)).save(tmp_path / f"{index}.png")
    predict_batch = ImageClassifier.predict
    monkeypatch.setattr(ImageClassifier, "predict", lambda *a, **k: sizes.append(len(a[1])) or predict_batch(*a, **k))
    monkeypatch.setattr("limbeck.workflows.predict._MAX_BATCH_PIXELS", 4)
    assert predict(file, [str(tmp_path)]) == 0
    assert sizes == [2, 2, 1]


def test_class_names_and_logits_must_match(tmp_path):
    file = write_onnx(tmp_path / "a.onnx", class_names='["one"]', preprocessing=json.dumps(PREPROCESSING))
    with pytest.raises(LimbeckError, match=r"logits must be \[n, 1\], one for each class name, got \[1, 2\]"):
        load_image_classifier(file).predict(torch.zeros(1, 1, 1, 2))
    assert not isinstance(load_image_classifier(file).network, nn.Module)
