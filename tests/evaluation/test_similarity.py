"""Agreement, diversity and CKA against NumPy in float64."""

from __future__ import annotations

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
    find_disagreements,
    linear_cka,
    pairwise_similarity,
    prediction_agreement,
    unbiased_cka,
)
from limbeck.evaluation.model_outputs import penultimate_layer
from limbeck.tasks import Classification


@pytest.fixture
def logits_and_target():
    generator = torch.Generator().manual_seed(1)
    student, teacher = (2 * torch.randn(200, 4, generator=generator) for _ in range(2))
    return student, teacher, torch.randint(0, 4, (200,), generator=generator)


def log_softmax(z):
    z = z.double().numpy()
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def test_agreement_matches_numpy(logits_and_target):
    student, teacher, target = logits_and_target
    q, p, y = log_softmax(student), log_softmax(teacher), target.numpy()
    student_class, teacher_class = q.argmax(axis=1), p.argmax(axis=1)
    result = prediction_agreement(student, teacher, target)
    assert result["kl"] == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), abs=1e-10)
    assert result["prediction_agreement"] == pytest.approx((student_class == teacher_class).mean())
    assert result["both_wrong"] == pytest.approx(((student_class != y) & (teacher_class != y)).mean())
    assert result["student_only_wrong"] == pytest.approx(((student_class != y) & (teacher_class == y)).mean())
    assert result["teacher_only_wrong"] == pytest.approx(((student_class == y) & (teacher_class != y)).mean())


def test_identical_predictions_agree(logits_and_target):
    student, _, target = logits_and_target
    result = prediction_agreement(student, student + 3.0, target)  # logits are defined up to a constant
    assert (result["prediction_agreement"], result["student_only_wrong"], result["teacher_only_wrong"]) == (
        1.0,
        0.0,
        0.0,
    )
    assert 0.0 <= result["kl"] < 1e-12


def test_unlabeled_rows_count_for_agreement_only(logits_and_target):
    student, teacher, target = logits_and_target
    partly_labeled = torch.where(torch.arange(200) < 50, target, -100)
    result, all_labeled, labeled_rows = (
        prediction_agreement(student, teacher, partly_labeled),
        prediction_agreement(*logits_and_target),
        prediction_agreement(*(x[:50] for x in logits_and_target)),
    )
    assert [result[k] for k in ("prediction_agreement", "kl")] == [
        all_labeled[k] for k in ("prediction_agreement", "kl")
    ]
    shares = ("both_wrong", "student_only_wrong", "teacher_only_wrong")
    assert [result[k] for k in shares] == [labeled_rows[k] for k in shares]
    unlabeled = prediction_agreement(student, teacher, torch.full((200,), -100))
    assert [unlabeled[k] for k in shares] == [None, None, None]


def test_disagreements_are_sorted_by_confidence(logits_and_target):
    student, teacher, target = logits_and_target
    target = torch.where(torch.arange(200) % 3 == 0, -100, target)
    q, p = np.exp(log_softmax(student)), np.exp(log_softmax(teacher))
    differ = [i for i in range(200) if i % 3 and q[i].argmax() != p[i].argmax()]
    expected = sorted(differ, key=lambda i: -min(q[i].max(), p[i].max()))
    rows = find_disagreements(student, teacher, target, limit=200)
    assert [row["index"] for row in rows] == expected
    assert find_disagreements(student, teacher, target) == rows[:12]
    first = rows[0]
    i = first["index"]
    assert (first["student"], first["teacher"]) == (q[i].argmax(), p[i].argmax())
    assert first["student_confidence"] == pytest.approx(q[i].max())
    assert first["teacher_confidence"] == pytest.approx(p[i].max())
    assert first["target"] == int(target[i])


def test_identical_predictions_have_no_disagreements(logits_and_target):
    student, _, target = logits_and_target
    assert find_disagreements(student, student, target) == []
    assert find_disagreements(*logits_and_target, limit=0) == []


