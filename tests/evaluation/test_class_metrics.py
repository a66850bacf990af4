"""Metrics against NumPy in float64, and conventions where metrics differ."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import classification_metrics, collect_logits
from limbeck.evaluation.checks import move_to_device
from limbeck.tasks import Classification


def case(n, classes, *, scale=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (n,), generator=generator)
    logits = scale * torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), target] += 2.0
    return logits, target


def names(classes):
    return [str(i) for i in range(classes)]


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def ece(z, y, bins=15):
    p = softmax(z)
    confidence, correct, total = p.max(axis=1), p.argmax(axis=1) == y, 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return total


def macro_f1(predicted, y, classes):
    scores = []
    for c in range(classes):
        hits, num_predicted, num_true = ((predicted == c) & (y == c)).sum(), (predicted == c).sum(), (y == c).sum()
        if num_predicted + num_true:
            scores.append(2 * hits / (num_predicted + num_true))
    return np.mean(scores)


@pytest.mark.parametrize(("n", "classes"), [(1, 3), (257, 10), (400, 6), (64, 2), (9000, 7)])
def test_metrics_match_numpy(n, classes):
    logits, target = case(n, classes)
    z, y = logits.double().numpy(), target.numpy()
    order = np.argsort(-z, axis=1)
    result = classification_metrics(logits, target, class_names=names(classes))
    assert result["num_samples"] == n
    assert result["accuracy"] == pytest.approx((order[:, 0] == y).mean(), abs=1e-12)
    assert result["nll"] == pytest.approx(-np.log(softmax(z)[np.arange(n), y]).mean(), abs=1e-10)
    assert result["ece"] == pytest.approx(ece(z, y), abs=1e-10)
    assert result["macro_f1"] == pytest.approx(macro_f1(order[:, 0], y, classes), abs=1e-6)
    if classes < 6:
        assert result["top5_accuracy"] is None
    else:
        assert result["top5_accuracy"] == pytest.approx((order[:, :5] == y[:, None]).any(axis=1).mean(), abs=1e-12)
    for c, row in enumerate(result["per_class"]):
        in_class = y == c
        assert (row["class"], row["num_samples"]) == (str(c), in_class.sum())
        assert row["accuracy"] == (pytest.approx((order[in_class, 0] == c).mean()) if in_class.any() else None)


def test_metrics_match_torchmetrics():
    from torchmetrics.functional import classification as tm

    logits, target = case(300, 8)
    result = classification_metrics(logits, target, class_names=names(8))
    assert result["accuracy"] == pytest.approx(
        float(tm.multiclass_accuracy(logits, target, 8, average="micro")), abs=1e-6
    )
    assert result["top5_accuracy"] == pytest.approx(
        float(tm.multiclass_accuracy(logits, target, 8, average="micro", top_k=5)), abs=1e-6
    )
    expected = tm.multiclass_calibration_error(logits.double().softmax(1), target, 8, n_bins=15)
    assert result["ece"] == pytest.approx(float(expected), abs=1e-6)


def test_macro_f1_averages_over_occurring_and_predicted_classes():
    logits = nn.functional.one_hot(torch.tensor([0, 0, 1, 2]), 4).float()
    result = classification_metrics(logits, torch.tensor([0, 0, 1, 1]), class_names=names(4))
    # class 0: 1, class 1: 2·1/(1+2), class 2 predicted and never targets: 0, class 3 neither: not in the mean
    assert result["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3, abs=1e-6)
    assert [row["accuracy"] for row in result["per_class"]] == [1.0, 0.5, None, None]
    from sklearn.metrics import f1_score

    assert result["macro_f1"] == pytest.approx(f1_score([0, 0, 1, 1], [0, 0, 1, 2], average="macro"), abs=1e-6)


def test_confidence_of_one_is_in_the_last_bin():
    # One row at exactly 1 and wrong, one a little below and correct: in one bin they make up for each other in part.
    logits = torch.tensor([[1000.0, 0.0], [5.0, 0.0]])
    result = classification_metrics(logits, torch.tensor([1, 0]), class_names=names(2))
    assert len(result["reliability"]) == 15
    assert result["reliability"][-1]["num_samples"] == 2
    confidence = (1 + 1 / (1 + np.exp(-5))) / 2
    assert result["ece"] == pytest.approx(confidence - 0.5, abs=1e-12)


def test_reliability_bins_add_up_to_the_ece():
    logits, target = case(500, 5)
    result = classification_metrics(logits, target, class_names=names(5))
    bins = result["reliability"]
    assert [bins[0]["low"], bins[-1]["high"]] == [0.0, 1.0]
    assert all(a["high"] == b["low"] for a, b in itertools.pairwise(bins))
    assert sum(row["num_samples"] for row in bins) == 500
    assert bins[0] | {"low": 0, "high": 0} == {
        "low": 0,
        "high": 0,
        "confidence": None,
        "fraction_correct": None,
        "num_samples": 0,
    }
    full = [row for row in bins if row["num_samples"]]
    assert all(row["low"] < row["confidence"] <= row["high"] for row in full)
    assert result["ece"] == pytest.approx(
        sum(row["num_samples"] * abs(row["fraction_correct"] - row["confidence"]) for row in full) / 500
    )


def test_rows_without_a_label_are_left_out():
    logits, target = case(40, 6)
    partly_labeled = target.clone()
    partly_labeled[::2] = -100
    assert classification_metrics(logits, partly_labeled, class_names=names(6)) == classification_metrics(
        logits[1::2], target[1::2], class_names=names(6)
    )


def test_half_precision_and_autograd_tensors_are_accepted():
    logits, target = case(20, 3)
    result = classification_metrics(logits.bfloat16().requires_grad_(), target.int(), class_names=names(3))
    assert result == classification_metrics(logits.bfloat16().float(), target, class_names=names(3))


@pytest.mark.parametrize(
    ("logits", "target", "sentence"),
    [
        (torch.zeros(0, 2), torch.zeros(0).long(), "of 0 rows none has a label"),
        (torch.zeros(3, 2), torch.full((3,), -100), "of 3 rows none has a label"),
        (torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), torch.zeros(2).long(), "not finite in 1 of 2 rows .*row 1"),
        (torch.tensor([[0.0, torch.inf]]), torch.zeros(1).long(), "not finite in 1 of 1 rows"),
        (torch.zeros(2, 3), torch.zeros(2).long(), "3 classes, and 2 names"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), "the class 2 of 2 classes"),
        (torch.zeros(2, 2), torch.tensor([0, -1]), "the class -1"),
        (torch.zeros(2, 2), torch.zeros(3).long(), r"2 class indices, one per row, got torch.int64 \[3\]"),
        (torch.zeros(2, 2), torch.zeros(2), "got torch.float32"),
        (torch.zeros(2, 2, 2), torch.zeros(2).long(), r"\[n, classes\]"),
    ],
)
def test_invalid_inputs_raise(logits, target, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        classification_metrics(logits, target, class_names=names(2))


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    net.train()
    net[1].eval()
    return net


def test_collect_logits_uses_eval_mode_and_restores_modes():
    net, x = network(), torch.randn(7, 4)
    logits, target = collect_logits(net, [(x[:4], torch.arange(4) % 3), {"input": x[4:]}], Classification(3))
    assert [module.training for module in net] == [True, False, True]
    assert net.training
    assert not logits.requires_grad
    assert torch.allclose(logits, network().eval()(x))
    assert target.tolist() == [0, 1, 2, 0, -100, -100, -100]
    assert int(net[1].num_batches_tracked) == 0


def test_collect_logits_returns_float32_and_accepts_soft_targets():
    net = nn.Linear(4, 2).bfloat16()
    soft = torch.tensor([[0.2, 0.8], [0.9, 0.1]])
    logits, target = collect_logits(net, [(torch.ones(2, 4).bfloat16(), soft)], Classification(2))
    assert (logits.dtype, target.tolist()) == (torch.float32, [1, 0])


def test_modes_are_restored_after_an_error():
    net = network()
    with pytest.raises(RuntimeError):
        collect_logits(net, [(torch.zeros(2, 5), torch.zeros(2).long())], Classification(3))
    assert net.training
    with pytest.raises(LimbeckError, match="got no batch"):
        collect_logits(net, [], Classification(3))


def test_nested_batches_are_moved_to_the_device():
    moved = move_to_device({"a": [torch.zeros(1), "text"], "b": (torch.zeros(1),)}, torch.device("meta"))
    assert moved["a"][0].is_meta
    assert moved["b"][0].is_meta
    assert moved["a"][1] == "text"
