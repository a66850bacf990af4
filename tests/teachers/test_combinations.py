"""Ensemble methods against NumPy written from their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.tasks import Classification, Segmentation
from limbeck.teachers import (
    ConfidenceWeighted,
    LearnedWeights,
    MeanLogits,
    MeanProbabilities,
    RandomTeacher,
    combine_teachers,
)

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)
SIZES = given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 5), st.integers(2, 6))
ALL = [
    MeanLogits({"0": 2.0}), MeanProbabilities({"0": 2.0}, temperature=4.0), ConfidenceWeighted("entropy"),
    ConfidenceWeighted("cross_entropy"), ConfidenceWeighted("inverse_entropy"),
    RandomTeacher(seed=3), LearnedWeights(),
]  # fmt: skip
EACH = pytest.mark.parametrize("ensemble", ALL, ids=lambda ensemble: repr(ensemble)[:30])


def softmax(z, axis=-1):
    z = np.exp(z - z.max(axis=axis, keepdims=True))
    return z / z.sum(axis=axis, keepdims=True)


def make_outputs(logits, present=None):
    return {
        str(i): Outputs(logits=torch.tensor(one), valid=None if present is None else torch.tensor(present[i]))
        for i, one in enumerate(logits)
    }


def draw_logits(seed, teachers, rows, classes):
    """Logits, who is present (at least one for each row), and labels, some of them missing."""
    random = np.random.default_rng(seed)
    present = random.random((teachers, rows)) < 0.7
    present[random.integers(teachers, size=rows), np.arange(rows)] = True
    target = random.integers(-1, classes, rows)
    return random.normal(size=(teachers, rows, classes)) * 4, present, np.where(target < 0, -100, target)


def camkd_probabilities(uncertainty, tau, rows):
    """CA-MKD from the paper, on the teachers of one row: ``doubt`` ``[K]``, logits ``[K, classes]``."""
    num_teachers = len(uncertainty)
    weight = (
        np.ones(1) if num_teachers == 1 else (1 - np.exp(uncertainty) / np.exp(uncertainty).sum()) / (num_teachers - 1)
    )
    return (weight[:, None] * softmax(rows / tau)).sum(axis=0)


@FEW
@SIZES
def test_confidence_weights_are_those_of_the_paper_over_valid_teachers(seed, teachers, rows, classes):
    logits, present, target = draw_logits(seed, teachers, rows, classes)
    outputs = make_outputs(np.where(present[..., None], logits, np.nan), present)
    for by in ("entropy", "cross_entropy"):
        combined = combine_teachers(
            outputs, ensemble=ConfidenceWeighted(by, temperature=2.0), target=torch.tensor(target)
        )
        for row in range(rows):
            valid_logits = logits[present[:, row], row]
            p = softmax(valid_logits)
            likely = np.log(p[:, target[row]]) if target[row] >= 0 else np.zeros(len(p))
            uncertainty = -(p * np.log(p)).sum(axis=1) if by == "entropy" else -likely
            result = (combined.require_logits()[row] / 2.0).exp().numpy()
            np.testing.assert_allclose(
                result, camkd_probabilities(uncertainty, 2.0, valid_logits), rtol=1e-6, atol=1e-12
            )


@FEW
@SIZES
def test_weights_are_normalized_over_valid_teachers(seed, teachers, rows, classes):
    logits, present, _ = draw_logits(seed, teachers, rows, classes)
    share = np.arange(teachers) + 0.5
    weights = {str(i): float(one) for i, one in enumerate(share)}
    of_logits = combine_teachers(make_outputs(logits, present), ensemble=MeanLogits(weights)).require_logits().numpy()
    of_probabilities = (
        combine_teachers(make_outputs(logits, present), ensemble=MeanProbabilities(weights, temperature=3.0))
        .require_logits()
        .numpy()
    )
    for row in range(rows):
        here = present[:, row]
        weight = share[here] / share[here].sum()
        np.testing.assert_allclose(of_logits[row], weight @ logits[here, row], rtol=1e-6, atol=1e-12)
        expected = weight @ softmax(logits[here, row] / 3.0)
        np.testing.assert_allclose(np.exp(of_probabilities[row] / 3.0), expected, rtol=1e-6, atol=1e-12)


def test_cross_entropy_weights_worked_by_hand():
    # Two teachers give the target 1/2 and 3/4: they weigh 2/5 and 3/5, so the mean is 0.2 + 0.45 = 0.65.
    outputs = make_outputs(np.array([[[0.0, 0.0]], [[np.log(3.0), 0.0]]]))
    combined = combine_teachers(outputs, ensemble=ConfidenceWeighted("cross_entropy"), target=torch.tensor([0]))
    assert float(combined.require_logits().exp()[0, 0]) == pytest.approx(0.65)


def test_soft_targets_at_the_same_tau_are_camkd_up_to_a_constant():
    random = np.random.default_rng(0)
    logits, target, student = random.normal(size=(3, 5, 4)), random.integers(0, 4, 5), random.normal(size=(2, 5, 4))
    p = softmax(logits)[:, np.arange(5), target]
    weight = (1 - (1 / p) / (1 / p).sum(axis=0)) / 2
    log_q = np.log(softmax(student / 4.0))
    paper = -(weight[..., None] * softmax(logits / 4.0)).sum(axis=0) * log_q
    combined = combine_teachers(
        make_outputs(logits), ensemble=ConfidenceWeighted("cross_entropy", temperature=4.0), target=torch.tensor(target)
    )
    ours = [
        float(KDLoss(temperature=4.0)(LossContext(student=Outputs(logits=torch.tensor(one)), teacher=combined)))
        for one in student
    ]
    theirs = 16 * paper.sum(axis=2).mean(axis=1)
    assert ours[0] - ours[1] == pytest.approx(theirs[0] - theirs[1], rel=1e-6)


def test_confidence_takes_probabilities_as_targets_and_calls_all_zeros_no_label():
    logits = np.random.default_rng(1).normal(size=(3, 2, 3))
    target = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0]])
    result = (
        combine_teachers(make_outputs(logits), ensemble=ConfidenceWeighted("cross_entropy"), target=target)
        .require_logits()
        .exp()
        .numpy()
    )
    uncertainty = -(np.log(softmax(logits[:, 0])) @ np.array([0.25, 0.75, 0.0]))
    np.testing.assert_allclose(result[0], camkd_probabilities(uncertainty, 1.0, logits[:, 0]), rtol=1e-6)
    np.testing.assert_allclose(result[1], softmax(logits[:, 1]).mean(axis=0), rtol=1e-6)


@EACH
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_every_way_is_finite_float32_and_gives_what_all_agree_on(ensemble, scale):
    rows = scale * torch.tensor([[0.5, -1.0, 0.25], [1.0, 1.0, 1.0]], dtype=torch.float16)
    outputs = {str(i): Outputs(logits=rows) for i in range(3)}
    combined = combine_teachers(outputs, ensemble=ensemble, target=torch.tensor([1, -100])).require_logits()
    assert combined.dtype == torch.float32
    assert combined.isfinite().all()
    torch.testing.assert_close(combined.softmax(1), rows.float().softmax(1))


@EACH
def test_a_row_without_a_valid_teacher_enters_no_loss(ensemble):
    present = np.array([[True, False], [True, False]])
    logits = np.where(present[..., None], np.ones((2, 2, 3)), np.nan)
    combined = combine_teachers(make_outputs(logits, present), ensemble=ensemble, target=torch.tensor([0, 1]))
    context = LossContext(student=Outputs(logits=torch.zeros(2, 3)), teacher=combined)
    assert [len(one.require_logits()) for one in context.pair()] == [1, 1]
    assert float(KDLoss()(context)) == pytest.approx(0.0, abs=1e-6)


@EACH
def test_an_impossible_class_poisons_no_way(ensemble):
    logits = np.array([[[0.0, 1.0, -np.inf]], [[0.0, 1.0, 0.0]]])
    for label in (1, 2):
        assert (
            not combine_teachers(make_outputs(logits), ensemble=ensemble, target=torch.tensor([label]))
            .require_logits()
            .isnan()
            .any()
        )


def test_random_teacher_draws_by_weight_and_reproducibly_by_step():
    outputs, ensemble = (
        make_outputs(np.arange(3.0).reshape(3, 1, 1) * np.ones((1, 1, 2))),
        RandomTeacher({"0": 2.0}, seed=7),
    )
    drawn_teachers = [
        float(combine_teachers(outputs, ensemble=ensemble, progress=Progress(step)).require_logits()[0, 0])
        for step in range(800)
    ]
    assert drawn_teachers == [
        float(combine_teachers(outputs, ensemble=ensemble, progress=Progress(step)).require_logits()[0, 0])
        for step in range(800)
    ]
    # 800 draws: the share of 1/2 has a standard error of 0.018, that of 1/4 one of 0.015.
    assert [drawn_teachers.count(i) / 800 for i in range(3)] == pytest.approx([0.5, 0.25, 0.25], abs=0.06)
    later = [
        float(combine_teachers(outputs, ensemble=ensemble, progress=Progress(s, steps_before=9)).require_logits()[0, 0])
        for s in range(100)
    ]
    assert later == drawn_teachers[9:109]


def test_random_teacher_uses_a_valid_teacher_for_each_row():
    present = np.array([[True, False], [False, True]])
    outputs = make_outputs(np.stack([np.full((2, 2), 1.0), np.full((2, 2), 2.0)]), present)
    for step in range(8):
        rows = combine_teachers(outputs, ensemble=RandomTeacher(), progress=Progress(step)).require_logits()
        assert rows[:, 0].tolist() == [1.0, 2.0]


class FixedLogits(nn.Module):
    """Predicts the target with the given margin of its logit."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return self.by * x