def test_agreement_of_mismatched_inputs_raises(logits_and_target):
    student, teacher, target = logits_and_target
    with pytest.raises(LimbeckError, match=r"\[200, 4\] and the teacher's \[199, 4\]"):
        prediction_agreement(student, teacher[:199], target)
    with pytest.raises(LimbeckError, match="the teacher's logits are not finite"):
        prediction_agreement(student, teacher / 0, target)
    with pytest.raises(LimbeckError, match="no row"):
        prediction_agreement(student[:0], teacher[:0], target[:0])
    with pytest.raises(LimbeckError, match="got -1"):
        find_disagreements(*logits_and_target, limit=-1)


def features(n=40, p=6, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, p)).astype(np.float32))


def related(n=40, seed=1):
    """Features of other width that share a part with ``features(n)``."""
    return torch.cat([features(n)[:, :2] * 2, features(n, 7, seed)], dim=1) + 3


def numpy_cka(x, y):
    """By centred n × n kernels, as the paper writes it."""
    n = len(x)
    centering = np.eye(n) - 1 / n
    a, b = (centering @ (z @ z.T) @ centering for z in (x.double().numpy(), y.double().numpy()))
    return np.trace(a @ b) / math.sqrt(np.trace(a @ a) * np.trace(b @ b))


def numpy_unbiased(x, y):
    """By kernels with an empty diagonal: eq. 5 of Song et al."""

    def hsic(a, b):
        n, one = len(a), np.ones(len(a))
        a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
        inputs = np.trace(a @ b) + (one @ a @ one) * (one @ b @ one) / ((n - 1) * (n - 2))
        return (inputs - 2 / (n - 2) * (one @ a @ b @ one)) / (n * (n - 3))

    a, b = (z @ z.T for z in (x.double().numpy(), y.double().numpy()))
    return hsic(a, b) / math.sqrt(hsic(a, a) * hsic(b, b))


@pytest.mark.parametrize(("cka", "reference"), [(linear_cka, numpy_cka), (unbiased_cka, numpy_unbiased)])
def test_cka_matches_the_kernel_formula(cka, reference):
    assert cka(features(), related()) == pytest.approx(reference(features(), related()), abs=1e-9)
    assert 0.05 < cka(features(), related()) < 0.95


@pytest.mark.parametrize("cka", [linear_cka, unbiased_cka])
def test_cka_is_invariant_to_rotation_scale_and_shift(cka):
    x, y = features(), related()
    rotation = torch.linalg.qr(features(6, 6, seed=2).double())[0]
    assert cka((x.double() @ rotation) * 17 - 4, y) == pytest.approx(cka(x, y), abs=1e-9)
    assert cka(x, y) == pytest.approx(cka(y, x), abs=1e-12)


@pytest.mark.parametrize("cka", [linear_cka, unbiased_cka])
def test_cka_with_itself_is_one(cka):
    assert cka(features(), features()) == pytest.approx(1)
    assert cka(features(), features() * -0.5) == pytest.approx(1)


def test_unbiased_cka_of_independent_features_is_near_zero():
    x, y = features(50, 2000, seed=3), features(50, 2000, seed=4)
    assert linear_cka(x, y) > 0.9
    assert abs(unbiased_cka(x, y)) < 0.1


@pytest.mark.parametrize("cka", [linear_cka, unbiased_cka])
def test_constant_features_have_no_cka(cka):
    assert cka(torch.ones(8, 3), features(8)) is None


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.full((5, 2), math.nan), torch.ones(5, 2), "NaN or infinity"),
        (torch.ones(5, 2, 2), torch.ones(5, 2), "flatten or pool"),
        (torch.ones(5, 2), torch.ones(6, 2), "got 5 and 6"),
        (torch.ones(3, 2), torch.ones(3, 2), "at least 4 samples"),
    ],
)
def test_unbiased_cka_of_invalid_features_raises(first, second, message):
    with pytest.raises(LimbeckError, match=message):
        unbiased_cka(first, second)


