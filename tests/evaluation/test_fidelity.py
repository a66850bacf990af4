"""What a student took over from its teacher: against NumPy in float64, and on networks built for the question."""

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


def pictures(many=24, *, channels=1, side=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "input": torch.randn(many, channels, side, side, generator=draw),
        "target": torch.randint(0, 10, (many,), generator=draw),
    }


def hsic_by_definition(x, y):
    """Song et al., eq. 5, with its sums over pairs, triples and quadruples of different samples written out."""
    k, h = x @ x.T, y @ y.T
    n = len(x)
    two = sum(k[i, j] * h[i, j] for i, j in itertools.permutations(range(n), 2)) / (n * (n - 1))
    three = sum(k[i, j] * h[i, m] for i, j, m in itertools.permutations(range(n), 3)) / (n * (n - 1) * (n - 2))
    four = sum(k[i, j] * h[m, o] for i, j, m, o in itertools.permutations(range(n), 4))
    return two - 2 * three + four / (n * (n - 1) * (n - 2) * (n - 3))


def test_cka_by_layer_is_the_estimate_of_its_definition():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(7, 3)), draw.normal(size=(7, 5))
    cross, own, other = hsic_by_definition(x, y), hsic_by_definition(x, x), hsic_by_definition(y, y)
    (found,) = cka_matrix({"a": torch.tensor(x)}, {"b": torch.tensor(y)})[0]
    assert found == pytest.approx(cross / np.sqrt(own * other), abs=1e-12)


def test_each_cell_is_the_cka_of_its_two_layers():
    draw = torch.Generator().manual_seed(0)
    first = {name: torch.randn(40, width, generator=draw) for name, width in (("a", 3), ("b", 60))}
    second = {name: torch.randn(40, width, generator=draw) for name, width in (("c", 5), ("d", 1), ("e", 8))}
    found = cka_matrix(first, second)
    for row, x in zip(found, first.values(), strict=True):
        for value, y in zip(row, second.values(), strict=True):
            assert value == pytest.approx(unbiased_cka(x, y), abs=1e-9)


def test_cka_does_not_see_rotation_scale_and_shift_and_knows_no_constant():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(30, 6, generator=draw, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=draw, dtype=torch.float64))
    assert cka_matrix({"x": x}, {"y": 1e6 * x @ turn + 5})[0][0] == pytest.approx(1.0, abs=1e-9)
    assert cka_matrix({"x": x}, {"same": torch.full((30, 4), 1.1)}) == [[None]]


@pytest.mark.parametrize(
    ("first", "second"), [(torch.ones(3, 2), torch.ones(3, 2)), (torch.ones(5, 2), torch.ones(6, 2))]
)
def test_cka_refuses_few_samples_and_other_ones(first, second):
    with pytest.raises(LimbeckError, match="at least 4"):
        cka_matrix({"a": first}, {"b": second})


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(LimbeckError, match="finite"):
        cka_matrix({"a": torch.full((5, 2), torch.nan)}, {"b": torch.ones(5, 2)})


def test_pooling_averages_space_and_tokens():
    maps = torch.arange(24.0).reshape(1, 2, 3, 4)
    assert pool_features(maps).tolist() == [[5.5, 17.5]]
    assert pool_features(torch.arange(6.0).reshape(1, 3, 2)).tolist() == [[2.0, 3.0]]
    assert pool_features(torch.tensor([1.0, 2.0])).shape == (2, 1)


@pytest.mark.parametrize(
    ("network", "places"),
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
def test_a_network_is_looked_into_at_its_stages(network, places):
    assert find_stage_layers(network(), pictures(), TEN) == places


def test_normalisations_and_parts_without_weights_are_no_stages():
    layers = {
        "conv": nn.Conv2d(1, 3, 3), "bn": nn.BatchNorm2d(3), "relu": nn.ReLU(), "group": nn.GroupNorm(1, 3),
        "next": nn.Conv2d(3, 2, 3), "flat": nn.Flatten(), "norm": nn.LayerNorm(32), "head": nn.Linear(32, 10),
    }  # fmt: skip
    assert find_stage_layers(nn.Sequential(OrderedDict(layers)), pictures(), TEN) == ["conv", "next", "head"]


def test_a_part_that_runs_twice_is_no_stage():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again = nn.Linear(64, 64), nn.Linear(64, 64)
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.again(self.again(self.first(x.flatten(1)))))

    assert find_stage_layers(Twice(), pictures(), TEN) == ["first", "head"]


