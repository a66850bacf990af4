"""Fidelity and layer features, against NumPy in float64 and on small networks."""

import itertools
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.evaluation import cka_matrix, layerwise_cka, measure_fidelity, prediction_similarity, unbiased_cka
from limbeck.evaluation.model_outputs import LayerRecorder, find_stage_layers, pool_features
from limbeck.models import resnet8, small_cnn
from limbeck.tasks import Classification
from limbeck.teachers import ExternalTeacher

TEN = Classification(10)


def make_batch(num_samples=24, *, channels=1, side=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "input": torch.randn(num_samples, channels, side, side, generator=draw),
        "target": torch.randint(0, 10, (num_samples,), generator=draw),
    }


def hsic_by_definition(x, y):
    """Song et al., eq. 5, with its sums over pairs, triples and quadruples of different samples written out."""
    k, h = x @ x.T, y @ y.T
    n = len(x)
    two = sum(k[i, j] * h[i, j] for i, j in itertools.permutations(range(n), 2)) / (n * (n - 1))
    three = sum(k[i, j] * h[i, m] for i, j, m in itertools.permutations(range(n), 3)) / (n * (n - 1) * (n - 2))
    four = sum(k[i, j] * h[m, o] for i, j, m, o in itertools.permutations(range(n), 4))
    return two - 2 * three + four / (n * (n - 1) * (n - 2) * (n - 3))


def test_cka_matrix_matches_the_definition():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(7, 3)), draw.normal(size=(7, 5))
    cross, self_x, self_y = hsic_by_definition(x, y), hsic_by_definition(x, x), hsic_by_definition(y, y)
    (result,) = cka_matrix({"a": torch.tensor(x)}, {"b": torch.tensor(y)})[0]
    assert result == pytest.approx(cross / np.sqrt(self_x * self_y), abs=1e-12)


def test_cka_matrix_matches_unbiased_cka():
    draw = torch.Generator().manual_seed(0)
    first = {name: torch.randn(40, width, generator=draw) for name, width in (("a", 3), ("b", 60))}
    second = {name: torch.randn(40, width, generator=draw) for name, width in (("c", 5), ("d", 1), ("e", 8))}
    result = cka_matrix(first, second)
    for row, x in zip(result, first.values(), strict=True):
        for value, y in zip(row, second.values(), strict=True):
            assert value == pytest.approx(unbiased_cka(x, y), abs=1e-9)


def test_cka_matrix_is_invariant_and_none_for_constant_layers():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(30, 6, generator=draw, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=draw, dtype=torch.float64))
    assert cka_matrix({"x": x}, {"y": 1e6 * x @ rotation + 5})[0][0] == pytest.approx(1.0, abs=1e-9)
    assert cka_matrix({"x": x}, {"same": torch.full((30, 4), 1.1)}) == [[None]]


@pytest.mark.parametrize(
    ("first", "second"), [(torch.ones(3, 2), torch.ones(3, 2)), (torch.ones(5, 2), torch.ones(6, 2))]
)
def test_cka_matrix_of_few_or_different_samples_raises(first, second):
    with pytest.raises(LimbeckError, match="at least 4"):
        cka_matrix({"a": first}, {"b": second})


def test_features_that_are_not_finite_raise():
    with pytest.raises(LimbeckError, match="finite"):
        cka_matrix({"a": torch.full((5, 2), torch.nan)}, {"b": torch.ones(5, 2)})


def test_pool_features_averages_space_and_tokens():
    maps = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert pool_features(maps).tolist() == [[5.5, 17.5]]
    assert pool_features(torch.arange(6.0).reshape(1, 3, 2)).tolist() == [[2.0, 3.0]]
    assert pool_features(torch.tensor([1.0, 2.0])).shape == (2, 1)


@pytest.mark.parametrize(
    ("network", "layers_expected"),
    [
        (lambda: small_cnn(width=4), ["block1", "block2", "block3", "fc"]),
        (lambda: resnet8(channels=1), ["stem", "layer1", "layer2", "layer3", "fc"]),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10)), ["1", "3"]),
        (
            lambda: nn.Sequential(
                nn.Sequential(*[nn.Conv2d(1, 1, 1) for _ in range(12)]), nn.Flatten(), nn.Linear(64, 10)
            ),
            ["0.0", "0.2", "0.3", "0.5", "0.7", "0.9", "0.10", "2"],
        ),
    ],
)
def test_stage_layers_of_networks(network, layers_expected):
    assert find_stage_layers(network(), make_batch(), TEN) == layers_expected


def test_normalization_and_parameterless_layers_are_no_stages():
    layers = {
        "conv": nn.Conv2d(1, 3, 3), "bn": nn.BatchNorm2d(3), "relu": nn.ReLU(), "group": nn.GroupNorm(1, 3),
        "next": nn.Conv2d(3, 2, 3), "flat": nn.Flatten(), "norm": nn.LayerNorm(32), "head": nn.Linear(32, 10),
    }  # fmt: skip
    assert find_stage_layers(nn.Sequential(OrderedDict(layers)), make_batch(), TEN) == ["conv", "next", "head"]