def distiller_with_learned_weights(**settings):
    """A student, two teachers of which one knows the labels, and a batch whose input is the label."""
    labels = torch.arange(6) % 3
    student = nn.Linear(3, 3)
    return limbeck.Distiller(
        student, {"right": FixedLogits(2.0), "wrong": FixedLogits(-2.0)}, objective={"soft": KDLoss()},
        task=Classification(3),
        ensemble=LearnedWeights(), **settings,
    ), (nn.functional.one_hot(labels, 3).float(), labels)  # fmt: skip


def test_learned_weights_favor_the_accurate_teacher():
    distiller, batch = distiller_with_learned_weights()
    distiller.prepare(batch)
    assert distiller.ensemble.weights() == [0.5, 0.5]
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1.0)
    for _ in range(30):
        optimizer.zero_grad()
        distiller(batch).total.backward()
        optimizer.step()
    assert distiller.ensemble.weights()[0] > 0.9


def test_learned_weights_get_no_gradient_of_the_students_loss():
    distiller, batch = distiller_with_learned_weights()
    distiller.prepare(batch)
    loss = distiller(batch)
    loss.total.backward()
    scores = distiller.ensemble.scores
    # The score of a linear pool by hand: the mean of p_k − (1/2) over w·p, d/ds softmax at equal weights.
    p = np.array([np.exp(2) / (np.exp(2) + 2), np.exp(-2) / (np.exp(-2) + 2)])
    assert float(loss.by_loss["ensemble"]) == pytest.approx(-np.log(p.mean()), rel=1e-6)
    expected = -0.5 * (p / p.mean() - 1)
    np.testing.assert_allclose(scores.grad.numpy(), expected, rtol=1e-5)
    with torch.no_grad():
        student = distiller.student.weight.grad.clone()
    other = limbeck.Distiller(
        distiller.student, {"right": FixedLogits(2.0), "wrong": FixedLogits(-2.0)}, objective={"soft": KDLoss()},
        task=Classification(3), ensemble="mean_probabilities",
    )  # fmt: skip
    distiller.student.zero_grad()
    other(batch).total.backward()
    torch.testing.assert_close(distiller.student.weight.grad, student)


