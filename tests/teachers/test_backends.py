"""Each backend has the outputs of eager for any batch size, and only those with layers read features."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.features import FeatureExtractor
from limbeck.losses import AttentionTransferLoss, KDLoss
from limbeck.models import conv_ctc, resnet20, torchvision
from limbeck.tasks import Classification
from limbeck.teachers import BACKENDS, FrozenTeacher, InferenceBackend
from limbeck.teachers.backends.builders import BUILDERS, BuildContext, compute_outputs, record_calls

TASK = Classification(10)
OPENVINO = pytest.mark.skipif(not find_spec("openvino"), reason="openvino is not installed: pip install openvino")
RUNTIMES = pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=OPENVINO)])
FAST = pytest.mark.parametrize("engine", ["fold_batchnorm", "onnxruntime", pytest.param("openvino", marks=OPENVINO)])


class Odd(nn.Module):
    """A network with all that folding has to look out for."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.twice = nn.Conv2d(6, 6, 1)
        self.shared = nn.BatchNorm2d(6)  # follows two layers
        self.branch, self.after = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)  # its output is needed elsewhere too
        self.loose = nn.BatchNorm2d(6, track_running_stats=False)
        self.fc, self.last, self.head = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        x = self.shared(self.twice(self.shared(self.twice(x))))
        x = self.branch(x)
        x = self.loose(x + self.after(x))
        return self.head(self.last(self.fc(x.mean((2, 3)))))


