"""Exported detectors on real images: onnxruntime and OpenVINO give the boxes and detections of torch."""

from __future__ import annotations

import os
import runpy
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from limbeck.data import VOCDetection, iterate_batches
from limbeck.export import OnnxModule, export_task, measure_prediction_agreement
from limbeck.tasks import Detection

detectors = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "detectors.py")))
REAL = Path(os.environ.get("LIMBECK_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"))


@pytest.fixture(scope="module")
def blood_cells():
    if not (REAL / "bccd" / "BCCD" / "Annotations").is_dir():
        pytest.skip("no unpacked BCCD: set LIMBECK_DATA")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid box
        return VOCDetection(root=str(REAL), name="bccd/BCCD", size=(96, 128), cache_mb=0, invalid_boxes="drop").load()


@pytest.mark.parametrize(("name", "export_nms"), [("fcos", False), ("retinanet", True)])
def test_runtimes_give_the_detections_of_torch_on_real_images(blood_cells, name, export_nms, tmp_path):
    task, path = Detection(detectors.CLASSES, export_nms=export_nms), tmp_path / "student.onnx"
    images = blood_cells.validation.subset(torch.arange(6))
    batches = [next(iterate_batches(images.subset(torch.arange(size)), None)) for size in (1, 6)]
    model = task.deployment_model(detectors.tiny_detector(name), blood_cells).eval()
    info = export_task(task, model, batches, path)
    assert info["max_abs_difference"] < 0.02  # pixels
    assert info["label_agreement"] > 0.99
    assert 0 < info["latency_ms"]["median"] <= info["latency_ms"]["p95"]
    if find_spec("openvino") is None:
        return
    file = OnnxModule(str(path), task, name=path.name, runtime="openvino")
    with torch.no_grad():
        expected, actual = (network(batches[1]["input"]) for network in (model, file))
        scores = [task.score(network, batches[1]) for network in (model, file)]
    torch.testing.assert_close(actual["scores"], expected["scores"], rtol=1e-3, atol=1e-4)
    if not export_nms:
        torch.testing.assert_close(actual["boxes"], expected["boxes"], rtol=1e-3, atol=0.02)
    assert measure_prediction_agreement(scores[0].predictions, scores[1].predictions) > 0.99
