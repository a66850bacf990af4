"""Eight-bit files: smaller, with nearly the same answers; and one sentence where it cannot be."""

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.export import predict_onnx, quantize_int8, to_onnx
from limbeck.models import small_cnn


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    network, inputs = small_cnn(width=32), torch.rand(200, 1, 16, 16)
    network(inputs)  # so that the batch norms have seen something
    file = tmp_path_factory.mktemp("int8") / "fp32.onnx"
    to_onnx(network.eval(), inputs[:1], file, check_inputs=inputs)
    return file, inputs


def test_the_file_is_smaller_and_answers_nearly_alike(exported, tmp_path):
    file, inputs = exported
    small = quantize_int8(file, tmp_path / "int8.onnx", calibration_inputs=inputs[:100])
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
    assert small.stat().st_size < 0.5 * file.stat().st_size
    before, after = predict_onnx(file, inputs), predict_onnx(small, inputs)
    assert 0 < float((before - after).abs().max()) < 0.1 * float(before.max() - before.min())


@pytest.mark.parametrize(
    ("source", "name", "many", "says"),
    [
        ("nowhere.onnx", "a.onnx", 4, "no ONNX file"),
        (None, "a.bin", 4, "ends in .onnx"),
        (None, "a.onnx", 0, "got none"),
    ],
)
def test_what_cannot_be_quantised_is_one_sentence(exported, tmp_path, source, name, many, says):
    file, inputs = exported
    with pytest.raises(LimbeckError, match=says):
        quantize_int8(source or file, tmp_path / name, calibration_inputs=inputs[:many])


def test_a_damaged_file_is_an_error_and_nothing_is_written(exported, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(LimbeckError, match="cannot be quantized"):
        quantize_int8(broken, tmp_path / "int8.onnx", calibration_inputs=exported[1])
    assert [path.name for path in tmp_path.iterdir()] == ["broken.onnx"]
