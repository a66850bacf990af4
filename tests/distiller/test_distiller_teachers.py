"""A teacher inside a Distiller never learns, never changes mode, and is never mistaken for a part of the student."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import limbeck
from limbeck.core.errors import LimbeckError
from limbeck.core.outputs import Outputs
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.tasks import Classification
from limbeck.teachers import FrozenTeacher, Teacher

TASK = Classification(3)
BATCH = (torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)
SOFT = {"kd": KDLoss()}


def net(width=5):
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 3))


def distiller(teachers, student=None, **settings):
    return limbeck.Distiller(student or net(), teachers, objective=SOFT, task=TASK, **settings)


def test_a_teacher_is_in_no_listing_of_the_distillers_parts():
    teacher = net(7)
    made = distiller(teacher)
    own = {id(tensor) for tensor in (*teacher.parameters(), *teacher.buffers(), *teacher.modules())}
    assert not own & {id(part) for part in (*made.parameters(), *made.buffers(), *made.modules(), *made.children())}
    student = {f"student.{name}" for name in made.student.state_dict()}
    assert set(made.state_dict()) == student
    assert {name for name, _ in made.named_parameters()} == {f"student.{n}" for n, _ in made.student.named_parameters()}
    assert not any("teacher" in name for name, _ in made.named_modules())


def test_a_state_goes_into_another_distiller_with_another_teacher():
    made, other = distiller(net(7)), distiller(net(9))
    other.load_state_dict(made.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), other.parameters(), strict=True))


def test_a_teacher_gets_no_gradient():
    teacher = net(7)
    made = distiller(teacher).train()
    made(BATCH).total.backward()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(p.grad is not None for p in made.student.parameters())


def test_a_teacher_stays_in_eval_mode_and_the_student_does_not():
    teacher = net(7).train()
    made = distiller(teacher)
    for turn in (made.train, made.eval, made.train):
        turn()
        made(BATCH)
        assert not any(module.training for module in teacher.modules())
    assert all(module.training for module in made.student.modules())


def test_a_teacher_in_train_mode_is_run_in_eval_mode():
    teacher = net(7)
    made = distiller(teacher)
    expected = teacher(BATCH[0]).detach()
    teacher.train()
    torch.testing.assert_close(made.forward_context(BATCH).teacher.require_logits(), expected)


def test_training_does_not_move_the_teachers_statistics():
    teacher = net(7)
    before = copy.deepcopy(teacher.state_dict())
    made = distiller(teacher).train()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        made(BATCH).total.backward()
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert made.student[1].num_batches_tracked == 3


@pytest.mark.parametrize(("move", "dtype"), [("double", torch.float64), ("bfloat16", torch.bfloat16)])
def test_a_teacher_follows_to_another_precision(move, dtype):
    teacher = net(7)
    made = getattr(distiller(teacher), move)()
    assert {p.dtype for p in teacher.parameters()} == {dtype}
    assert made((BATCH[0].to(dtype), BATCH[1])).total.dtype == (dtype if dtype.itemsize > 4 else torch.float32)


def test_a_teacher_follows_to_another_device_also_inside_a_larger_module():
    teacher = net(7)
    nn.ModuleDict({"inside": distiller(teacher)}).to("meta")
    assert all(tensor.is_meta for tensor in (*teacher.parameters(), *teacher.buffers()))


def test_one_module_a_list_and_names_are_all_teachers():
    one, two = net(6), net(7)
    for teachers, names in (
        (one, ["teacher"]),
        ([one, two], ["teacher0", "teacher1"]),
        ((one, two), ["teacher0", "teacher1"]),
        (nn.ModuleList([one, two]), ["teacher0", "teacher1"]),
        ({"big": one, "small": two}, ["big", "small"]),
    ):
        context = distiller(teachers).forward_context(BATCH)
        assert list(context.teachers) == names
        expected = torch.stack([net(BATCH[0]) for net in (one, two)[: len(names)]]).mean(0)
        torch.testing.assert_close(context.teacher.require_logits(), expected.detach())


def test_a_student_on_its_own_needs_no_teacher():
    made = limbeck.Distiller(net(), objective={"target": CrossEntropyLoss()}, task=TASK)
    made(BATCH).total.backward()
    assert made.forward_context(BATCH).teacher is None


@pytest.mark.parametrize("combination", ["mean_logits", "mean_probabilities"])
def test_several_teachers_are_ensembled_as_configured(combination):
    one, two = net(6), net(7)
    logits = distiller([one, two], ensemble=combination).forward_context(BATCH).teacher.require_logits()
    a, b = one(BATCH[0]).detach(), two(BATCH[0]).detach()
    expected = (a + b) / 2 if combination == "mean_logits" else ((a.softmax(1) + b.softmax(1)) / 2).log()
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("teachers", [net(7), [net(7), net(8)]])
def test_a_misspelt_combination_is_refused_also_with_one_teacher(teachers):
    with pytest.raises(
        LimbeckError, match=r"ensemble must be mean_logits, mean_probabilities or an object .*, got 'mean'"
    ):
        distiller(teachers, ensemble="mean")(BATCH)


def parts():
    """Pairs of a student and a teacher that have one part in common."""
    layer, norm, dropout = nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False), nn.Dropout()
    student = net()
    return {
        "itself": (student, student),
        "itself in a wrapper": (student, nn.DataParallel(student)),
        "a layer": (nn.Sequential(layer), nn.Sequential(layer, nn.Tanh())),
        "statistics": (nn.Sequential(nn.Linear(4, 3), norm), nn.Sequential(nn.Linear(4, 3), norm)),
        "a dropout": (nn.Sequential(nn.Linear(4, 3), dropout), nn.Sequential(nn.Linear(4, 3), dropout)),
        "a frozen one": (student, FrozenTeacher(student)),
    }


@pytest.mark.parametrize("which", parts())
def test_a_teacher_that_shares_a_part_with_the_student_is_refused(which):
    student, teacher = parts()[which]
    with pytest.raises(LimbeckError, match=r"'teacher' shares \w+ with the student.*give copy.deepcopy\(teacher\)"):
        distiller(teacher, student)


@pytest.mark.parametrize("teacher", ["resnet50", net, nn.Linear])
def test_what_is_no_network_is_refused_by_name(teacher):
    with pytest.raises(LimbeckError, match=r"the teacher 'big' must be an nn.Module or inherit from .*Teacher, got "):
        distiller({"big": teacher})


def test_no_teacher_is_called_student():
    with pytest.raises(LimbeckError, match="cannot be named 'student'"):
        distiller({"student": net(7)})


class StoredTeacher(Teacher):
    """A teacher without a network: a cache, a server."""

    def __init__(self, logits):
        self.logits = logits

    def predict(self, batch, task):
        return Outputs(logits=self.logits)


def test_any_object_with_the_teacher_protocol_is_accepted():
    source = StoredTeacher(torch.ones(8, 3))
    assert torch.equal(distiller({"stored": source}).forward_context(BATCH).teacher.require_logits(), torch.ones(8, 3))
    with pytest.raises(LimbeckError, match="has no layers to read features from"):
        distiller({"stored": source}, feature_layers={"stored": {"mid": "0"}})
