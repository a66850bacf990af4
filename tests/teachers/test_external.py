"""Any ONNX file and any callable can be a teacher; their outputs are checked."""

from __future__ import annotations

import copy
import pickle
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.data import Normalization
from limbeck.data.normalization import FrameNormalization
from limbeck.losses import KDLoss
from limbeck.models.onnx_graph import export_onnx_bytes
from limbeck.tasks import Classification
from limbeck.teachers import FrozenTeacher, from_callable, onnx
from limbeck.teachers.adapter import InputMapping

TASK = Classification(3)
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
OPENVINO = pytest.mark.skipif(not find_spec("openvino"), reason="openvino is not installed: pip install openvino")
RUNTIMES = pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("openvino", marks=OPENVINO)])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def doubled(x):
    return np.stack([2 * x[:, 0], x[:, 1], x[:, 2]], axis=1)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "teacher.onnx"
    path.write_bytes(export_onnx_bytes(net(), X, name="net"))
    return path


@pytest.fixture
def graph(tmp_path):
    """An ONNX file that multiplies by 2, with given names, batch and type."""

    def made(*, inputs=("x",), outputs=("y",), batch="n", kind=1):
        from onnx import helper, numpy_helper, save

        two = numpy_helper.from_array(np.array(2, dtype=helper.tensor_dtype_to_np_dtype(kind)), "two")
        nodes = [helper.make_node("Mul", [inputs[0], "two"], [name]) for name in outputs]
        described = [
            [helper.make_tensor_value_info(name, kind, [batch, 3]) for name in names] for names in (inputs, outputs)
        ]
        whole = helper.make_graph(nodes, "g", *described, [two])
        path = tmp_path / "made.onnx"
        save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
        return path

    return made


@RUNTIMES
def test_an_onnx_file_equals_the_exported_network(runtime, file):
    teacher = FrozenTeacher(onnx(file, runtime=runtime, classes=3))
    for count in (5, 1, 2):
        logits = teacher.predict((X[:count], None), TASK).require_logits()
        torch.testing.assert_close(logits, net()(X[:count]).detach(), rtol=1e-5, atol=1e-6)
        assert logits.dtype == torch.float32
        assert not logits.requires_grad


def test_a_student_learns_from_a_file_that_has_no_parameters(file):
    student, teacher = nn.Linear(4, 3), onnx(file)
    made = limbeck.Distiller(student, {"file": teacher}, objective={"soft": KDLoss(temperature=2.0)}, task=TASK).to(
        "cpu"
    )
    made((X, torch.zeros(5, dtype=torch.long))).total.backward()
    assert float(student.weight.grad.abs().sum()) > 0
    assert list(teacher.parameters()) == []


@RUNTIMES
def test_a_file_of_fixed_batch_size_is_called_several_times(runtime, graph):
    teacher = onnx(graph(batch=2), runtime=runtime)
    assert torch.equal(teacher(X[:, :3]), 2 * X[:, :3])
    assert torch.equal(teacher(X[:4, :3]), 2 * X[:4, :3])


@pytest.mark.parametrize(("kind", "dtype"), [(10, torch.float16), (11, torch.float64)])
def test_a_file_is_run_in_its_input_dtype(kind, dtype, graph):
    logits = onnx(graph(kind=kind))(X[:, :3])
    assert torch.equal(logits, (2 * X[:, :3].to(dtype)).float())


@RUNTIMES
@pytest.mark.parametrize("batch", ["n", 2])
def test_a_file_of_several_inputs_takes_those_of_the_task(runtime, batch, tmp_path):
    from onnx import TensorProto, helper, save

    path = tmp_path / "two.onnx"
    nodes = [helper.make_node("Cast", ["tokens"], ["float"], to=1), helper.make_node("Mul", ["float", "x"], ["y"])]
    inputs = [("x", TensorProto.FLOAT), ("tokens", TensorProto.INT64)]
    described = [helper.make_tensor_value_info(name, kind, [batch, 3]) for name, kind in inputs]
    graph = helper.make_graph(nodes, "g", described, [helper.make_tensor_value_info("y", 1, [batch, 3])])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    teacher, x, tokens = onnx(path, runtime=runtime), torch.rand(5, 3), torch.arange(15).reshape(5, 3)
    for output in (teacher(x, tokens), teacher(x, tokens=tokens), teacher(tokens=tokens, x=x)):
        torch.testing.assert_close(output, x * tokens)
    with pytest.raises(LimbeckError, match=r"takes 2 inputs \(x, tokens\), got 1"):
        teacher(x)