def test_learned_weights_stand_once_among_the_parameters_and_in_the_state():
    distiller, batch = distiller_with_learned_weights()
    distiller.prepare(batch)
    assert [name for name, _ in distiller.named_parameters() if "student" not in name] == [
        "objective.trainable.ensemble.scores"
    ]
    assert [name for name in distiller.state_dict() if "student" not in name] == ["objective.trainable.ensemble.scores"]


def test_one_teacher_leaves_nothing_to_learn():
    distiller = limbeck.Distiller(
        nn.Linear(3, 3),
        FixedLogits(1.0),
        objective={"soft": KDLoss()},
        task=Classification(3),
        ensemble=LearnedWeights(),
    )
    assert list(distiller.objective.losses) == ["soft"]


def test_without_labels_learned_weights_stay_where_they_are():
    distiller, (inputs, labels) = distiller_with_learned_weights()
    distiller.prepare((inputs, labels))
    loss = distiller((inputs, torch.full_like(labels, -100)))
    loss.total.backward()
    assert float(loss.by_loss["ensemble"]) == 0.0
    assert distiller.ensemble.scores.grad.tolist() == [0.0, 0.0]


def test_learned_weights_get_a_finite_gradient_where_teachers_are_absent():
    ensemble, logits = LearnedWeights(), np.random.default_rng(0).normal(size=(2, 3, 3))
    present = np.array([[True, False, False], [True, True, False]])
    context = LossContext(
        student=Outputs(logits=torch.zeros(3, 3)),
        teachers=make_outputs(logits, present),
        target=torch.tensor([0, 1, 2]),
    )
    ensemble.prepare(context)
    loss = ensemble(context)
    loss.backward()
    # Rows of one teacher and rows of none do not change the weights.
    p = softmax(logits)[:, 0, 0]
    assert loss.item() == pytest.approx(-(np.log(p.mean()) + np.log(softmax(logits)[1, 1, 1])) / 2, rel=1e-6)
    np.testing.assert_allclose(ensemble.scores.grad.numpy(), -0.25 * (p / p.mean() - 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeanLogits({"a": 0.0}), "the weight of teacher 'a' must be above 0, got 0.0; remove the teacher"),
        (lambda: MeanProbabilities(temperature=0.0), "temperature must be above 0, got 0.0"),
        (lambda: ConfidenceWeighted("luck"), "criterion must be entropy, inverse_entropy or cross_entropy, got"),
        (lambda: combine_teachers(make_outputs(np.zeros((2, 1, 2))), ensemble=MeanLogits({"x": 1.0})),
         "a weight for 'x', which is no teacher"),
        (lambda: combine_teachers(make_outputs(np.zeros((2, 1, 2))), ensemble=ConfidenceWeighted("cross_entropy")),
         "the batch has none"),
        (lambda: combine_teachers({}, ensemble=MeanLogits), "an object such as MeanProbabilities\\(\\), got <class"),
        (lambda: distiller_with_learned_weights(weights={"soft": 1.0})[0] and limbeck.Distiller(
            nn.Linear(3, 3), [FixedLogits(1.0), FixedLogits(2.0)], objective={"ensemble": CrossEntropyLoss()},
            task=Classification(3), ensemble=LearnedWeights()), "a loss named 'ensemble': rename the other loss"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(make, message):
    with pytest.raises(LimbeckError, match=message):
        make()


@FEW
@SIZES
def test_inverse_entropies_weigh_each_row_as_in_numpy(seed, teachers, rows, classes):
    logits, present, _ = draw_logits(seed, teachers, rows, classes)
    combined = combine_teachers(make_outputs(logits, present), ensemble=ConfidenceWeighted("inverse_entropy"))
    p = softmax(logits)
    confidence = present / -(p * np.log(p)).sum(axis=2)
    expected = ((confidence / confidence.sum(axis=0))[..., None] * p).sum(axis=0)
    np.testing.assert_allclose(combined.require_logits().softmax(1).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("ensemble", [
    MeanLogits(), MeanProbabilities(), ConfidenceWeighted("entropy"), ConfidenceWeighted("inverse_entropy"),
    ConfidenceWeighted("cross_entropy"),
])  # fmt: skip
def test_maps_of_teachers_of_unlike_architecture_are_combined_pixel_by_pixel(ensemble):
    """Rows (labeled pixels of the grid) and spatial logits (the whole grid) of an ensemble are those of NumPy."""
    torch.manual_seed(0)
    networks = {
        "fine": nn.Conv2d(3, 4, 3, padding=1), "coarse": nn.Conv2d(3, 4, 3, stride=2), "patches": nn.Conv2d(3, 4, 4, 4)
    }  # fmt: skip
    task = Segmentation(4, stride=2)
    batch = {"input": 3 * torch.randn(2, 3, 8, 12), "target": torch.randint(0, 4, (2, 8, 12))}
    batch["target"][:, :3] = 255
    distiller = limbeck.Distiller(nn.Conv2d(3, 4, 1), networks, objective=KDLoss(), ensemble=ensemble, task=task)
    context = distiller.forward_context(batch)
    with torch.no_grad():
        maps = [
            torch.nn.functional.interpolate(n(batch["input"]), size=(8, 12), mode="bilinear")[..., ::2, ::2]
            for n in networks.values()
        ]
    z = torch.stack(maps).double().numpy()  # [teachers, batch, classes, rows, columns]
    p, mask = softmax(z, axis=2), batch["target"][:, ::2, ::2].numpy()
    if isinstance(ensemble, MeanLogits):
        expected = softmax(z.mean(axis=0), axis=1)
    else:
        entropy, has_class = -(p * np.log(p)).sum(axis=2), mask < 4
        target = np.where(has_class, mask, 0)
        loss = -np.log(np.take_along_axis(p, np.broadcast_to(target[None, :, None], (3, 2, 1, 4, 6)), axis=2)[:, :, 0])
        uncertainty = np.where(has_class, loss, 0) if "cross" in repr(ensemble) else entropy
        weights = np.full((3, *mask.shape), 1 / 3)
        if isinstance(ensemble, ConfidenceWeighted):
            weights = (1 - softmax(uncertainty, axis=0)) / 2
        if ensemble == ConfidenceWeighted("inverse_entropy"):
            weights = (1 / entropy) / (1 / entropy).sum(axis=0)
        expected = (weights[:, :, None] * p).sum(axis=0)
    np.testing.assert_allclose(context.teacher.spatial_logits.softmax(1).numpy(), expected, rtol=1e-4, atol=1e-6)
    labeled = np.moveaxis(expected, 1, -1)[mask < 4]
    np.testing.assert_allclose(context.teacher.require_logits().softmax(1).numpy(), labeled, rtol=1e-4, atol=1e-6)
    assert context.sample_target("mask").tolist() == np.where(mask < 4, mask, -100).tolist()
