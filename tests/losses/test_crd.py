"""crd_loss is noise-contrastive estimation; CRDLoss keeps memory banks by sample index."""

from __future__ import annotations

import io
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import CRDLoss, crd_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))
LEARNED = {"zero at agreement"}  # noise-contrastive: the same features still cost what the embeddings cannot tell


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def paper(student, teacher, students, teachers, others, tau):
    """Section 3 of the paper with the code's normaliser, pair by pair; M samples in all, whatever M is."""
    total, m = 0.0, 1000.0
    for anchors, partners, bank in ((student, teacher, teachers), (teacher, student, students)):
        ratios = np.exp(anchors @ bank.T / tau)
        if not others.any():
            continue
        z = m * ratios[others].mean()
        costs = []
        for i, anchor in enumerate(anchors):
            k = others[i].sum()
            noise = k / m
            own = np.exp(anchor @ partners[i] / tau) / z
            cost = -np.log(own / (own + noise)) if k else 0.0
            for j in np.flatnonzero(others[i]):
                cost -= np.log(noise / (ratios[i, j] / z + noise))
            costs.append(cost)
        total += np.mean(costs)
    return float(total)


def build_context(student, teacher, index, target=None, valid=None):
    return LossContext(
        student=Outputs(features={"mid": student}), teacher=Outputs(features={"mid": teacher}, valid=valid),
        sample_ids=torch.as_tensor(index), target=None if target is None else torch.as_tensor(target),
    )  # fmt: skip


def drawn(seed, index, target=None):
    draw = torch.Generator().manual_seed(seed)
    return build_context(
        torch.randn(len(index), 5, generator=draw), torch.randn(len(index), 7, generator=draw), index, target
    )


def prepared(context, **options):
    torch.manual_seed(0)
    loss_fn = CRDLoss("mid", **{"bank_size": 8, "embedding_dim": 4, **options})
    loss_fn.prepare(context)
    return loss_fn


@st.composite
def remembered(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, kept, width = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 6))
    student, teacher, students, teachers = (unit(random.normal(size=(n, width))) for n in (rows, rows, kept, kept))
    if draw(st.booleans()):
        teacher, teachers = student.copy(), students.copy()
    return student, teacher, students, teachers, random.random(size=(rows, kept)) < draw(st.sampled_from([0.5, 1.1]))


@pytest.mark.parametrize(("student", "teacher"), [((8, 4, 4), (6, 2, 2)), ((5,), (7,)), ((3, 5), (4, 7))])
def test_it_passes_every_check_but_zero_at_agreement(student, teacher):
    shapes = {"student_feature_shapes": {"mid": student}, "teacher_feature_shapes": {"mid": teacher}}

    def make(**options):
        return make_context(**shapes, **options)

    loss_fn = CRDLoss("mid", bank_size=16, embedding_dim=4)
    loss_fn.prepare(make())
    met = make(seed=9)
    loss_fn(replace(met, sample_ids=met.sample_ids + 100))  # negatives
    loss_fn.prepare = lambda build_context: None  # the check would shape it again, and forget them
    check_loss(loss_fn.eval(), context_factory=make, skip=LEARNED)


def test_the_value_computed_by_hand():
    # One row, east in both; one other, north in both: own logit 1, other 0, tau 1. E = 1, K = 1.
    # −log(e / (e + 1)) − log(1 / 2), both ways.
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    value = crd_loss(
        east, east, student_bank=north, teacher_bank=north, negative_mask=torch.tensor([[True]]), temperature=1.0
    )
    assert float(value) == pytest.approx(2 * (np.log(1 + np.exp(-1)) + np.log(2)), rel=1e-6)


@shared.FEW
@given(remembered(), st.sampled_from([0.07, 0.5, 1.0]))
def test_it_agrees_with_the_paper_in_numpy(arrays, tau):
    student, teacher, students, teachers, others = map(torch.tensor, arrays)
    value = crd_loss(
        student, teacher, student_bank=students, teacher_bank=teachers, negative_mask=others, temperature=tau
    )
    assert float(value) == pytest.approx(paper(*arrays, tau), rel=1e-6, abs=1e-12)


def test_half_precision_is_computed_in_float32():
    random = np.random.default_rng(0)
    for dtype in shared.HALVES:
        embedded = [torch.tensor(unit(random.normal(size=(n, 8)))).to(dtype) for n in (3, 3, 6, 6)]
        others = torch.ones(3, 6, dtype=torch.bool)
        value = crd_loss(*embedded[:2], student_bank=embedded[2], teacher_bank=embedded[3], negative_mask=others)
        assert value.dtype == torch.float32
        expected = paper(*(tensor.double().numpy() for tensor in embedded), others.numpy(), 0.07)
        assert float(value) == pytest.approx(expected, rel=1e-4)