def test_layers_are_kept_of_the_first_samples_only_and_answers_of_all():
    batch = pictures(8)
    network = small_cnn(width=4)
    ear = LayerRecorder(network, batch, TEN, max_samples=12)
    for seed in range(3):
        ear.record(pictures(8, seed=seed))
    assert ear.logits.shape == (24, 10)
    assert ear.target.tolist() == [int(t) for seed in range(3) for t in pictures(8, seed=seed)["target"]]
    assert {place: tuple(kept.shape) for place, kept in ear.features.items()} == {
        "block1": (12, 4), "block2": (12, 4), "block3": (12, 6), "fc": (12, 10),
    }  # fmt: skip
    assert torch.equal(ear.features["fc"], ear.logits[:12])


def test_errors_are_counted_by_class_and_kind_as_by_hand():
    names = ["a", "b", "c"]
    target = torch.tensor([0, 0, 0, 0, 1, 1, -100])
    student = torch.eye(3)[[1, 1, 2, 0, 1, 0, 2]]
    teacher = torch.eye(3)[[1, 2, 0, 0, 1, 1, 0]]
    found = prediction_similarity(student, teacher, target, class_names=names)
    assert found["per_class"] == [
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
    assert (found["num_samples"], found["top1_agreement"], found["same_error"]) == (7, 3 / 7, 1 / 6)
    assert found["both_wrong"] == pytest.approx(2 / 6)


def test_counts_by_class_add_up_to_the_shares():
    draw = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(500, 6, generator=draw) for _ in range(2))
    target = torch.randint(0, 6, (500,), generator=draw)
    found = prediction_similarity(student, teacher, target, class_names=list("abcdef"))
    summed = {kind: sum(one[kind] for one in found["per_class"]) for kind in found["per_class"][0] if kind != "class"}
    assert summed["num_samples"] == 500
    assert summed["same_error"] / 500 == found["same_error"]
    assert (summed["same_error"] + summed["different_error"]) / 500 == pytest.approx(found["both_wrong"])
    assert summed["student_only_wrong"] / 500 == pytest.approx(found["student_only_wrong"])


def test_a_network_is_wholly_like_itself_whatever_order_the_batches_come_in():
    network = small_cnn(width=4)
    found = measure_fidelity(network, network, (pictures(10, seed=seed) for seed in range(2)), TEN)
    assert (found["top1_agreement"], found["kl"], found["student_only_wrong"]) == (1.0, 0.0, 0.0)
    values = np.array(found["cka"]["matrix"])
    assert values.shape == (4, 4)
    assert np.diag(values) == pytest.approx(1.0)
    assert np.allclose(values, values.T)
    assert found["cka"]["num_samples"] == 20


def test_looking_leaves_both_networks_as_they_were():
    student, teacher = small_cnn(width=2).train(), small_cnn(width=3).eval()
    student.block1.eval()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    measure_fidelity(student, teacher, [pictures()], TEN, class_names=list("0123456789"))
    assert (student.training, student.block1.training, teacher.training) == (True, False, False)
    assert all(torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
    assert not any(module._forward_hooks for module in (*student.modules(), *teacher.modules()))


def test_of_a_teacher_that_only_answers_the_logits_are_the_layer():
    weights = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    teacher = ExternalTeacher(lambda x: x.flatten(1) @ weights, name="the callable", fingerprint="w")
    found = measure_fidelity(small_cnn(width=2), teacher, [pictures()], TEN)
    assert found["cka"]["teacher_layers"] == ["logits"]
    assert len(found["cka"]["matrix"]) == 4


def test_three_samples_have_answers_and_no_cka():
    assert layerwise_cka({"a": torch.ones(3, 2)}, {"b": torch.ones(3, 2)}) is None
    assert measure_fidelity(small_cnn(width=2), small_cnn(width=2), [pictures(3)], TEN)["cka"] is None


def test_what_cannot_be_compared_is_one_sentence():
    with pytest.raises(LimbeckError, match="got no batch"):
        measure_fidelity(small_cnn(), small_cnn(), [], TEN)
    with pytest.raises(LimbeckError, match="10 classes, and 2 names"):
        measure_fidelity(small_cnn(), small_cnn(), [pictures()], TEN, class_names=["a", "b"])