class Branching(nn.Module):
    """Decides on values, so nothing can trace or export it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 10)

    def forward(self, x):
        return self.fc(x.flatten(1)) * (2 if x.sum() > 0 else 1)


def with_random_statistics(network):
    """Statistics and weights as after training: no norm is the identity."""
    random = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in filter(lambda one: one is not None, (module.running_mean, module.weight, module.bias)):
                tensor.data.normal_(generator=random).mul_(0.3).add_(1 if tensor is module.weight else 0)
            if module.running_var is not None:
                module.running_var.uniform_(0.5, 2, generator=random)
    return network


def tiny():
    torch.manual_seed(0)
    head = (nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return with_random_statistics(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), *head))


def images(count, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return {
        "resnet20": with_random_statistics(resnet20(classes=10)),
        "mobilenet_v3_small": with_random_statistics(torchvision("mobilenet_v3_small", classes=10)),
    }


@pytest.fixture(scope="module")
def situations(networks):
    """Each network as an engine meets it, so that it is exported once for all."""
    contexts = {}
    for name, network in networks.items():
        FrozenTeacher(network)
        _, calls = record_calls(network, FeatureExtractor(network, {}), (images(6), None), TASK)
        contexts[name] = BuildContext(network, {}, calls)
    return contexts


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("fold_batchnorm", "resnet20"),
        ("fold_batchnorm", "mobilenet_v3_small"),  # the export of its 250 operators takes half a minute
        ("onnxruntime", "resnet20"),
        pytest.param("openvino", "resnet20", marks=OPENVINO),
    ],
)
def test_a_backend_equals_eager_for_smaller_batches_too(engine, name, situations):
    ready = BUILDERS[engine](situations[name])
    for count in (6, 1, 5):
        x = images(count)
        with torch.no_grad():
            expected = situations[name].network(x).double().numpy()
            logits = (
                compute_outputs(ready.network, ready.feature_extractor, (x, None), TASK)
                .require_logits()
                .double()
                .numpy()
            )
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("count", [1, 7])
def test_folding_skips_layers_with_other_uses(count):
    from limbeck.teachers.backends.fold_batchnorm import fold_batchnorm

    network = with_random_statistics(Odd()).eval()
    folded, note = fold_batchnorm(network)
    assert note == ""
    gone = {name for name, module in folded.named_modules() if isinstance(module, nn.Identity)}
    assert gone == {"norm", "last"}
    x = images(count, size=6).double()
    with torch.no_grad():
        torch.testing.assert_close(folded.double()(x), network.double()(x), rtol=1e-5, atol=1e-6)
    assert isinstance(network.norm, nn.BatchNorm2d)


def test_a_fold_worked_by_hand():
    """Variance 4 − ε, mean 1, scale 3, shift 5: y = 3 · (2x + 4 − 1) / 2 + 5 = 3x + 9.5."""
    from limbeck.teachers.backends.fold_batchnorm import fold_batchnorm

    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).eval()
    conv, norm = network
    tensors = (conv.weight, conv.bias, norm.running_var, norm.running_mean, norm.weight, norm.bias)
    for tensor, value in zip(tensors, (2.0, 4.0, 4.0 - 1e-5, 1.0, 3.0, 5.0), strict=True):
        tensor.data.fill_(value)
    folded, _ = fold_batchnorm(network)
    assert float(folded[0].weight) == pytest.approx(3.0)
    assert float(folded[0].bias) == pytest.approx(9.5)


def test_a_network_that_cannot_be_traced_is_not_folded_and_the_report_notes_it():
    frozen = FrozenTeacher(Branching(), backend="fold_batchnorm")
    x = torch.ones(2, 3, 2, 2)
    assert torch.allclose(frozen.predict((x, None), TASK).require_logits(), frozen.network(x))
    assert frozen.backend.report.notes == {
        "fold_batchnorm": "no BatchNorm folded, the network cannot be traced (TraceError)"
    }
    assert "no BatchNorm folded" in str(frozen.backend.report)


@RUNTIMES
def test_a_requested_runtime_that_does_not_support_the_network_is_refused(engine):
    with pytest.raises(
        LimbeckError, match=rf"'{engine}' does not support this teacher: .* cannot be exported to ONNX .*; set auto"
    ):
        FrozenTeacher(Branching(), backend=engine).predict((torch.ones(2, 3, 2, 2), None), TASK)


def test_features_of_a_folded_network_are_the_same(networks):
    places = {"stem": "stem.0", "norm": "stem.1", "in": "layer1.0.bn1:input", "stage": "layer2", "deep": "layer3.0.bn2"}
    network = networks["resnet20"]
    plain, folded = FrozenTeacher(network, places), FrozenTeacher(network, places, backend="fold_batchnorm")
    one, other = (frozen.predict((images(3), None), TASK) for frozen in (plain, folded))
    assert folded.backend.report.backend == "fold_batchnorm"
    for name in places:
        scale = float(one.feature(name).abs().max())
        torch.testing.assert_close(other.feature(name), one.feature(name), rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("engine", ["compile", "onnxruntime"])
def test_a_backend_without_features_is_refused_with_feature_layers(engine, networks):
    with pytest.raises(LimbeckError, match="backend must be eager, fold_batchnorm or auto to read features"):
        FrozenTeacher(networks["resnet20"], {"mid": "layer2"}, backend=engine)


@FAST
def test_outputs_of_a_backend_train_the_student_and_not_the_teacher(engine):
    network = tiny()
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    frozen = FrozenTeacher(network, backend=InferenceBackend(engine, measure_seconds=0.1))
    made = limbeck.Distiller(student, {"big": frozen}, objective={"soft": KDLoss(temperature=4.0)}, task=TASK)
    made((images(4), torch.zeros(4, dtype=torch.long))).total.backward()
    assert float(student[1].weight.grad.abs().sum()) > 0
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    # An inference tensor could not be kept for a backward pass through a product with the student's own.
    rows = frozen.predict((images(4), None), TASK).require_logits()
    assert not rows.is_inference()
    expected, report = network(images(4)), frozen.backend.report
    apart = float((rows - expected).abs().max() / expected.abs().max())
    assert report.max_difference[engine] == pytest.approx(apart, abs=1e-6)
    assert set(report.latency_ms) == {"eager", engine}
    (rows * student(images(4))).sum().backward()


def test_features_of_a_folded_network_train_the_student(networks):
    student = resnet20(classes=10)
    frozen = FrozenTeacher(networks["resnet20"], {"mid": "layer2"}, backend="fold_batchnorm")
    made = limbeck.Distiller(
        student, {"big": frozen}, objective={"attention": AttentionTransferLoss(layer="mid")},
        feature_layers={"student": {"mid": "layer2"}}, task=TASK,
    )  # fmt: skip
    made((images(2), torch.zeros(2, dtype=torch.long))).total.backward()
    assert float(student.layer1[0].conv1.weight.grad.abs().sum()) > 0


def test_inputs_of_another_shape_run_in_torch_with_a_warning():
    network = tiny()
    frozen = FrozenTeacher(network, backend=InferenceBackend("onnxruntime", measure_seconds=0.1))
    frozen.predict((images(2), None), TASK)
    with pytest.warns(
        UserWarning, match=r"for inputs \[batch, 3, 32, 32\]; inputs \[2, 3, 40, 40\] run in eager torch"
    ):
        logits = frozen.predict((images(2, size=40), None), TASK).require_logits()
    assert torch.equal(logits, network(images(2, size=40)))


def test_a_teacher_in_double_precision_stays_with_torch(networks):
    network = copy.deepcopy(networks["resnet20"])
    frozen = FrozenTeacher(network, backend=InferenceBackend("auto", measure_seconds=5))
    frozen.to(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    frozen.predict((images(2).double(), None), TASK)
    assert frozen.backend.report.skipped["onnxruntime"] == "the teacher must be float32, got torch.float64"
    assert frozen.backend.report.backend in ("eager", "fold_batchnorm")


def test_the_backend_is_built_again_after_a_move(networks):
    network = copy.deepcopy(networks["resnet20"])
    frozen = FrozenTeacher(network, backend="fold_batchnorm")
    frozen.predict((images(2), None), TASK)
    frozen.to(lambda tensor: tensor)  # nowhere
    assert frozen.backend._prepared
    frozen.to(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    x = images(2).double()
    torch.testing.assert_close(frozen.predict((x, None), TASK).require_logits(), network(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("engine", ["fold_batchnorm", "onnxruntime"])
def test_a_backend_survives_copy_and_pickle(engine):
    frozen = FrozenTeacher(tiny(), backend=InferenceBackend(engine, measure_seconds=0.05, log=print))
    expected = frozen.predict((images(2), None), TASK).require_logits()
    other = pickle.loads(pickle.dumps(copy.deepcopy(frozen)))
    torch.testing.assert_close(other.predict((images(2), None), TASK).require_logits(), expected, rtol=0, atol=1e-5)
    assert repr(frozen) == f"FrozenTeacher(Sequential, backend='{engine}')"


def test_compile_equals_eager(monkeypatch):
    # Torch's own compiler without its code generator, which takes a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    network = tiny()
    frozen = FrozenTeacher(network, backend=InferenceBackend("compile", measure_seconds=0.05))
    for count in (4, 3):
        torch.testing.assert_close(frozen.predict((images(count), None), TASK).require_logits(), network(images(count)))
    assert frozen.backend.report.backend == "compile"


class Words:
    """A task that calls its network with two inputs by name, and twice."""

    def outputs(self, network, batch):
        return Outputs(logits=network(left=batch, right=batch) + network(left=batch, right=batch))

    def target(self, batch):
        return None


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, left, right):
        return self.fc(left + right)

    def summed(self, batch):
        return self.fc(batch)


def test_any_task_works_with_the_backends_that_support_it():
    frozen = FrozenTeacher(Both(), backend=InferenceBackend("auto", measure_seconds=5))
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(frozen.predict(x, Words()).require_logits(), 2 * frozen.network(x, x))
    assert frozen.backend.report.skipped["onnxruntime"].startswith("the task must call the network once")
    assert set(frozen.backend.report.latency_ms) == {"eager", "fold_batchnorm"}


class NamedOutputs(nn.Module):
    """Frames and their lengths in, a dict of two tensors out."""

    def __init__(self):
        super().__init__()
        self.network = conv_ctc(mels=4, classes=5, width=8)

    def forward(self, frames, *, lengths):
        return {"logits": self.network(frames, lengths), "mean": frames.mean(dim=1)}


class Frames:
    """A task of two inputs, by position and by keyword."""

    input_axes: ClassVar = {"frames": {0: "batch", 1: "frames"}, "lengths": {0: "batch"}}

    def outputs(self, network, batch):
        output = network(batch[0], lengths=batch[1])
        return Outputs(logits=output["logits"].flatten(0, 1), embedding=output["mean"])

    def target(self, batch):
        return None


@RUNTIMES
def test_a_runtime_takes_several_inputs_of_any_length_and_returns_what_the_network_does(engine, recwarn):
    torch.manual_seed(0)
    frozen = FrozenTeacher(NamedOutputs(), backend=InferenceBackend(engine, measure_seconds=0.1))
    for count, length in ((3, 12), (1, 7), (4, 20)):
        batch = torch.randn(count, length, 4), torch.arange(length - count + 1, length + 1)
        outputs, expected = frozen.predict(batch, Frames()), Frames().outputs(frozen.network, batch)
        torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs.embedding, expected.embedding)
    assert frozen.backend.report.backend == engine
    assert not [warning for warning in recwarn if "eager torch" in str(warning.message)]


class Method:
    """A task that calls a method of the network's own."""

    def outputs(self, network, batch):
        return Outputs(logits=network.summed(batch))

    def target(self, batch):
        return None


