"""Export of tasks with several inputs, variable axes or maps as output; costs by the inputs of the task."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.task import ModelInputs
from limbeck.data.normalization import Normalization
from limbeck.evaluation import count_flops, measure_cost, measure_peak_memory
from limbeck.export import OnnxModule, export_task, get_named_inputs, quantize_int8
from limbeck.export.task_export import measure_prediction_agreement
from limbeck.models import text_encoder, unet
from limbeck.tasks.segmentation import Segmentation
from limbeck.tasks.text import TextClassification


def _text_batch(num_samples, num_tokens):
    generator = torch.Generator().manual_seed(num_samples)
    ids = torch.randint(1, 20, (num_samples, num_tokens), generator=generator)
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(num_tokens) < num_tokens - 1).long().expand_as(ids).contiguous(),
        "target": torch.zeros(num_samples, dtype=torch.long),
    }


def test_a_network_of_two_inputs_takes_batches_of_any_size_and_length(tmp_path):
    torch.manual_seed(0)
    task, network = TextClassification(3), text_encoder(vocab_size=20, classes=3).eval()
    model = task.deployment_model(network, None)
    batches = [_text_batch(1, 5), _text_batch(3, 7)]
    entry = export_task(task, model, batches, tmp_path / "student.onnx")
    assert (entry["num_samples"], entry["label_agreement"]) == (4, 1.0)
    assert entry["max_abs_difference"] < 1e-4
    exported, other = OnnxModule(str(tmp_path / "student.onnx"), task, name="student.onnx"), _text_batch(4, 11)
    with torch.no_grad():
        expected = network(**task.model_inputs(other).kwargs)
    np.testing.assert_allclose(task.outputs(exported, other).require_logits(), expected, atol=1e-5)
    calibration = [get_named_inputs(task, task.model_inputs(batch)) for batch in (*batches, _text_batch(6, 9))]
    small = quantize_int8(tmp_path / "student.onnx", tmp_path / "int8.onnx", calibration_inputs=calibration)
    logits = task.outputs(OnnxModule(str(small), task, name="int8.onnx"), other).require_logits()
    assert 0 < float((logits - expected).abs().max()) < 0.3 * float(expected.max() - expected.min())
    with pytest.raises(LimbeckError, match="must have input_ids, attention_mask, got input_ids"):
        quantize_int8(small, tmp_path / "a.onnx", calibration_inputs=[{"input_ids": calibration[0]["input_ids"]}])


def test_predictions_that_are_numbers_are_equal_to_rounding():
    boxes = torch.tensor([[0.1, 2.0]])
    expected = [151.23, 151.23, {"box": boxes, "label": 3}, {"box": boxes, "label": 3}, 1]
    actual = [151.2300001, 151.3, {"box": boxes + 1e-6, "label": 3}, {"box": boxes + 0.01, "label": 3}, 2]
    assert measure_prediction_agreement(expected, actual) == 2 / 5


def test_maps_are_exported(tmp_path):
    torch.manual_seed(0)
    task, network = Segmentation(4), unet(classes=4, channels=3, width=4).eval()
    data = SimpleNamespace(normalization=Normalization(mean=(0.5,) * 3, std=(0.25,) * 3), input_shape=(3, 16, 16))
    batches = [{"input": torch.rand(n, 3, 16, 16), "target": torch.zeros(n, 16, 16, dtype=torch.long)} for n in (1, 3)]
    entry = export_task(task, task.deployment_model(network, data), batches, tmp_path / "student.onnx")
    assert (entry["num_samples"], entry["label_agreement"]) == (4, 1.0)


class _Random(nn.Module):
    def forward(self, input_ids, attention_mask):
        return (input_ids * attention_mask)[:, :3].float() + torch.rand(len(input_ids), 3)


def test_a_file_that_differs_is_not_written(tmp_path):
    with pytest.raises(LimbeckError, match=r"cannot be exported|does not match torch"):
        export_task(TextClassification(3), _Random(), [_text_batch(2, 5)], tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


class _Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x, *, mask):
        return self.fc(x * mask)


def test_costs_are_those_of_the_first_sample_of_several_inputs():
    inputs = ModelInputs((torch.ones(5, 4),), {"mask": torch.ones(5, 4)})
    assert count_flops(_Sum(), inputs) == (16, None)
    assert measure_cost(_Sum(), inputs)["flops"] == 16
    # 10 weights, 2 inputs of 4 values, their product and the output
    assert measure_peak_memory(_Sum(), inputs) == 4 * (10 + 4 + 4 + 4 + 2)


class _Branch(_Sum):
    def forward(self, x):
        return self.fc(x) if float(x.sum()) > 0 else self.fc(self.fc(x))


def test_flops_of_a_network_that_depends_on_values_are_counted_on_its_device():
    assert count_flops(_Branch(), torch.ones(2, 4)) == (16, None)
