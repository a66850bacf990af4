"""Ensembles: the mean of logits or of probabilities over valid teachers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import CWDLoss
from limbeck.teachers import (
    ConfidenceWeighted,
    LearnedWeights,
    MeanLogits,
    MeanProbabilities,
    RandomTeacher,
    combine_teachers,
)

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)
HOW = pytest.mark.parametrize("how", ["mean_logits", "mean_probabilities"])


def softmax(z):
    z = np.exp(z - z.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


def expected_probabilities(rows, how):
    """``rows`` ``[teachers, classes]``: the distribution that the teachers have together on one row."""
    return softmax(rows.mean(axis=0)) if how == "mean_logits" else softmax(rows).mean(axis=0)


def make_outputs(**logits):
    return {name: Outputs(logits=torch.tensor(rows)) for name, rows in logits.items()}


@HOW
@FEW
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.integers(1, 5), st.integers(2, 6))
def test_an_ensemble_agrees_with_numpy_where_all_teachers_are_valid(how, seed, teachers, rows, classes):
    logits = np.random.default_rng(seed).normal(size=(teachers, rows, classes)) * 5
    combined = combine_teachers(
        {str(i): Outputs(logits=torch.tensor(one)) for i, one in enumerate(logits)}, ensemble=how
    ).require_logits()
    expected = np.stack([expected_probabilities(logits[:, row], how) for row in range(rows)])
    np.testing.assert_allclose(combined.softmax(1).numpy(), expected, rtol=1e-6)
    if how == "mean_logits":
        np.testing.assert_allclose(combined.numpy(), logits.mean(axis=0), rtol=1e-6, atol=1e-12)


@HOW
@FEW
@given(st.integers(0, 2**32 - 1))
def test_an_ensemble_agrees_with_numpy_over_the_valid_teachers(how, seed):
    random = np.random.default_rng(seed)
    logits, present = random.normal(size=(3, 6, 4)), random.random((3, 4)) < 0.6
    sample = np.array([0, 0, 1, 2, 3, 3])
    # Where a teacher is absent its rows hold rubbish, which must not leak.
    logits[~present[:, sample]] = random.choice([np.nan, np.inf, 1e30])
    teachers = {
        str(i): Outputs(
            logits=torch.tensor(logits[i]), valid=torch.tensor(present[i]), row_to_sample=torch.tensor(sample)
        )
        for i in range(3)
    }
    combined = combine_teachers(teachers, ensemble=how)
    assert combined.valid.tolist() == present.any(axis=0).tolist()
    answered = combined.masked_select(combined.valid).require_logits().softmax(1).numpy()
    here = [row for row in range(6) if present[:, sample[row]].any()]
    expected = [expected_probabilities(logits[present[:, sample[row]], row], how) for row in here]
    np.testing.assert_allclose(answered, np.reshape(expected, (-1, 4)), rtol=1e-6)


def test_the_two_means_worked_by_hand():
    # Probabilities (3/4, 1/4) and (1/2, 1/2): their mean is (5/8, 3/8), log-odds ln(5/3) = 0.510826; the mean of the
    # logits (ln 3, 0) and (0, 0) has the log-odds ln(3) / 2 = 0.549306.
    teachers = make_outputs(a=[[np.log(3.0), 0.0]], b=[[0.0, 0.0]])
    odds = {how: combine_teachers(teachers, ensemble=how).require_logits() @ torch.tensor([1.0,
        -1.0]).double() for how in
            ("mean_probabilities", "mean_logits")}  # fmt: skip
    assert float(odds["mean_probabilities"]) == pytest.approx(0.510826, abs=1e-6)
    assert float(odds["mean_logits"]) == pytest.approx(0.549306, abs=1e-6)


def test_a_teacher_without_a_mask_is_valid_for_all_samples():
    teachers = {
        "all": Outputs(logits=torch.tensor([[2.0, 0.0], [2.0, 0.0]])),
        "first": Outputs(logits=torch.tensor([[4.0, 0.0], [9.0, 9.0]]), valid=torch.tensor([True, False])),
    }
    combined = combine_teachers(teachers)
    assert combined.require_logits().tolist() == [[3.0, 0.0], [2.0, 0.0]]
    assert combined.valid is None


@HOW
def test_a_sample_without_a_valid_teacher_enters_no_loss(how):
    teachers = {
        name: Outputs(logits=torch.full((2, 3), torch.nan), valid=torch.tensor([False, False])) for name in "ab"
    }
    context = LossContext(student=Outputs(logits=torch.zeros(2, 3)), teacher=combine_teachers(teachers, ensemble=how))
    assert [outputs.require_logits().shape for outputs in context.pair()] == [(0, 3), (0, 3)]


@HOW
def test_an_impossible_class_of_one_teacher_poisons_nothing(how):
    combined = combine_teachers(
        make_outputs(a=[[0.0, 0.0, -np.inf]], b=[[0.0, 0.0, 0.0]]), ensemble=how
    ).require_logits()
    third = 0.0 if how == "mean_logits" else 1 / 6
    assert float(combined.softmax(1)[0, 2]) == pytest.approx(third)


@HOW
def test_half_precision_is_averaged_in_float32(how):
    rows = torch.tensor([[4.0, 0.0]], dtype=torch.float16)
    assert (
        combine_teachers({name: Outputs(logits=rows) for name in "abc"}, ensemble=how).require_logits().dtype
        == torch.float32
    )


def test_double_precision_is_averaged_to_its_last_digits():
    rows = torch.tensor([[1.0, 0.1]], dtype=torch.float64)
    combined = combine_teachers({name: Outputs(logits=rows) for name in "abc"}).require_logits()
    torch.testing.assert_close(combined, rows, rtol=1e-15, atol=0)


def test_the_ensemble_of_one_teacher_is_its_outputs_and_of_none_is_none():
    outputs = Outputs(logits=torch.zeros(1, 2), features={"mid": torch.zeros(1, 3)})
    assert combine_teachers({"single": outputs}) is outputs
    assert combine_teachers({}) is None


def test_teachers_without_logits_have_no_ensemble():
    assert (
        combine_teachers({"a": Outputs(logits=torch.zeros(1, 2)), "b": Outputs(features={"mid": torch.zeros(1)})})
        is None
    )


@pytest.mark.parametrize("teachers", [make_outputs(a=[[0.0]]), make_outputs(a=[[0.0]], b=[[0.0]])])
def test_an_unknown_way_to_combine_is_refused_whatever_the_number_of_teachers(teachers):
    with pytest.raises(
        LimbeckError, match=r"ensemble must be mean_logits, mean_probabilities or an object .*, got 'vote'"
    ):
        combine_teachers(teachers, ensemble="vote")


def test_teachers_of_different_classes_are_refused_with_their_shapes():
    with pytest.raises(LimbeckError, match=r"one shape, got \{'a': \[1, 2\], 'b': \[1, 3\]\}: set `teacher`"):
        combine_teachers(make_outputs(a=[[0.0, 0.0]], b=[[0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("other", [torch.tensor([1, 2]), None])
def test_rows_of_different_samples_are_not_averaged(other):
    teachers = {
        "a": Outputs(logits=torch.ones(2, 2), row_to_sample=torch.tensor([0, 1])),
        "b": Outputs(logits=torch.zeros(2, 2), row_to_sample=other),
    }
    with pytest.raises(LimbeckError, match="the same samples, and those of a, b do not"):
        combine_teachers(teachers)


METHODS = [
    "mean_logits", MeanLogits({"a": 3.0}), MeanProbabilities(temperature=2.0), ConfidenceWeighted(), RandomTeacher(),
    LearnedWeights(),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_spatial_logits_are_combined_position_by_position(method):
    maps = {name: torch.randn(2, 3, 4, 5) for name in "abc"}
    valid = torch.tensor([True, False])
    rows = {name: tensor.permute(0, 2, 3, 1).reshape(-1, 3) for name, tensor in maps.items()}
    sample = torch.arange(2).repeat_interleave(20)
    outputs = {
        name: Outputs(
            logits=rows[name], spatial_logits=maps[name], row_to_sample=sample, valid=valid if name == "a" else None
        )
        for name in maps
    }
    combined = combine_teachers(outputs, ensemble=method)
    expected = combined.require_logits().reshape(2, 4, 5, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(combined.spatial_logits, expected)


def test_spatial_logits_are_left_out_where_weights_need_a_target_or_shapes_differ():
    outputs = {name: Outputs(logits=torch.randn(2, 3), spatial_logits=torch.randn(2, 3, 4, 4)) for name in "ab"}
    method = ConfidenceWeighted(criterion="cross_entropy")
    assert combine_teachers(outputs, ensemble=method, target=torch.tensor([0, 1])).spatial_logits is None
    outputs["b"] = Outputs(logits=torch.randn(2, 3), spatial_logits=torch.randn(2, 3, 2, 2))
    combined = combine_teachers(outputs)
    assert combined.spatial_logits is None
    student = Outputs(logits=torch.randn(2, 3), spatial_logits=torch.randn(2, 3, 4, 4))
    with pytest.raises(LimbeckError, match=r"or the ensemble of its teachers, has none: .*CWDLoss\(teacher='big'\)"):
        CWDLoss()(LossContext(student=student, teachers=outputs, teacher=combined))


def test_tensors_by_row_are_averaged_with_the_weights_of_the_ensemble():
    valid = {"a": torch.tensor([True, True]), "b": torch.tensor([True, False])}
    outputs = {
        name: Outputs(
            logits=torch.randn(3, 2), by_row={"box": torch.full((3, 4), value), "label": torch.zeros(3).long()},
            row_to_sample=torch.tensor([0, 1, 1]), valid=valid[name],
        )
        for name, value in (("a", 1.0), ("b", 5.0))
    }  # fmt: skip
    combined = combine_teachers(outputs, ensemble=MeanLogits({"a": 3.0}))
    assert combined.by_row.keys() == {"box"}
    assert combined.by_row["box"][:, 0].tolist() == [2.0, 1.0, 1.0]
