"""A sample that a teacher skips enters neither its losses nor its part of the ensemble."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.data import Digits
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.tasks import Classification
from limbeck.teachers import CachedTeacher, FrozenTeacher, MaskedTeacher, from_callable, load_sample_mask

TASK = Classification(3)
RANDOM = torch.Generator().manual_seed(0)
BATCH = {
    "input": torch.randn(4, 3, generator=RANDOM), "target": torch.tensor([0, 1, 2, -100]),
    "sample_id": torch.arange(4) + 5,
}  # fmt: skip


def net():
    return nn.Linear(3, 3)


def teacher_with_missing_rows(rows):
    """An external teacher without outputs for these rows."""

    def predict(inputs):
        outputs = inputs.clone() * 2
        outputs[list(rows)] = torch.nan
        return outputs

    return FrozenTeacher(from_callable(predict, allow_missing=True))


def masked_teacher(*numbers):
    mask = torch.zeros(9, dtype=torch.bool)
    mask[list(numbers)] = True
    return MaskedTeacher(FrozenTeacher(net()), sample_mask=mask)


def test_a_mask_goes_by_the_number_of_the_sample():
    assert masked_teacher(5, 8).predict(BATCH, TASK).valid.tolist() == [True, False, False, True]


def test_a_row_of_nan_is_not_valid():
    outputs = teacher_with_missing_rows([1, 3]).predict(BATCH, TASK)
    assert outputs.valid.tolist() == [True, False, True, False]
    assert outputs.require_logits().isfinite().all()


def test_samples_of_unknown_classes_are_not_valid():
    teacher = MaskedTeacher(FrozenTeacher(net()), unknown_classes=[1])
    assert teacher.predict(BATCH, TASK).valid.tolist() == [True, False, True, True]
    mixed = {**BATCH, "target": torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])}
    assert teacher.predict(mixed, TASK).valid.tolist() == [False, True, True, True]


def test_two_reasons_for_absence_add_up():
    samples = torch.ones(9, dtype=torch.bool)
    samples[5] = False
    outputs = MaskedTeacher(teacher_with_missing_rows([3]), sample_mask=samples, unknown_classes=[1]).predict(
        BATCH, TASK
    )
    assert outputs.valid.tolist() == [False, False, True, False]


@pytest.mark.parametrize("combination", ["mean_logits", "mean_probabilities", limbeck.teachers.ConfidenceWeighted()])
def test_the_ensemble_uses_the_valid_teachers_of_a_row_and_skips_rows_without_one(combination):
    torch.manual_seed(0)
    one, two, student = net(), net(), net()
    first, second = (
        MaskedTeacher(FrozenTeacher(one), sample_mask=_mask(5, 6)),
        MaskedTeacher(FrozenTeacher(two), sample_mask=_mask(6, 7)),
    )
    made = limbeck.Distiller(
        student, {"one": first, "two": second}, task=TASK, ensemble=combination,
        objective={"truth": CrossEntropyLoss(), "soft": KDLoss(temperature=2.0), "own": KDLoss(temperature=2.0,
        teacher="one")},
    )  # fmt: skip
    exchange = made.forward_context(BATCH)
    ensemble_logits, x = exchange.pair()[1].require_logits(), BATCH["input"]
    assert exchange.teacher.valid.tolist() == [True, True, True, False]
    torch.testing.assert_close(ensemble_logits[0].softmax(0), one(x[0]).softmax(0))
    torch.testing.assert_close(ensemble_logits[2].softmax(0), two(x[2]).softmax(0))
    # By hand: the mean over the three rows with an output, and over two for the loss of one teacher.
    log_q = (student(x) / 2).log_softmax(1)
    kl = [_kl(ensemble_logits[row] / 2, log_q[row]) for row in range(3)]
    parts = made(BATCH).by_loss
    torch.testing.assert_close(parts["soft"], 4 * torch.stack(kl).mean().detach())
    own = torch.stack([_kl(one(x[row]) / 2, log_q[row]) for row in (0, 1)])
    torch.testing.assert_close(parts["own"], 4 * own.mean().detach())
    # The cross-entropy counts its three labeled rows, whichever teacher is valid.
    expected_target_loss = nn.functional.cross_entropy(student(x)[:3], BATCH["target"][:3])
    torch.testing.assert_close(parts["truth"], expected_target_loss.detach())


def test_a_batch_without_valid_teachers_trains_on_the_target_only():
    made = limbeck.Distiller(
        net(), {"one": masked_teacher(), "two": masked_teacher()}, task=TASK,
        objective={"truth": CrossEntropyLoss(), "soft": KDLoss()},
    )  # fmt: skip
    loss = made(BATCH)
    loss.total.backward()
    assert float(loss.by_loss["soft"]) == 0.0
    assert float(loss.by_loss["truth"]) > 0
    assert made.student.weight.grad.isfinite().all()


def test_valid_is_cached(tmp_path):
    data, task = Digits(num_samples=32).load(), Classification(10)
    batch = data.batches(batch_size=16).batch(0)

    def predict(inputs):
        outputs = inputs.flatten(1)[:, :10].clone()
        outputs[::2] = torch.nan
        return outputs

    teacher = CachedTeacher(FrozenTeacher(from_callable(predict, allow_missing=True)), data, root=tmp_path)
    first, second = teacher.predict(batch, task), teacher.predict(batch, task)
    assert (teacher.misses, teacher.hits) == (16, 16)
    assert first.valid.tolist() == second.valid.tolist() == [False, True] * 8
    torch.testing.assert_close(first.require_logits(), second.require_logits())


def test_a_teacher_follows_with_its_taps_and_its_network_through_the_mask():
    teacher = masked_teacher(5)
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
            lambda: masked_teacher(5).predict({**BATCH, "sample_id": torch.arange(4) + 7}, TASK),
            "got 9 entries and sample_id 10",
        ),
        (lambda: masked_teacher(5).predict(BATCH["input"], TASK), "needs batches with 'sample_id'"),
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

    def predict(inputs):
        outputs = inputs.clone()
        outputs[0, 0] = torch.nan
        return outputs

    return FrozenTeacher(from_callable(predict, allow_missing=True))


def _mask(*numbers):
    mask = torch.zeros(9, dtype=torch.bool)
    mask[list(numbers)] = True
    return mask


def _kl(teacher, log_q):
    log_p = teacher.log_softmax(0)
    return (log_p.exp() * (log_p - log_q)).sum()


def test_a_sample_with_a_row_of_an_unknown_class_is_skipped():
    class Rows:
        def outputs(self, network, batch):
            return Outputs(logits=torch.zeros(4, 3), row_to_sample=torch.tensor([0, 0, 2, 2]))

        def target(self, batch):
            return torch.tensor([0, 1, 2, 0])

    teacher = MaskedTeacher(FrozenTeacher(nn.Linear(1, 1)), unknown_classes=(1,))
    assert teacher.predict({"sample_id": torch.arange(3)}, Rows()).valid.tolist() == [False, True, True]
