"""Diversity against NumPy in float64 with whole kernels, and by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import (
    ModelOutputs,
    architecture_family,
    collect_outputs,
    disagreement_rate,
    double_fault,
    error_correlation,
    linear_cka,
    pairwise_similarity,
    unbiased_cka,
)
from limbeck.evaluation.model_outputs import penultimate_layer
from limbeck.tasks import Classification


def features(n=40, p=6, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, p)).astype(np.float32))


def related(n=40, seed=1):
    """Features of other width that share a part with ``features(n)``."""
    return torch.cat([features(n)[:, :2] * 2, features(n, 7, seed)], dim=1) + 3


def numpy_cka(x, y):
    """By centred n × n kernels, as the paper writes it."""
    n = len(x)
    centre = np.eye(n) - 1 / n
    a, b = (centre @ (z @ z.T) @ centre for z in (x.double().numpy(), y.double().numpy()))
    return np.trace(a @ b) / math.sqrt(np.trace(a @ a) * np.trace(b @ b))


def numpy_unbiased(x, y):
    """By kernels with an empty diagonal: eq. 5 of Song et al."""

    def hsic(a, b):
        n, one = len(a), np.ones(len(a))
        a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
        whole = np.trace(a @ b) + (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
        return (whole - 2 / (n - 2) * (one @ a @ b @ one)) / (n * (n - 3))

    a, b = (z @ z.T for z in (x.double().numpy(), y.double().numpy()))
    return hsic(a, b) / math.sqrt(hsic(a, a) * hsic(b, b))


@pytest.mark.parametrize(("cka", "by_numpy"), [(linear_cka, numpy_cka), (unbiased_cka, numpy_unbiased)])
def test_cka_is_what_whole_kernels_give(cka, by_numpy):
    assert cka(features(), related()) == pytest.approx(by_numpy(features(), related()), abs=1e-9)
    assert 0.05 < cka(features(), related()) < 0.95


@pytest.mark.parametrize("cka", [linear_cka, unbiased_cka])
def test_cka_knows_no_rotation_scale_or_shift(cka):
    x, y = features(), related()
    turn = torch.linalg.qr(features(6, 6, seed=2).double())[0]
    assert cka((x.double() @ turn) * 17 - 4, y) == pytest.approx(cka(x, y), abs=1e-9)
    assert cka(x, y) == pytest.approx(cka(y, x), abs=1e-12)


@pytest.mark.parametrize("cka", [linear_cka, unbiased_cka])
def test_cka_with_itself_is_one(cka):
    assert cka(features(), features()) == pytest.approx(1)
    assert cka(features(), features() * -0.5) == pytest.approx(1)


def test_unbiased_cka_of_strangers_is_near_zero_however_wide_they_are():
    x, y = features(50, 2000, seed=3), features(50, 2000, seed=4)
    assert linear_cka(x, y) > 0.9
    assert abs(unbiased_cka(x, y)) < 0.1


@pytest.mark.parametrize("cka", [linear_cka, unbiased_cka])
def test_features_that_never_vary_have_no_cka(cka):
    assert cka(torch.ones(8, 3), features(8)) is None


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (torch.full((5, 2), math.nan), torch.ones(5, 2), "NaN or infinity"),
        (torch.ones(5, 2, 2), torch.ones(5, 2), "flatten or pool"),
        (torch.ones(5, 2), torch.ones(6, 2), "got 5 and 6"),
        (torch.ones(3, 2), torch.ones(3, 2), "at least 4 samples"),
    ],
)
def test_cka_refuses_what_it_cannot_compare(first, second, says):
    with pytest.raises(LimbeckError, match=says):
        unbiased_cka(first, second)


def test_error_correlation_is_pearsons():
    random = np.random.default_rng(5)
    first = random.random(200) < 0.3
    second = first ^ (random.random(200) < 0.2)
    expected = np.corrcoef(first.astype(float), second.astype(float))[0, 1]
    assert error_correlation(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(expected, abs=1e-12)


def test_error_correlation_at_its_ends():
    wrong = torch.tensor([True, False, True, False])
    assert error_correlation(wrong, wrong) == pytest.approx(1)
    assert error_correlation(wrong, ~wrong) == pytest.approx(-1)
    assert error_correlation(wrong, torch.zeros(4, dtype=torch.bool)) is None


def test_disagreement_and_double_fault_by_hand():
    first = torch.eye(3)[[0, 1, 2, 0, 1]]
    second = torch.eye(3)[[0, 2, 2, 1, 1]]
    truth = torch.tensor([0, 0, 0, 2, 1])
    assert disagreement_rate(first, second) == 2 / 5
    # Both are wrong on samples 1, 2 and 3.
    assert double_fault(first.argmax(1) != truth, second.argmax(1) != truth) == 3 / 5


def test_pairs_leave_unlabelled_rows_out_of_errors_only():
    truth = torch.tensor([0, 1, -100, -100])
    one = ModelOutputs(torch.eye(2)[[0, 0, 1, 1]], truth)
    other = ModelOutputs(torch.eye(2)[[0, 0, 0, 1]], truth)
    (found,) = pairwise_similarity({"one": one, "other": other})
    assert (found["first"], found["second"], found["disagreement"], found["double_fault"]) == (
        "one",
        "other",
        0.25,
        0.5,
    )
    assert found["cka_input"] == "logits"
    blind = ModelOutputs(one.logits, torch.full((4,), -100))
    assert pairwise_similarity({"one": blind, "other": blind})[0]["error_correlation"] is None


def test_other_class_counts_are_one_sentence():
    with pytest.raises(LimbeckError, match="got 3 classes and 4"):
        disagreement_rate(torch.eye(3), torch.ones(3, 4))


def test_families_are_told_by_names():
    assert {architecture_family(name) for name in ("resnet56", "resnet8x4", "my.nets:ResNet18", "resnet20")} == {
        "resnet"
    }
    assert [architecture_family(name) for name in ("convnext_tiny", "efficientnet_b0", "vgg11_bn", "wide_resnet50_2", "mlp")] == [
        "convnext", "efficientnet", "vgg", "wide_resnet", "mlp",
    ]  # fmt: skip


def net(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers)


def batch(n=5, width=4):
    return {"input": features(n, width), "target": torch.arange(n) % 3}


def test_features_are_what_the_last_linear_layer_takes():
    network = net(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).train()
    items = [batch(5), batch(4)]
    heard = collect_outputs(network, items, Classification(3))
    whole = torch.cat([item["input"] for item in items])
    assert heard.layer == "2:input"
    assert torch.allclose(heard.features, network[:2](whole))
    assert torch.allclose(heard.logits, network(whole))
    assert network.training
    assert not heard.features.requires_grad


def test_features_of_each_third_sample_run_over_batches():
    network = net(nn.Linear(4, 6), nn.Linear(6, 3))
    items = [batch(5), batch(5), batch(2)]
    every, whole = (collect_outputs(network, items, Classification(3), every=every).features for every in (3, 1))
    assert torch.equal(every, whole[::3])


def test_a_network_that_ends_otherwise_is_known_by_its_logits():
    convolution = net(nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 3, 1), nn.Flatten())
    assert penultimate_layer(convolution, batch(), Classification(3)) is None
    assert collect_outputs(convolution, [batch()], Classification(3)).features is None


def test_a_head_that_runs_twice_is_read_at_its_last_run():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 3)

        def forward(self, x):
            return self.head(self.head(x).relu())

    assert penultimate_layer(Twice(), batch(width=3), Classification(3)) == "head@1:input"