def test_the_gradient_is_that_of_finite_differences_with_the_mean_held_still():
    student, teacher, students, teachers = (F.normalize(torch.randn(n, 3).double()) for n in (2, 2, 4, 4))
    others = torch.ones(2, 4, dtype=torch.bool)
    student.requires_grad_()
    crd_loss(
        student, teacher, student_bank=students, teacher_bank=teachers, negative_mask=others, temperature=0.5
    ).backward()
    still = [
        float((a @ bank.T / 0.5).exp().mean()) * 4 for a, bank in ((student.detach(), teachers), (teacher, students))
    ]

    def again(student):
        own, total = (student * teacher).sum(1) / 0.5, 0.0
        for logits, among in zip((student @ teachers.T, teacher @ students.T), still, strict=True):
            wrong = torch.log1p((logits / 0.5).exp() / among).sum(1)
            total = total + (torch.log1p(among * (-own).exp()) + wrong).mean()
        return total

    assert torch.autograd.gradcheck(again, student)
    (expected,) = torch.autograd.grad(again(student), student)
    torch.testing.assert_close(student.grad, expected)


class Book:
    """The banks in plain Python: embeddings by number, the oldest first."""

    def __init__(self, size):
        self.size, self.held = size, {}

    def remember(self, numbers, labels, students, teachers):
        fresh = {}
        for number in sorted(set(numbers)):
            indices = [i for i, each in enumerate(numbers) if each == number]
            now = [unit(rows[indices].sum(0, keepdims=True)) for rows in (students, teachers)]
            label = max(labels[i] for i in indices)
            if number in self.held:
                past = self.held[number][1:]
                moved = [unit(0.5 * old + 0.5 * new) for old, new in zip(past, now, strict=True)]
                self.held[number] = (label, *moved)
            else:
                fresh[number] = (label, *now)
        for number, held in fresh.items():
            if len(self.held) == self.size:
                del self.held[next(iter(self.held))]
            self.held[number] = held


def test_the_class_agrees_with_numpy_over_batches_that_repeat_duplicate_and_overflow():
    batches = [[3, 4, 5], [4, 6, 6], [7, 8, 9], [3, 11, 4], [12, 13, 13]]
    contexts = [drawn(seed, index, target=[number % 3 for number in index]) for seed, index in enumerate(batches)]
    contexts = [
        build_context(s.student.feature("mid").double(), s.teacher.feature("mid").double(), s.sample_ids,
        s.target) for s in contexts
    ]  # fmt: skip
    loss_fn, book = prepared(contexts[0], bank_size=7), Book(7)
    weights = {name: parameter.detach().numpy() for name, parameter in loss_fn.embed.named_parameters()}
    for one in contexts:
        student, teacher = (
            unit(outputs.feature("mid").numpy() @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])
            for name, outputs in (("student", one.student), ("teacher", one.teacher))
        )
        book.remember(one.sample_ids.tolist(), one.target.tolist(), student, teacher)
        others = np.array(
            [
                [n != number and label != target for n, (label, *_) in book.held.items()]
                for number, target in zip(one.sample_ids.tolist(), one.target.tolist(), strict=True)
            ]
        )
        students, teachers = (np.concatenate([held[i] for held in book.held.values()]) for i in (1, 2))
        expected = paper(student, teacher, students, teachers, others, 0.07)
        assert float(loss_fn(one).detach()) == pytest.approx(expected, rel=1e-6)
        assert sorted(loss_fn.sample_ids[loss_fn.sample_ids >= 0].tolist()) == sorted(book.held)


def test_negatives_exclude_the_same_sample_and_class():
    context = drawn(0, [1, 2, 3], target=[5, 5, 5])
    assert float(prepared(context)(context).detach()) == 0.0
    same_sample = drawn(0, [1, 1, 1])
    assert float(prepared(same_sample)(same_sample).detach()) == 0.0
    assert float(prepared(context)(replace(context, target=None)).detach()) > 0.0