@RUNTIMES
def test_of_several_outputs_one_is_named_or_all_are_read(runtime, graph):
    path = graph(outputs=("features", "logits"))
    both = onnx(path, runtime=runtime)(X[:, :3])
    assert both.keys() == {"features", "logits"}
    assert torch.equal(both["logits"], 2 * X[:, :3])
    assert torch.equal(onnx(path, runtime=runtime, input_name="x", output_name="logits")(X[:, :3]), 2 * X[:, :3])
    with pytest.raises(LimbeckError, match="no output named 'logit'; available: logits"):
        onnx(path, runtime=runtime, output_name="logit")


@pytest.mark.parametrize(
    ("changes", "settings", "sentence"),
    [
        ({"inputs": ("x", "mask")}, {"input_name": "x"}, r"has 2 inputs \(x, mask\): remove input_name"),
        ({}, {"input_name": "picture"}, "has no input named 'picture'; available: x"),
        ({"kind": 4}, {}, r"the input x must be a number or a boolean, got tensor\(uint16\)"),
        ({}, {"runtime": "tensorrt"}, "unknown runtime 'tensorrt'"),
        ({}, {"output_type": "odds"}, "output_type must be logits or probabilities, got 'odds'"),
    ],
)
def test_an_unsupported_file_is_one_sentence(changes, settings, sentence, graph):
    with pytest.raises(LimbeckError, match=sentence):
        onnx(graph(**changes), **settings)


@RUNTIMES
def test_missing_files_and_wrong_inputs_are_refused(runtime, file, tmp_path):
    with pytest.raises(LimbeckError, match=r"no ONNX file .*teachr.onnx; in the same folder: teacher.onnx"):
        onnx(file.with_name("teachr.onnx"), runtime=runtime)
    (tmp_path / "bad.onnx").write_bytes(b"\x80\x04 no model")
    with pytest.raises(LimbeckError, match=f"{runtime} cannot load .*bad.onnx"):
        onnx(tmp_path / "bad.onnx", runtime=runtime)
    with pytest.raises(LimbeckError, match=rf"got float32 \[2, 7\] \({runtime}: "):
        onnx(file, runtime=runtime)(torch.zeros(2, 7))


@RUNTIMES
def test_a_file_survives_copy_and_pickle(runtime, file):
    teacher = onnx(file, runtime=runtime)
    for other in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        assert torch.equal(other(X), teacher(X))


@pytest.mark.parametrize(
    "of", [doubled, lambda x: doubled(x).tolist(), lambda x: torch.tensor(doubled(x), dtype=torch.float64)]
)
def test_any_callable_and_numeric_output_is_a_teacher(of):
    logits = FrozenTeacher(from_callable(of, array_type="numpy")).predict((X, None), TASK).require_logits()
    torch.testing.assert_close(logits, torch.tensor(doubled(X.numpy())))


def test_probabilities_become_their_logarithm_with_a_floor():
    given = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.25, 0.5]])
    logits = from_callable(lambda x: given, output_type="probabilities")(torch.zeros(2, 4)).double().numpy()
    expected = np.log(np.maximum(given.numpy().astype(np.float64), 1e-7))
    np.testing.assert_allclose(logits, expected, rtol=1e-6)
    np.testing.assert_allclose(torch.tensor(logits).softmax(1).numpy(), given.numpy(), atol=3e-7)