def test_error_correlation_is_pearson():
    random = np.random.default_rng(5)
    first = random.random(200) < 0.3
    second = first ^ (random.random(200) < 0.2)
    expected = np.corrcoef(first.astype(float), second.astype(float))[0, 1]
    assert error_correlation(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(expected, abs=1e-12)


def test_error_correlation_at_the_extremes():
    wrong = torch.tensor([True, False, True, False])
    assert error_correlation(wrong, wrong) == pytest.approx(1)
    assert error_correlation(wrong, ~wrong) == pytest.approx(-1)
    assert error_correlation(wrong, torch.zeros(4, dtype=torch.bool)) is None


def test_disagreement_and_double_fault_by_hand():
    first = torch.eye(3)[[0, 1, 2, 0, 1]]
    second = torch.eye(3)[[0, 2, 2, 1, 1]]
    target = torch.tensor([0, 0, 0, 2, 1])
    assert disagreement_rate(first, second) == 2 / 5
    # Both are wrong on samples 1, 2 and 3.
    assert double_fault(first.argmax(1) != target, second.argmax(1) != target) == 3 / 5


def test_pairwise_similarity_excludes_unlabeled_rows_from_errors_only():
    target = torch.tensor([0, 1, -100, -100])
    one = ModelOutputs(torch.eye(2)[[0, 0, 1, 1]], target)
    other = ModelOutputs(torch.eye(2)[[0, 0, 0, 1]], target)
    (pair,) = pairwise_similarity({"one": one, "other": other})
    assert (pair["first"], pair["second"], pair["disagreement"], pair["double_fault"]) == (
        "one",
        "other",
        0.25,
        0.5,
    )
    assert pair["cka_input"] == "logits"
    blind = ModelOutputs(one.logits, torch.full((4,), -100))
    assert pairwise_similarity({"one": blind, "other": blind})[0]["error_correlation"] is None


def test_different_numbers_of_classes_raise():
    with pytest.raises(LimbeckError, match="got 3 classes and 4"):
        disagreement_rate(torch.eye(3), torch.ones(3, 4))


def test_architecture_family_of_model_names():
    assert {architecture_family(name) for name in ("resnet56", "resnet8x4", "my.nets:ResNet18", "resnet20")} == {
        "resnet"
    }
    names = ("convnext_tiny", "efficientnet_b0", "vgg11_bn", "wide_resnet50_2", "mlp")
    assert [architecture_family(name) for name in names] == ["convnext", "efficientnet", "vgg", "wide_resnet", "mlp"]


def net(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers)


def batch(n=5, width=4):
    return {"input": features(n, width), "target": torch.arange(n) % 3}


def test_features_are_the_input_of_the_last_linear_layer():
    network = net(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).train()
    items = [batch(5), batch(4)]
    outputs = collect_outputs(network, items, Classification(3))
    inputs = torch.cat([item["input"] for item in items])
    assert outputs.layer == "2:input"
    assert torch.allclose(outputs.features, network[:2](inputs))
    assert torch.allclose(outputs.logits, network(inputs))
    assert network.training
    assert not outputs.features.requires_grad


def test_every_third_sample_is_counted_across_batches():
    network = net(nn.Linear(4, 6), nn.Linear(6, 3))
    items = [batch(5), batch(5), batch(2)]
    every, inputs = (collect_outputs(network, items, Classification(3), every=every).features for every in (3, 1))
    assert torch.equal(every, inputs[::3])


def test_network_without_a_linear_head_has_no_features():
    convolution = net(nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 3, 1), nn.Flatten())
    assert penultimate_layer(convolution, batch(), Classification(3)) is None
    assert collect_outputs(convolution, [batch()], Classification(3)).features is None


def test_head_that_runs_twice_is_recorded_at_its_last_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 3)

        def forward(self, x):
            return self.head(self.head(x).relu())

    assert penultimate_layer(Twice(), batch(width=3), Classification(3)) == "head@1:input"
