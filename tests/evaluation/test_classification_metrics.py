"""Quality against float64 NumPy written here, and the conventions where metrics differ."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import classification_metrics, collect_logits
from limbeck.evaluation.classification_metrics import _move_to_device
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
    sure, right, total = p.max(axis=1), p.argmax(axis=1) == y, 0.0
    for i in range(bins):
        inside = (sure > i / bins) & (sure <= (i + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    return total


def macro_f1(predicted, y, classes):
    scores = []
    for c in range(classes):
        hit, said, true = ((predicted == c) & (y == c)).sum(), (predicted == c).sum(), (y == c).sum()
        if said + true:
            scores.append(2 * hit / (said + true))
    return np.mean(scores)


@pytest.mark.parametrize(("n", "classes"), [(1, 3), (257, 10), (400, 6), (64, 2), (9000, 7)])
def test_every_figure_is_that_of_numpy(n, classes):
    logits, target = case(n, classes)
    z, y = logits.double().numpy(), target.numpy()
    order = np.argsort(-z, axis=1)
    found = classification_metrics(logits, target, class_names=names(classes))
    assert found["num_samples"] == n
    assert found["accuracy"] == pytest.approx((order[:, 0] == y).mean(), abs=1e-12)
    assert found["nll"] == pytest.approx(-np.log(softmax(z)[np.arange(n), y]).mean(), abs=1e-10)
    assert found["ece"] == pytest.approx(ece(z, y), abs=1e-10)
    assert found["macro_f1"] == pytest.approx(macro_f1(order[:, 0], y, classes), abs=1e-6)
    if classes < 6:
        assert found["top5_accuracy"] is None
    else:
        assert found["top5_accuracy"] == pytest.approx((order[:, :5] == y[:, None]).any(axis=1).mean(), abs=1e-12)
    for c, row in enumerate(found["per_class"]):
        mine = y == c
        assert (row["class"], row["num_samples"]) == (str(c), mine.sum())
        assert row["accuracy"] == (pytest.approx((order[mine, 0] == c).mean()) if mine.any() else None)


def test_the_figures_are_those_of_torchmetrics_where_it_has_them():
    from torchmetrics.functional import classification as tm

    logits, target = case(300, 8)
    found = classification_metrics(logits, target, class_names=names(8))
    assert found["accuracy"] == pytest.approx(
        float(tm.multiclass_accuracy(logits, target, 8, average="micro")), abs=1e-6
    )
    assert found["top5_accuracy"] == pytest.approx(
        float(tm.multiclass_accuracy(logits, target, 8, average="micro", top_k=5)), abs=1e-6
    )
    theirs = tm.multiclass_calibration_error(logits.double().softmax(1), target, 8, n_bins=15)
    assert found["ece"] == pytest.approx(float(theirs), abs=1e-6)


def test_macro_f1_counts_a_class_that_is_only_predicted_and_leaves_out_one_that_never_occurs():
    logits = nn.functional.one_hot(torch.tensor([0, 0, 1, 2]), 4).float()
    found = classification_metrics(logits, torch.tensor([0, 0, 1, 1]), class_names=names(4))
    # class 0: 1, class 1: 2·1/(1+2), class 2 predicted and never true: 0, class 3 neither: not in the mean
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3, abs=1e-6)
    assert [row["accuracy"] for row in found["per_class"]] == [1.0, 0.5, None, None]
    from sklearn.metrics import f1_score

    assert found["macro_f1"] == pytest.approx(f1_score([0, 0, 1, 1], [0, 0, 1, 2], average="macro"), abs=1e-6)


def test_a_certain_answer_stands_in_the_last_of_fifteen_bins():
    # One row at exactly 1 and wrong, one a little below and right: in one bin they make up for each other in part.
    logits = torch.tensor([[1000.0, 0.0], [5.0, 0.0]])
    found = classification_metrics(logits, torch.tensor([1, 0]), class_names=names(2))
    assert len(found["reliability"]) == 15
    assert found["reliability"][-1]["num_samples"] == 2
    sure = (1 + 1 / (1 + np.exp(-5))) / 2
    assert found["ece"] == pytest.approx(sure - 0.5, abs=1e-12)


def test_the_bins_hold_every_row_and_make_up_the_ece():
    logits, target = case(500, 5)
    found = classification_metrics(logits, target, class_names=names(5))
    bins = found["reliability"]
    assert [bins[0]["low"], bins[-1]["high"]] == [0.0, 1.0]
    assert all(a["high"] == b["low"] for a, b in itertools.pairwise(bins))
    assert sum(one["num_samples"] for one in bins) == 500
    assert bins[0] | {"low": 0, "high": 0} == {
        "low": 0,
        "high": 0,
        "confidence": None,
        "accuracy": None,
        "num_samples": 0,
    }
    full = [one for one in bins if one["num_samples"]]
    assert all(one["low"] < one["confidence"] <= one["high"] for one in full)
    assert found["ece"] == pytest.approx(
        sum(one["num_samples"] * abs(one["accuracy"] - one["confidence"]) for one in full) / 500
    )


def test_rows_without_a_label_are_left_out():
    logits, target = case(40, 6)
    some = target.clone()
    some[::2] = -100
    assert classification_metrics(logits, some, class_names=names(6)) == classification_metrics(
        logits[1::2], target[1::2], class_names=names(6)
    )


def test_half_precision_and_a_graph_are_taken():
    logits, target = case(20, 3)
    found = classification_metrics(logits.bfloat16().requires_grad_(), target.int(), class_names=names(3))
    assert found == classification_metrics(logits.bfloat16().float(), target, class_names=names(3))


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
def test_what_has_no_figures_is_told_in_a_sentence(logits, target, sentence):
    with pytest.raises(LimbeckError, match=sentence):
        classification_metrics(logits, target, class_names=names(2))


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    net.train()
    net[1].eval()
    return net


def test_predictions_are_in_eval_mode_and_put_the_modes_back():
    net, x = network(), torch.randn(7, 4)
    logits, target = collect_logits(net, [(x[:4], torch.arange(4) % 3), {"input": x[4:]}], Classification(3))
    assert [module.training for module in net] == [True, False, True]
    assert net.training
    assert not logits.requires_grad
    assert torch.allclose(logits, network().eval()(x))
    assert target.tolist() == [0, 1, 2, 0, -100, -100, -100]
    assert int(net[1].num_batches_tracked) == 0


def test_predictions_are_float32_and_take_probabilities_as_targets():
    net = nn.Linear(4, 2).bfloat16()
    soft = torch.tensor([[0.2, 0.8], [0.9, 0.1]])
    logits, target = collect_logits(net, [(torch.ones(2, 4).bfloat16(), soft)], Classification(2))
    assert (logits.dtype, target.tolist()) == (torch.float32, [1, 0])


def test_the_modes_are_put_back_after_an_error():
    net = network()
    with pytest.raises(RuntimeError):
        collect_logits(net, [(torch.zeros(2, 5), torch.zeros(2).long())], Classification(3))
    assert net.training
    with pytest.raises(LimbeckError, match="got no batch"):
        collect_logits(net, [], Classification(3))


def test_a_batch_is_moved_in_every_form():
    moved = _move_to_device({"a": [torch.zeros(1), "text"], "b": (torch.zeros(1),)}, torch.device("meta"))
    assert moved["a"][0].is_meta
    assert moved["b"][0].is_meta
    assert moved["a"][1] == "text"
