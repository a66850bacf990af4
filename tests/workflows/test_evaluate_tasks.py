"""What ``limbeck evaluate`` measures and refuses for tasks other than image classification."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.data.test_spoken_digits import write_clips
from tests.data.test_text_files import write_texts
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.data.mask_store import MasksInMemory
from limbeck.data.sources import SpokenDigits, TextFiles
from limbeck.data.split import InMemory, Split
from limbeck.evaluation import add_gaussian_noise, adversarial_accuracy, noise_statistics
from limbeck.models import conv_ctc, text_encoder
from limbeck.tasks import Segmentation, SpeechCTC, TextClassification
from limbeck.workflows.evaluate.check_support import unsupported_checks
from limbeck.workflows.evaluate.efficiency import measure_efficiency
from limbeck.workflows.evaluate.robustness import evaluate_robustness


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Data, task and an untrained network."""
    torch.manual_seed(0)
    clips = write_clips(tmp_path_factory.mktemp("clips") / "fsdd", takes=7)
    data = SpokenDigits(root=str(clips), mels=8).load(seed=0)
    classes = len(data.class_names)
    return data, SpeechCTC(classes), conv_ctc(width=8, classes=classes, mels=8).eval()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    write_texts(root)
    torch.manual_seed(0)
    data = TextFiles(root=str(root), val_file="dev").load(seed=0)
    return data, TextClassification(3), text_encoder(vocab_size=data.facts["vocab_size"], classes=3, width=8).eval()


def test_a_network_of_frames_and_lengths_is_measured_in_each_runtime(speech):
    data, task, network = speech
    result = measure_efficiency({"a": network}, data, task, data.validation, batch_sizes=(1, 3), seconds=0.01)
    rows = {(row["runtime"], row["precision"]): row for row in result["rows"]}
    assert {("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")} <= rows.keys()
    eager, exported = rows["torch", "fp32"], rows["onnxruntime", "fp32"]
    assert eager["value"] == evaluate_robustness(network, data, task, data.validation, checks=[])["clean"]
    assert (exported["value"], exported["agreement"]) == (eager["value"], 1.0)
    assert eager["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert eager["flops"] > 0
    assert eager["peak_memory"] > 4 * eager["parameters"]
    for row in rows.values():
        assert 0 <= row["agreement"] <= 1
        assert set(row["latency_ms"]) == {"1", "3"}


def test_large_batches_are_not_timed(speech, monkeypatch):
    data, task, network = speech
    monkeypatch.setattr("limbeck.workflows.evaluate.efficiency._MAX_INPUT_BYTES", 10)
    monkeypatch.setattr("limbeck.workflows.evaluate.efficiency.export_task", _refuse)
    result = measure_efficiency({"a": network}, data, task, data.validation, batch_sizes=(1, 2), seconds=0.01)
    assert [set(row["latency_ms"]) for row in result["rows"]] == [{"1"}]
    assert result["notes"][-1].startswith("batches of 2 are not timed")


def _refuse(*args, **kwargs):
    raise LimbeckError("cannot be exported")


def test_each_check_says_which_tasks_it_can_judge(speech, text):
    data, task, network = speech
    assert set(unsupported_checks(network, data, task)) == {
        "attacks", "corruptions", "noise", "shift", "ood", "calibration"
    }  # fmt: skip
    assert set(unsupported_checks(text[2], text[0], text[1])) == {"attacks", "corruptions", "noise", "shift", "ood"}
    with pytest.raises(LimbeckError, match=r"attacks needs images of .*noise needs images, .* TextClassification"):
        evaluate_robustness(text[2], text[0], text[1], text[0].validation, checks=["attacks", "noise"])


def test_texts_have_a_calibration_and_an_interval(text):
    data, task, network = text
    result = evaluate_robustness(network, data, task, data.validation, checks=["calibration"])
    assert result["calibration"]["num_fit_samples"] + result["calibration"]["num_samples"] == len(data.validation)
    low, high = result["clean_interval"]
    assert low <= result["clean"] <= high


class Threshold(nn.Module):
    """Class 1 where a pixel is above one half."""

    def forward(self, pixels):
        return torch.cat([torch.full_like(pixels, 0.5), pixels], dim=1)


def test_masks_under_noise_have_the_mean_iou_of_the_noisy_images():
    pixels = torch.rand(6, 1, 5, 5)
    masks = (pixels[:, 0] > 0.5).long()
    masks[0, 0] = 255
    split = Split.from_masks(InMemory(pixels), MasksInMemory(masks))
    task = Segmentation(2)
    statistics = noise_statistics({"a": Threshold()}, split, task, sigmas=(0.0, 0.3))["a"]
    assert float(task.metric_value(statistics[0])) == 1.0
    noisy = add_gaussian_noise(pixels, 0.3, sample_ids=split.sample_ids)[:, 0].numpy() > 0.5
    valid, target = masks.numpy() != 255, masks.numpy() == 1
    ious = [
        np.sum((noisy == c) & (target == c) & valid) / np.sum(((noisy == c) | (target == c)) & valid) for c in (0, 1)
    ]
    assert float(task.metric_value(statistics[1])) == pytest.approx(np.mean(ious), abs=1e-12)
    with pytest.raises(LimbeckError, match="an attack needs images of one class each, got a split with masks"):
        adversarial_accuracy(Threshold(), split)
