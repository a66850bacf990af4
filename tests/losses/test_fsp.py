"""fsp_loss compares products of the channels of two layers, over positions."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.losses import FSPLoss, fsp_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))


def matrix(first, last):
    """Between maps of which one is larger by whole steps, so that pooling is a mean over blocks."""
    if first.ndim == 2:
        return np.einsum("bi,bj->bij", first, last)
    smaller = tuple(map(min, first.shape[2:], last.shape[2:]))
    first, last = (pooled(features, smaller) for features in (first, last))
    rows = [features.reshape(*features.shape[:2], -1) for features in (first, last)]
    return np.einsum("bip,bjp->bij", *rows) / rows[0].shape[2]


def pooled(features, size):
    for axis, expected in enumerate(size, start=2):
        parts = np.split(features, expected, axis=axis)
        features = np.concatenate([part.mean(axis=axis, keepdims=True) for part in parts], axis=axis)
    return features


def paper(student, teacher):
    return float(np.square(matrix(*student) - matrix(*teacher)).mean())


@st.composite
def layers(draw):
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, early, late = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rank = draw(st.integers(0, 3))
    networks = []
    for _ in range(2):
        small = [draw(st.integers(1, 2)) for _ in range(rank)]
        large = [size * draw(st.integers(1, 2)) for size in small]
        scale = draw(st.sampled_from([0.0, 1.0, 1e4]))
        networks.append((scale * random.normal(size=(batch, early, *large)), random.normal(size=(batch, late, *small))))
    if draw(st.booleans()):
        networks[1] = networks[0]
    return networks


def torched(network):
    return tuple(torch.tensor(features) for features in network)


def build_context(student, teacher, valid=None):
    return LossContext(
        student=Outputs(features=dict(zip(("in", "out"), student, strict=True))),
        teacher=Outputs(features=dict(zip(("in", "out"), teacher, strict=True)), valid=valid),
    )


def prepared(context):
    torch.manual_seed(0)
    loss_fn = FSPLoss("in", "out")
    loss_fn.prepare(context)
    return loss_fn


@pytest.mark.parametrize(("first", "last"), [((4, 8, 8), (6, 4, 4)), ((4,), (6,)), ((5, 4), (5, 6))])
def test_it_passes_every_check_between_equal_channels(first, last):
    check_loss(
        FSPLoss("in", "out"), context_factory=partial(make_context, student_feature_shapes={"in": first, "out": last})
    )


def test_it_passes_every_check_but_zero_at_agreement_through_projections():
    # The projections take the student's widths, so a student that says what the teacher says does not fit them.
    make = partial(
        make_context,
        student_feature_shapes={"in": (4, 4, 4), "out": (5, 2, 2)},
        teacher_feature_shapes={"in": (3, 8, 8), "out": (6, 4, 4)},
    )
    check_loss(FSPLoss("in", "out", teacher="teacher"), context_factory=make, skip={"zero at agreement"})


def test_the_value_computed_by_hand():
    # Student: one channel (1, 2, 3, 6), pooled to (1.5, 4.5), and two, (2, 0) and (0, 2): 3/2 and 9/2.
    # Teacher, vectors: 1 and (2, 4): 2 and 4. Differences −1/2 and 1/2: 1/4.
    student = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]]), torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])
    teacher = torch.tensor([[1.0]]), torch.tensor([[2.0, 4.0]])
    assert float(fsp_loss(student, teacher)) == 0.25


@shared.FEW
@given(layers())
def test_it_agrees_with_the_paper_in_numpy(networks):
    student, teacher = networks
    value = fsp_loss(torched(student), torched(teacher))
    assert float(value) == pytest.approx(paper(student, teacher), rel=1e-6, abs=1e-12)


def test_the_class_agrees_with_numpy_through_its_projections():
    random = np.random.default_rng(0)
    student = random.normal(size=(2, 3, 4, 4)), random.normal(size=(2, 4, 2, 2))
    teacher = random.normal(size=(2, 5, 4, 4)), random.normal(size=(2, 4, 4, 4))
    context = build_context(torched(student), torched(teacher))
    loss_fn = prepared(context)
    weight, bias = (p.detach().numpy() for p in loss_fn.parameters())
    projected = np.einsum("oi,bihw->bohw", weight[:, :, 0, 0], student[0]) + bias[None, :, None, None]
    assert loss_fn(context).item() == pytest.approx(paper((projected, student[1]), teacher), rel=1e-6)


def test_the_class_reads_tokens_with_their_channels_last():
    draws = np.random.default_rng(0).normal(size=(4, 2, 6, 3))
    student, teacher = tuple(draws[:2]), tuple(draws[2:])
    context = build_context(torched(student), torched(teacher))
    first = ([x.transpose(0, 2, 1) for x in network] for network in (student, teacher))
    assert float(prepared(context)(context)) == pytest.approx(paper(*first), rel=1e-6)


def test_channels_last_memory_gives_the_same():
    student = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)
    teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    last = [tuple(t.to(memory_format=torch.channels_last) for t in network) for network in (student, teacher)]
    torch.testing.assert_close(fsp_loss(*last), fsp_loss(student, teacher))


def test_half_precision_is_computed_in_float32():
    for (first, last), arrays in shared.halves(3, 4, 5, scale=10.0):
        value = fsp_loss((first, last), (last, first))
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(paper(tuple(arrays), tuple(arrays[::-1])), rel=1e-4)


def test_the_gradient_is_that_of_finite_differences():
    first, last = (torch.randn(2, 3, size, dtype=torch.float64, requires_grad=True) for size in (4, 2))
    teacher = torch.randn(2, 3, 3).double(), torch.randn(2, 3, 3).double()
    assert torch.autograd.gradcheck(lambda one, other: fsp_loss((one, other), teacher), (first, last))


def test_equal_channels_need_no_projection():
    context = make_context(student_feature_shapes={"in": (3, 4, 4), "out": (5, 2, 2)})
    assert list(prepared(context).parameters()) == []


def test_a_teacher_without_valid_samples_gives_zero():
    networks = [(torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)) for _ in range(2)]
    context = build_context(*networks, valid=torch.tensor([False, False]))
    assert float(prepared(context)(context)) == 0.0


def test_an_unprepared_loss_names_the_call():
    with pytest.raises(LimbeckError, match=r"call distiller.prepare\(batch\) before building the optimizer"):
        FSPLoss("in", "out")(make_context())


def test_layers_that_do_not_fit_are_refused_with_their_shapes():
    maps, fewer = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4)
    with pytest.raises(LimbeckError, match=r"\[2, 3, 4, 4\] and \[2, 5, 4, 4\].*the class FSPLoss learns a projection"):
        fsp_loss((maps, maps), (fewer, maps))
    with pytest.raises(LimbeckError, match=r"\[2, 3, 4, 4\] and \[2, 3\]: use other layers"):
        fsp_loss((maps, maps[:, :, 0, 0]), (maps, maps))


def test_a_flow_repr_names_its_layer():
    assert str(FSPLoss("in", "out", teacher="big")) == "FSPLoss(first_layer='in', last_layer='out', teacher='big')"