def test_resuming_from_a_saved_state_ends_with_the_same_bits():
    contexts = [drawn(seed, [seed, seed + 1, 2 * seed + 3]) for seed in range(4)]
    loss_fn = prepared(contexts[0])
    for one in contexts[:2]:
        loss_fn(one)
    file = io.BytesIO()
    torch.save(loss_fn.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    again = CRDLoss("mid", bank_size=8, embedding_dim=4)
    again.prepare(contexts[0])
    again.load_state_dict(torch.load(file, weights_only=True))
    for one in contexts[2:]:
        assert torch.equal(loss_fn(one), again(one))
    assert all(
        torch.equal(first_part, second_part)
        for first_part, second_part in zip(loss_fn.buffers(), again.buffers(), strict=True)
    )


def test_two_steps_forward_before_one_backward_are_allowed():
    first, second = drawn(0, [1, 2, 3]), drawn(1, [1, 4, 5])
    loss_fn = prepared(first)
    (loss_fn(first) + loss_fn(second)).backward()
    assert all(bool(parameter.grad.any()) for parameter in loss_fn.parameters())


def test_the_banks_are_unchanged_in_eval_mode():
    context = drawn(0, [1, 2, 3])
    loss_fn = prepared(context)
    loss_fn(context)
    before = [buffer.clone() for buffer in loss_fn.buffers()]
    assert torch.equal(loss_fn.eval()(context), loss_fn(drawn(0, [1, 2, 3])))
    loss_fn(drawn(1, [7, 8, 9]))
    assert all(torch.equal(old, new) for old, new in zip(before, loss_fn.buffers(), strict=True))


def test_several_processes_remember_the_samples_of_all(monkeypatch):
    module = sys.modules[CRDLoss.__module__]
    first_part, second_part = drawn(0, [1, 2]), drawn(1, [3, 4])
    whole = LossContext(
        student=Outputs(
            features={"mid": torch.cat([first_part.student.feature("mid"), second_part.student.feature("mid")])}
        ),
        teacher=Outputs(
            features={"mid": torch.cat([first_part.teacher.feature("mid"), second_part.teacher.feature("mid")])}
        ),
        sample_ids=torch.tensor([1, 2, 3, 4]),
    )
    single = prepared(first_part)
    single(whole)
    shares = []  # what each of two processes hands in, in the order of the calls
    for context in (first_part, second_part):
        loss_fn, handed = prepared(first_part), []
        with monkeypatch.context() as patch:
            patch.setattr(module, "all_gather", lambda tensor, kept=handed: kept.append(tensor) or tensor)
            loss_fn(context)
        shares.append(handed)
    together = prepared(first_part)
    gathered = iter([torch.cat(pair) for pair in zip(*shares, strict=True)])
    monkeypatch.setattr(module, "all_gather", lambda tensor: next(gathered))
    together(first_part)
    for one, other in zip(single.buffers(), together.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_samples_without_teacher_outputs_are_left_out():
    context = drawn(0, [1, 2, 3], target=[0, 1, 2])
    partial = replace(context, teacher=replace(context.teacher, valid=torch.tensor([True, False, True])))
    kept = torch.tensor([0, 2])
    few = build_context(context.student.feature("mid")[kept], context.teacher.feature("mid")[kept], [1, 3], [0, 2])
    torch.testing.assert_close(prepared(context)(partial), prepared(context)(few))
    no_samples = replace(context, teacher=replace(context.teacher, valid=torch.zeros(3, dtype=torch.bool)))
    loss_fn = prepared(context)
    value = loss_fn(no_samples)
    value.backward()
    assert value.item() == 0.0


def test_no_gradient_reaches_the_teachers_features_and_both_embeddings_get_one():
    context = make_context()
    loss_fn = prepared(context)
    loss_fn(context).backward()
    assert context.teacher.feature("mid").grad is None
    assert context.student.feature("mid").grad.any()
    assert all(bool(parameter.grad.any()) for parameter in loss_fn.parameters())


def test_what_does_not_fit_is_refused():
    context = drawn(0, [1, 2, 3])
    with pytest.raises(LimbeckError, match=r"call distiller.prepare\(batch\) before building the optimizer"):
        CRDLoss("mid")(context)
    with pytest.raises(LimbeckError, match="needs sample indices"):
        CRDLoss("mid").prepare(replace(context, sample_ids=None))
    with pytest.raises(LimbeckError, match="holds 2 samples, and this batch has 3: set bank_size"):
        prepared(context, bank_size=2)(context)
    with pytest.raises(LimbeckError, match=r"bank_size must be in \[2, inf\), got 1"):
        CRDLoss("mid", bank_size=1)
    with pytest.raises(LimbeckError, match=r"momentum must be in \[0, 1\), got 1"):
        CRDLoss("mid", momentum=1.0)
    ones = torch.ones(2, 3)
    with pytest.raises(LimbeckError, match=r"2 rows .*negative_mask \[2, 1\]"):
        crd_loss(ones, ones, student_bank=ones, teacher_bank=ones, negative_mask=torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(LimbeckError, match=r"embeddings have the shape \[2, 3\]"):
        crd_loss(
            ones,
            torch.ones(2, 4),
            student_bank=ones,
            teacher_bank=ones,
            negative_mask=torch.ones(2, 2, dtype=torch.bool),
        )


def test_it_describes_its_embeddings():
    text = str(prepared(drawn(0, [1, 2])))
    assert "layer='mid', bank_size=8, embedding_dim=4, temperature=0.07, momentum=0.5" in text
    assert "in_features=5, out_features=4" in text