def test_input_type_pixels_inverts_the_normalization():
    seen = []
    usual = Normalization((0.5, 0.25), (0.5, 0.125))
    pixels = torch.rand(2, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    teacher = from_callable(lambda x: seen.append(x) or torch.zeros(2, 3), input_type="pixels", normalization=usual)
    teacher(usual.apply(pixels))
    torch.testing.assert_close(seen[0], pixels)
    with pytest.raises(LimbeckError, match="takes pixels: set normalization"):
        from_callable(lambda x: x, input_type="pixels")(pixels)


def test_only_the_first_of_several_inputs_is_normalized():
    normalization = FrameNormalization((1.0, 2.0), (2.0, 4.0))
    frames, lengths = torch.rand(3, 5, 2), torch.tensor([5, 4, 1])
    teacher = from_callable(lambda x, n: {"logits": x, "n": n}, input_type="pixels", normalization=normalization)
    outputs = teacher(normalization.apply(frames), lengths)
    torch.testing.assert_close(outputs["logits"], frames)
    assert outputs["n"].tolist() == [5, 4, 1]


def test_reused_memory_of_a_callable_does_not_change_outputs():
    memory = np.zeros((5, 3), dtype=np.float32)
    logits = from_callable(lambda x: memory)(X)
    memory += 1
    assert float(logits.abs().max()) == 0


@pytest.mark.parametrize(
    ("of", "settings", "sentence"),
    [
        (lambda x: x.sum(), {}, r"must return the shape \[5, classes\], got \[\]"),
        (lambda x: x[:2], {}, r"must return the shape \[5, classes\], got \[2, 4\]"),
        (lambda x: x, {"classes": 3}, r"must return the shape \[5, 3\], got \[5, 4\]"),
        (lambda x: x / 0, {}, "returned NaN or infinity"),
        (lambda x: "cat", {}, "must return numbers \\[n, classes\\], got a str"),
        (lambda x: 1 / 0, {}, r"failed on inputs \[5, 4\] \(ZeroDivisionError: division by zero\)"),
        (lambda x: 10 * x, {"output_type": "probabilities"}, "must return probabilities, .* set output_type: logits"),
        (nn.Linear(4, 3), {}, "must not be an nn.Module, got Linear: use it as the teacher"),
        ("cat", {}, "must be callable, got 'cat'"),
        (doubled, {"array_type": "jax"}, "array_type must be torch or numpy, got 'jax'"),
        (doubled, {"input_type": "sounds"}, "input_type must be normalized or pixels, got 'sounds'"),
    ],
)
def test_an_invalid_callable_is_one_sentence(of, settings, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        from_callable(of, **settings)(X)


def test_an_external_teacher_has_no_layers_and_no_backends():
    with pytest.raises(LimbeckError, match="has no layers to read features from"):
        FrozenTeacher(from_callable(doubled), {"mid": "layer2"})
    with pytest.raises(LimbeckError, match="must be eager, got 'fold_batchnorm'"):
        FrozenTeacher(from_callable(doubled), backend="fold_batchnorm")


def test_other_outputs_have_another_fingerprint(file, graph):
    states = [
        bytes(teacher.state_dict()["fingerprint"].tolist())
        for teacher in (
            onnx(file), onnx(graph()), from_callable(doubled), from_callable(doubled, version="2"), from_callable(net),
            from_callable(doubled, output_type="probabilities"),
        )
    ]  # fmt: skip
    assert len(set(states)) == len(states)
    assert bytes(onnx(file).state_dict()["fingerprint"].tolist()) == states[0]


class Tokens:
    """A task with tokens and a mask, called by keyword, and an embedding beside the logits."""

    def outputs(self, network, batch):
        output = network(batch["tokens"], mask=batch["attention_mask"])
        return Outputs(logits=output["logits"], embedding=output["pooled"][0])

    def target(self, batch):
        return None


@pytest.mark.parametrize("array_type", ["torch", "numpy"])
def test_a_callable_takes_the_inputs_of_the_task_and_returns_what_it_takes(array_type):
    batch = {"tokens": torch.arange(10).reshape(5, 2), "attention_mask": torch.ones(5, 2, dtype=torch.bool)}
    seen = []

    def ask(tokens, mask):
        seen.append((tokens.dtype, mask.dtype))
        table = np.arange(30.0).reshape(10, 3)
        return {"logits": table[np.asarray(tokens[:, 0])], "pooled": (np.asarray(tokens), mask)}

    outputs = FrozenTeacher(from_callable(ask, array_type=array_type)).predict(batch, Tokens())
    assert torch.equal(outputs.require_logits(), torch.arange(30.0).reshape(10, 3)[::2])
    assert torch.equal(outputs.embedding, batch["tokens"].float())
    assert [str(kind).removeprefix("torch.") for kind in seen[0]] == ["int64", "bool"]
    mapping = InputMapping(data_normalization=Normalization.none(1), input_size=4)
    with pytest.raises(LimbeckError, match=r"takes one tensor of images .* and the task gives 2 inputs"):
        from_callable(ask).with_input_mapping(mapping)(batch["tokens"], batch["tokens"])
    with pytest.raises(LimbeckError, match="must return one array of probabilities"):
        from_callable(ask, output_type="probabilities")(batch["tokens"], mask=batch["attention_mask"])


@pytest.mark.parametrize(("shape", "axis"), [((5, 3), 1), ((5, 3, 4, 2), 1), ((5, 6, 3), 2)])
def test_probabilities_of_maps_and_sequences_become_logits(shape, axis):
    probabilities = torch.rand(shape).softmax(axis)
    logits = from_callable(lambda x: probabilities, output_type="probabilities")(X)
    assert torch.allclose(logits.exp(), probabilities)
    with pytest.raises(LimbeckError, match="must return probabilities, got a row with sum"):
        from_callable(lambda x: 2 * probabilities, output_type="probabilities")(X)


def test_a_callable_teaches_a_map_and_skips_samples():
    task = limbeck.tasks.Segmentation(classes=3, stride=1)
    maps = torch.randn(2, 3, 4, 4)
    maps[1] = torch.nan
    batch = {"input": torch.rand(2, 1, 4, 4), "target": torch.zeros(2, 4, 4, dtype=torch.long)}
    outputs = FrozenTeacher(from_callable(lambda x: maps, allow_missing=True)).predict(batch, task)
    assert outputs.valid.tolist() == [True, False]
    assert torch.equal(outputs.spatial_logits[0], maps[0])
    assert not outputs.spatial_logits.isnan().any()
    assert not outputs.require_logits().isnan().any()
