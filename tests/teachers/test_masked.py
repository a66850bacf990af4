"""A teacher without an answer for a sample drops out there: of the combination and of its own terms, and no more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.data import Digits
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.tasks import Classification
from limbeck.teachers import CachedTeacher, FrozenTeacher, MaskedTeacher, from_callable, load_sample_mask

TASK = Classification(3)
RANDOM = torch.Generator().manual_seed(0)
BATCH = {
    "input": torch.randn(4, 3, generator=RANDOM), "target": torch.tensor([0, 1, 2, -100]), "sample_id": torch.arange(4) + 5,
}  # fmt: skip


def net():
    return nn.Linear(3, 3)


def silent(rows):
    """A foreign teacher that has no answer for these rows."""

    def ask(inputs):
        said = inputs.clone() * 2
        said[list(rows)] = torch.nan
        return said

    return FrozenTeacher(from_callable(ask, allow_missing=True))


def listed(*numbers):
    mask = torch.zeros(9, dtype=torch.bool)
    mask[list(numbers)] = True
    return MaskedTeacher(FrozenTeacher(net()), sample_mask=mask)


def test_a_mask_goes_by_the_number_of_the_sample():
    assert listed(5, 8).predict(BATCH, TASK).valid.tolist() == [True, False, False, True]


def test_a_row_of_nan_is_no_answer():
    said = silent([1, 3]).predict(BATCH, TASK)
    assert said.valid.tolist() == [True, False, True, False]
    assert said.require_logits().isfinite().all()


def test_a_teacher_has_no_answer_to_samples_of_a_class_that_it_does_not_know():
    teacher = MaskedTeacher(FrozenTeacher(net()), unknown_classes=[1])
    assert teacher.predict(BATCH, TASK).valid.tolist() == [True, False, True, True]
    mixed = {**BATCH, "target": torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])}
    assert teacher.predict(mixed, TASK).valid.tolist() == [False, True, True, True]


def test_two_reasons_for_absence_add_up():
    samples = torch.ones(9, dtype=torch.bool)
    samples[5] = False
    said = MaskedTeacher(silent([3]), sample_mask=samples, unknown_classes=[1]).predict(BATCH, TASK)
    assert said.valid.tolist() == [False, False, True, False]


@pytest.mark.parametrize("combination", ["mean_logits", "mean_probabilities", limbeck.teachers.ConfidenceWeighted()])
def test_the_combination_leaves_a_row_to_those_who_answered_and_drops_a_row_that_nobody_did(combination):
    torch.manual_seed(0)
    one, two, student = net(), net(), net()
    first, second = (
        MaskedTeacher(FrozenTeacher(one), sample_mask=_mask(5, 6)),
        MaskedTeacher(FrozenTeacher(two), sample_mask=_mask(6, 7)),
    )
    made = limbeck.Distiller(
        student, {"one": first, "two": second}, task=TASK, ensemble=combination,
        objective={"truth": CrossEntropyLoss(), "soft": KDLoss(temperature=2.0), "own": KDLoss(temperature=2.0, teacher="one")},
    )  # fmt: skip
    exchange = made.forward_context(BATCH)
    heard, x = exchange.pair()[1].require_logits(), BATCH["input"]
    assert exchange.teacher.valid.tolist() == [True, True, True, False]
    torch.testing.assert_close(heard[0].softmax(0), one(x[0]).softmax(0))
    torch.testing.assert_close(heard[2].softmax(0), two(x[2]).softmax(0))
    # By hand: the mean over the three rows that somebody answered, and for the term's own teacher over its two.
    log_q = (student(x) / 2).log_softmax(1)
    kl = [_kl(heard[row] / 2, log_q[row]) for row in range(3)]
    parts = made(BATCH).by_loss
    torch.testing.assert_close(parts["soft"], 4 * torch.stack(kl).mean().detach())
    own = torch.stack([_kl(one(x[row]) / 2, log_q[row]) for row in (0, 1)])
    torch.testing.assert_close(parts["own"], 4 * own.mean().detach())
    # The truth counts its three labelled rows, whoever answered.
    truth = nn.functional.cross_entropy(student(x)[:3], BATCH["target"][:3])
    torch.testing.assert_close(parts["truth"], truth.detach())


def test_where_nobody_answers_a_batch_the_terms_on_teachers_cost_nothing_and_the_student_learns_the_truth():
    made = limbeck.Distiller(
        net(), {"one": listed(), "two": listed()}, task=TASK,
        objective={"truth": CrossEntropyLoss(), "soft": KDLoss()},
    )  # fmt: skip
    loss = made(BATCH)
    loss.total.backward()
    assert float(loss.by_loss["soft"]) == 0.0
    assert float(loss.by_loss["truth"]) > 0
    assert made.student.weight.grad.isfinite().all()


def test_an_absence_is_kept_in_a_cache(tmp_path):
    data, task = Digits(num_samples=32).load(), Classification(10)
    batch = data.batches(batch_size=16).batch(0)

    def ask(inputs):
        said = inputs.flatten(1)[:, :10].clone()
        said[::2] = torch.nan
        return said

    teacher = CachedTeacher(FrozenTeacher(from_callable(ask, allow_missing=True)), data, root=tmp_path)
    first, second = teacher.predict(batch, task), teacher.predict(batch, task)
    assert (teacher.misses, teacher.hits) == (16, 16)
    assert first.valid.tolist() == second.valid.tolist() == [False, True] * 8
    torch.testing.assert_close(first.require_logits(), second.require_logits())


def test_a_teacher_follows_with_its_taps_and_its_network_through_the_mask():
    teacher = listed(5)
    assert isinstance(teacher.network, nn.Linear)
    assert teacher.with_features({"all": ""}).predict(BATCH, TASK).feature("all").shape == (4, 3)
    limbeck.Distiller(net(), teacher, objective={"soft": KDLoss()}, task=TASK).to(torch.float64)
    assert teacher.network.weight.dtype == torch.float64


def test_a_mask_is_read_from_a_file(tmp_path):
    np.save(tmp_path / "mask.npy", np.array([True, False]))
    assert load_sample_mask(tmp_path / "mask.npy").tolist() == [True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: listed(5).predict({**BATCH, "sample_id": torch.arange(4) + 7}, TASK),
            "got 9 entries and sample_id 10",
        ),
        (lambda: listed(5).predict(BATCH["input"], TASK), "needs batches with 'sample_id'"),
        (lambda: load_sample_mask("nowhere.npy"), "nowhere.npy cannot be read as a mask"),
        (
            lambda: FrozenTeacher(from_callable(lambda x: x * torch.nan)).predict(BATCH, TASK),
            "returned NaN .* or set coverage: finite",
        ),
        (lambda: _half().predict(BATCH, TASK), "returned NaN or infinity"),
    ],
)
def test_a_mistake_is_one_sentence(make, message):
    with pytest.raises(LimbeckError, match=message):
        make()


def test_a_mask_of_numbers_is_refused(tmp_path):
    np.save(tmp_path / "mask.npy", np.arange(3))
    with pytest.raises(LimbeckError, match=r"must hold one boolean for each sample, got int64 \[3\]"):
        load_sample_mask(tmp_path / "mask.npy")


def _half():
    """A row that is NaN in part is a mistake, also of one that may leave samples out."""

    def ask(inputs):
        said = inputs.clone()
        said[0, 0] = torch.nan
        return said

    return FrozenTeacher(from_callable(ask, allow_missing=True))


def _mask(*numbers):
    mask = torch.zeros(9, dtype=torch.bool)
    mask[list(numbers)] = True
    return mask


def _kl(teacher, log_q):
    log_p = teacher.log_softmax(0)
    return (log_p.exp() * (log_p - log_q)).sum()