def test_layer_that_runs_twice_is_no_stage():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again = nn.Linear(64, 64), nn.Linear(64, 64)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.again(self.again(self.first(x.flatten(1)))))

    assert find_stage_layers(Twice(), make_batch(), TEN) == ["first", "head"]


def test_recorder_keeps_features_of_the_first_samples_and_all_logits():
    batch = make_batch(8)
    network = small_cnn(width=4)
    recorder = LayerRecorder(network, batch, TEN, max_samples=12)
    for seed in range(3):
        recorder.record(make_batch(8, seed=seed))
    assert recorder.logits.shape == (24, 10)
    assert recorder.target.tolist() == [int(t) for seed in range(3) for t in make_batch(8, seed=seed)["target"]]
    assert {layer: tuple(features.shape) for layer, features in recorder.features.items()} == {
        "block1": (12, 4), "block2": (12, 4), "block3": (12, 6), "fc": (12, 10),
    }  # fmt: skip
    assert torch.equal(recorder.features["fc"], recorder.logits[:12])


def test_errors_by_class_and_kind():
    names = ["a", "b", "c"]
    target = torch.tensor([0, 0, 0, 0, 1, 1, -100])
    student = torch.eye(3)[[1, 1, 2, 0, 1, 0, 2]]
    teacher = torch.eye(3)[[1, 2, 0, 0, 1, 1, 0]]
    result = prediction_similarity(student, teacher, target, class_names=names)
    assert result["per_class"] == [
        {
            "class": "a",
            "num_samples": 4,
            "same_error": 1,
            "different_error": 1,
            "student_only_wrong": 1,
            "teacher_only_wrong": 0,
        },
        {
            "class": "b",
            "num_samples": 2,
            "same_error": 0,
            "different_error": 0,
            "student_only_wrong": 1,
            "teacher_only_wrong": 0,
        },
    ]
    assert (result["num_samples"], result["prediction_agreement"], result["same_error"]) == (7, 3 / 7, 1 / 6)
    assert result["both_wrong"] == pytest.approx(2 / 6)


def test_counts_by_class_add_up_to_the_fractions():
    draw = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(500, 6, generator=draw) for _ in range(2))
    target = torch.randint(0, 6, (500,), generator=draw)
    result = prediction_similarity(student, teacher, target, class_names=list("abcdef"))
    totals = {kind: sum(row[kind] for row in result["per_class"]) for kind in result["per_class"][0] if kind != "class"}
    assert totals["num_samples"] == 500
    assert totals["same_error"] / 500 == result["same_error"]
    assert (totals["same_error"] + totals["different_error"]) / 500 == pytest.approx(result["both_wrong"])
    assert totals["student_only_wrong"] / 500 == pytest.approx(result["student_only_wrong"])


def test_network_has_full_fidelity_to_itself():
    network = small_cnn(width=4)
    result = measure_fidelity(network, network, (make_batch(10, seed=seed) for seed in range(2)), TEN)
    assert (result["prediction_agreement"], result["kl"], result["student_only_wrong"]) == (1.0, 0.0, 0.0)
    values = np.array(result["cka"]["matrix"])
    assert values.shape == (4, 4)
    assert np.diag(values) == pytest.approx(1.0)
    assert np.allclose(values, values.T)
    assert result["cka"]["num_samples"] == 20


def test_measure_fidelity_does_not_change_the_networks():
    student, teacher = small_cnn(width=2).train(), small_cnn(width=3).eval()
    student.block1.eval()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    measure_fidelity(student, teacher, [make_batch()], TEN, class_names=list("0123456789"))
    assert (student.training, student.block1.training, teacher.training) == (True, False, False)
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
    assert not any(module._forward_hooks for module in (*student.modules(), *teacher.modules()))


def test_external_teacher_has_its_logits_as_the_only_layer():
    weights = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    teacher = ExternalTeacher(lambda x: x.flatten(1) @ weights, name="the callable", fingerprint="w")
    result = measure_fidelity(small_cnn(width=2), teacher, [make_batch()], TEN)
    assert result["cka"]["teacher_layers"] == ["logits"]
    assert len(result["cka"]["matrix"]) == 4


def test_three_samples_have_no_cka():
    assert layerwise_cka({"a": torch.ones(3, 2)}, {"b": torch.ones(3, 2)}) is None
    assert layerwise_cka({"a": torch.ones(9, 2)}, {}) is None
    assert measure_fidelity(small_cnn(width=2), small_cnn(width=2), [make_batch(3)], TEN)["cka"] is None


def test_invalid_fidelity_inputs_raise():
    with pytest.raises(LimbeckError, match="got no batch"):
        measure_fidelity(small_cnn(), small_cnn(), [], TEN)
    with pytest.raises(LimbeckError, match="10 classes, and 2 names"):
        measure_fidelity(small_cnn(), small_cnn(), [make_batch()], TEN, class_names=["a", "b"])
