"""ONNX export: one file for any batch size that says what torch says, or no file and one sentence."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.export import onnx_export, predict_onnx, to_onnx
from limbeck.models import onnx_graph as graph
from limbeck.models import small_cnn


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(71, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def cnn(inputs):
    torch.manual_seed(0)
    network = small_cnn()
    for _ in range(5):  # in training mode, so that the running statistics are not those of a new network
        network(inputs * 3 + 1)
    return network  # and still in training mode


@pytest.fixture(scope="module")
def exported(cnn, inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "student.onnx"
    return path, to_onnx(cnn, inputs[:1], path, check_inputs=inputs)


def test_the_file_says_what_torch_says_for_any_batch_size(cnn, exported, inputs):
    cnn.eval()
    expected = cnn(inputs).detach().numpy()
    cnn.train()
    for many in (1, 7, 71):
        np.testing.assert_allclose(predict_onnx(exported[0], inputs[:many]), expected[:many], atol=1e-5)


def test_the_record_is_that_of_the_file(exported):
    path, record = exported
    assert record["file"] == "student.onnx"
    assert record["bytes"] == path.stat().st_size
    assert (record["num_samples"], record["tolerance"], record["label_agreement"]) == (71, 1e-4, 1.0)
    assert 0 <= record["max_abs_difference"] < 1e-5
    assert record["latency_ms"].keys() == {"median", "p95", "low", "high", "batch_size", "num_threads", "num_repeats"}
    assert 0 < record["latency_ms"]["median"] <= record["latency_ms"]["p95"]
    assert record["latency_ms"]["num_repeats"] >= 1


def test_the_file_contains_its_weights_and_no_metadata_of_this_machine(exported):
    import onnx

    path, record = exported
    assert [file.name for file in path.parent.iterdir()] == ["student.onnx"]
    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    assert [opset.version for opset in proto.opset_import if not opset.domain] == [record["opset"]]
    assert [one.name for one in proto.graph.input] == ["input"]
    assert [one.name for one in proto.graph.output] == ["logits"]
    assert b"limbeck" not in path.read_bytes()
    assert b".py" not in path.read_bytes()


def test_the_model_keeps_its_mode_and_weights(cnn, exported):
    assert all(module.training for module in cnn.modules())
    assert int(cnn.block1.bn.num_batches_tracked) == 5


def test_the_exporter_is_silent(tmp_path, capfd, recwarn):
    to_onnx(
        _Form(lambda logits: {"logits": logits}), torch.zeros(1, 4), tmp_path / "a.onnx", check_inputs=torch.randn(1, 4)
    )
    assert capfd.readouterr() == ("", "")
    assert not [one for one in recwarn if one.category is not DeprecationWarning]


class _Form(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form, self.fc = form, nn.Linear(4, 3)

    def forward(self, x):
        return self.form(self.fc(x))


@pytest.mark.parametrize(
    "form",
    [lambda t: t, lambda t: (t, None), lambda t: {"logits": t, "loss": 0}, lambda t: SimpleNamespace(logits=t)],
    ids=["tensor", "tuple", "mapping", "attribute"],
)
def test_logits_are_read_from_each_output_form(form):
    network, x = _Form(form), torch.randn(2, 4)
    assert torch.equal(onnx_export._LogitsWrapper(network)(x), network.fc(x))


def test_a_network_without_logits_is_refused(tmp_path):
    with pytest.raises(LimbeckError, match=r"gave no logits \[batch, classes, \.\.\.\]"):
        to_onnx(_Form(lambda t: {"scores": t}), torch.zeros(1, 4), tmp_path / "a.onnx", check_inputs=torch.zeros(1, 4))


class _OtherWhenTraced(nn.Module):
    def forward(self, x):
        return -x if torch.compiler.is_compiling() else x


class _Noisy(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


@pytest.mark.parametrize("network", [_OtherWhenTraced(), _Noisy()])
def test_a_file_that_answers_otherwise_is_not_left_behind(network, tmp_path):
    examples = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        LimbeckError, match=r"a.onnx is not written.* a logit differs by \d.*0.000\d* is allowed.*labels"
    ):
        to_onnx(network, examples[:1], tmp_path / "a.onnx", check_inputs=examples)
    assert list(tmp_path.iterdir()) == []


def test_what_stood_there_before_survives_a_failed_export(tmp_path):
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    with pytest.raises(LimbeckError, match="Branch cannot be exported to ONNX"):
        to_onnx(Branch(), torch.ones(1, 4), path, check_inputs=torch.ones(3, 4))
    assert path.read_bytes() == b"old"


def _compare(expected, logits):
    chunks = iter([logits[:1], logits[1:]])
    return onnx_export._check_parity(nn.Identity(), lambda _: next(chunks), expected, tolerance=1e-2, name="a.onnx")


def test_the_tolerance_grows_with_the_largest_logit():
    expected = torch.tensor([[100.0, 0.0], [0.0, 50.0]])
    assert _compare(expected, expected + 0.9)[0] == pytest.approx(0.9, abs=1e-5)
    with pytest.raises(LimbeckError, match=r"differs by 1.1 \(1 is allowed\)"):
        _compare(expected, expected + 1.1)


def test_a_label_may_differ_only_where_torch_is_torn():
    torn = torch.tensor([[1.0, 0.995], [0.0, 1.0]])
    assert _compare(torn, torch.tensor([[0.995, 1.0], [0.0, 1.0]])) == (pytest.approx(0.005, abs=1e-6), 0.5)
    sure = torch.tensor([[1.0, 0.985], [0.0, 1.0]])
    with pytest.raises(LimbeckError, match="1 of 2 labels differ, 1 of them where torch is sure"):
        _compare(sure, torch.tensor([[0.9915, 0.9935], [0.0, 1.0]]))


def test_nan_in_the_file_is_refused():
    with pytest.raises(LimbeckError, match="differs by nan"):
        _compare(torch.ones(2, 2), torch.full((2, 2), torch.nan))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"path": "a.pb"}, r"ends in .onnx, got 'a.pb'"),
        ({"tolerance": 0.0}, "tolerance must be a number above 0"),
        ({"check_inputs": torch.zeros(0, 4)}, "at least one validation input"),
        ({"check_inputs": torch.zeros(2, 5)}, r"\[4\].*\[5\]"),
        ({"example_inputs": torch.zeros(1, 5), "check_inputs": torch.zeros(2, 5)}, "does not take the example.*[1, 5]"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(changed, sentence, tmp_path):
    given = {"example_inputs": torch.zeros(1, 4), "path": "a.onnx", "check_inputs": torch.zeros(2, 4)} | changed
    given["path"] = tmp_path / given["path"]
    with pytest.raises(LimbeckError, match=sentence):
        to_onnx(nn.Linear(4, 3), **given)
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_two_gigabytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "_MAX_WEIGHT_BYTES", 10)
    with pytest.raises(LimbeckError, match="holds up to 2 GB"):
        to_onnx(nn.Linear(4, 3), torch.zeros(1, 4), tmp_path / "a.onnx", check_inputs=torch.zeros(1, 4))


def test_reading_tells_what_is_wrong_with_the_file_or_the_inputs(exported, tmp_path):
    with pytest.raises(LimbeckError, match="there is no ONNX file"):
        predict_onnx(tmp_path / "none.onnx", torch.zeros(1, 4))
    (tmp_path / "bad.onnx").write_bytes(b"\x00 no model")
    with pytest.raises(LimbeckError, match="cannot load"):
        predict_onnx(tmp_path / "bad.onnx", torch.zeros(1, 4))
    with pytest.raises(LimbeckError, match=r"must be tensor\(float\).*got float32 \[1, 4\]"):
        predict_onnx(exported[0], torch.zeros(1, 4))
    with pytest.raises(LimbeckError, match="no row"):
        predict_onnx(exported[0], torch.zeros(0, 1, 8, 8))
