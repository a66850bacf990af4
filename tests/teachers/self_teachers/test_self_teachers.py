"""Teachers made of the student: its EMA, and its outputs of the previous epoch or batch."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.core.progress import Progress
from limbeck.losses import CrossEntropyLoss, FitNetLoss, KDLoss
from limbeck.teachers import EMATeacher, FrozenTeacher, PreviousBatchTeacher, PreviousEpochTeacher

TASK = limbeck.tasks.Classification(classes=3)


def network():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def batch(seed=0, rows=8):
    draw = torch.Generator().manual_seed(seed)
    return {
        "input": torch.randn(rows, 4, generator=draw), "target": torch.randint(3, (rows,), generator=draw),
        "sample_id": torch.arange(rows) + 100,
    }  # fmt: skip


def distiller(*teachers, **settings):
    terms = {"truth": CrossEntropyLoss(), "soft": KDLoss()}
    return limbeck.Distiller(network(), list(teachers), objective=terms, task=TASK, **settings)


def test_the_average_is_that_of_the_paper_with_batchnorm_statistics_copied():
    learner = distiller(EMATeacher(decay=0.8))
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.5)
    wanted = [p.detach().double().numpy().copy() for p in learner.student.parameters()]
    average = learner.teachers["teacher0"]
    for step in range(5):
        learner.progress = Progress(step=step, steps=5)
        own = [p.detach().double().numpy() for p in learner.student.parameters()]
        wanted = [0.8 * mean + 0.2 * now for mean, now in zip(wanted, own, strict=True)]
        statistics = [b.clone() for b in learner.student.buffers()]
        learner(batch(step)).total.backward()
        for result, expected in zip(average.network.parameters(), wanted, strict=True):
            np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(b, s) for b, s in zip(average.network.buffers(), statistics, strict=True))
        optimizer.step()
        optimizer.zero_grad()


def test_the_average_moves_once_a_step_however_many_batches_make_it():
    learner = distiller(EMATeacher(decay=0.5))
    learner.progress = Progress(step=3, steps=5)
    learner(batch())
    with torch.no_grad():
        learner.student[0].weight.add_(1.0)
    before = learner.teachers["teacher0"].network[0].weight.clone()
    learner(batch())
    assert torch.equal(learner.teachers["teacher0"].network[0].weight, before)
    learner.progress = Progress(step=4, steps=5)
    learner(batch())
    torch.testing.assert_close(learner.teachers["teacher0"].network[0].weight, before + 0.5)


def test_the_average_is_no_part_of_the_student_and_gets_no_gradient():
    learner = distiller(EMATeacher())
    own = sum(p.numel() for p in learner.student.parameters())
    assert sum(p.numel() for p in learner.parameters()) == own
    learner(batch()).total.backward()
    assert all(p.grad is None for p in learner.teachers["teacher0"].network.parameters())
    assert not learner.teachers["teacher0"].network.training


def test_nothing_moves_outside_of_training():
    learner = distiller(EMATeacher(decay=0.5), PreviousEpochTeacher(), PreviousBatchTeacher()).eval()
    before = copy.deepcopy([teacher.state_dict() for teacher in learner.teachers.values()])
    with torch.no_grad():
        learner.student[0].weight.add_(1.0)
        learner(batch())
    after = [teacher.state_dict() for teacher in learner.teachers.values()]
    assert str(before) == str(after)


def test_the_average_may_be_tapped_like_the_student():
    learner = limbeck.Distiller(
        network(), {"mean": EMATeacher()}, objective={"hint": FitNetLoss("mid")}, task=TASK,
        feature_layers={"student": {"mid": "0"}, "mean": {"mid": "0"}},
    ).prepare(batch())  # fmt: skip
    assert torch.isfinite(learner(batch()).total)


def test_each_distiller_has_its_own():
    shared = EMATeacher()
    one, other = distiller(shared), distiller(shared)
    assert one.teachers["teacher0"].network is not other.teachers["teacher0"].network


def test_a_network_as_teacher_is_not_changed_by_training_steps():
    learner = distiller(network())
    teacher = learner.teachers["teacher0"]
    assert isinstance(teacher, FrozenTeacher)
    weights = copy.deepcopy(teacher.network.state_dict())
    learner(batch()).total.backward()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in teacher.network.state_dict().items())
    assert teacher.state_dict() == {}


def test_previous_epoch_returns_the_last_logits_of_each_sample():
    learner = distiller(PreviousEpochTeacher())
    memory = learner.teachers["teacher0"]
    first = memory.predict(batch(), TASK)
    assert not first.valid.any()
    outputs = learner(batch()).logits
    assert torch.equal(memory.predict(batch(), TASK).require_logits(), outputs)
    again = learner(batch(1)).logits
    known = memory.predict({"sample_id": torch.tensor([105, 3, 100, 400])}, TASK)
    assert known.valid.tolist() == [True, False, True, False]
    assert torch.equal(known.require_logits()[[0, 2]], again[[5, 0]])


def test_the_target_is_read_before_it_is_written():
    learner = distiller(PreviousEpochTeacher())
    assert learner(batch()).by_loss["soft"].item() == 0.0
    before = learner(batch(1)).logits
    loss = learner(batch(2))
    log_p, log_q = ((z.double() / 4).log_softmax(1) for z in (before, loss.logits))
    wanted = 16 * (log_p.exp() * (log_p - log_q)).sum(1).mean()
    assert loss.by_loss["soft"].item() == pytest.approx(float(wanted), rel=1e-5)


def test_of_a_repeated_sample_in_a_batch_the_last_logits_are_stored():
    for memory in (PreviousEpochTeacher(), PreviousBatchTeacher()):
        rows = torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0]])
        memory.on_step_end({"sample_id": torch.tensor([7, 3, 7])}, Outputs(logits=rows))
        assert torch.equal(memory.predict({"sample_id": torch.tensor([3, 7])}, TASK).require_logits(), rows[1:])


def test_half_precision_halves_the_memory():
    memory = PreviousEpochTeacher(dtype="float16")
    rows = torch.randn(8, 3)
    memory.on_step_end(batch(), Outputs(logits=rows))
    assert memory.state_dict()["logits"].dtype == torch.float16
    assert torch.equal(memory.predict(batch(), TASK).require_logits(), rows.half().float())


def test_previous_batch_stores_one_batch_only():
    last = PreviousBatchTeacher()
    last.on_step_end(batch(rows=4), Outputs(logits=torch.randn(4, 3)))
    last.on_step_end({"sample_id": torch.tensor([1, 2])}, Outputs(logits=torch.randn(2, 3)))
    assert last.predict(batch(rows=4), TASK).valid.tolist() == [False] * 4


@pytest.mark.parametrize("kind", [PreviousEpochTeacher, PreviousBatchTeacher])
def test_stored_logits_are_restored_from_a_state_dict(kind):
    one, other = kind(), kind()
    other.load_state_dict(one.state_dict())
    assert not other.predict(batch(), TASK).valid.any()
    one.on_step_end(batch(), Outputs(logits=torch.randn(8, 3)))
    other.load_state_dict(one.state_dict())
    samples = {"sample_id": torch.tensor([103, 5, 107])}
    result, wanted = other.predict(samples, TASK), one.predict(samples, TASK)
    assert torch.equal(result.require_logits(), wanted.require_logits())
    assert torch.equal(result.valid, wanted.valid)


def test_mistakes_are_one_sentence():
    with pytest.raises(LimbeckError, match="decay must be at least 0 and below 1"):
        EMATeacher(decay=1.0)
    with pytest.raises(LimbeckError, match="has no student"):
        EMATeacher().predict(batch(), TASK)
    with pytest.raises(LimbeckError, match="parameters must be float32 for EMATeacher"):
        limbeck.Distiller(network().half(), EMATeacher(), objective={"soft": KDLoss()}, task=TASK)
    for kind in (PreviousEpochTeacher, PreviousBatchTeacher):
        with pytest.raises(LimbeckError, match="needs batches with `sample_id`"):
            kind().predict((torch.zeros(2, 4), torch.zeros(2)), TASK)
        with pytest.raises(LimbeckError, match="3 rows for 8 samples"):
            kind().on_step_end(batch(), Outputs(logits=torch.zeros(3, 3)))
        with pytest.raises(LimbeckError, match="set classes="):
            kind().predict(batch(), object())
    with pytest.raises(LimbeckError, match="float16 or float32"):
        PreviousEpochTeacher(dtype="int8")