def test_a_task_that_calls_a_method_stays_with_eager():
    frozen = FrozenTeacher(Both(), backend=InferenceBackend("auto", measure_seconds=5))
    x = torch.ones(2, 4)
    assert torch.equal(frozen.predict(x, Method()).require_logits(), frozen.network.fc(x))
    assert frozen.backend.report.backend == "eager"


def test_an_unknown_backend_is_refused_with_a_similar_name():
    with pytest.raises(LimbeckError, match="unknown backend 'onnxruntim'; available: onnxruntime"):
        InferenceBackend("onnxruntim")
    assert BACKENDS == ("auto", "eager", "fold_batchnorm", "compile", "onnxruntime", "openvino")


def test_a_missing_runtime_is_refused_with_the_command_to_install_it(monkeypatch):
    from limbeck.teachers.backends import runtime_session as session

    monkeypatch.setattr(session, "find_spec", lambda name: None)
    with pytest.raises(LimbeckError, match=r"openvino is not installed: pip install limbeck\[openvino\]"):
        FrozenTeacher(tiny(), backend="openvino")
    frozen = FrozenTeacher(tiny(), backend=InferenceBackend("auto", measure_seconds=5))
    frozen.predict((images(2), None), TASK)
    assert frozen.backend.report.skipped["openvino"].startswith("openvino is not installed")
