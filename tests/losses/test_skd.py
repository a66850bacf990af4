"""skd_loss is the mean squared difference of the cosines of all pairs of nodes of an image."""

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
from limbeck.losses import SKDLoss, skd_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))


def nodes(maps, size):
    """The mean of each patch, those at the edges smaller, ``[batch, nodes, channels]``."""
    out = [
        maps[:, :, row : row + size, column : column + size].mean(axis=(2, 3))
        for row in range(0, maps.shape[2], size)
        for column in range(0, maps.shape[3], size)
    ]
    return np.stack(out, axis=1)


def cosines(vectors):
    out = np.zeros((len(vectors), len(vectors)))
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            norms = np.linalg.norm(a) * np.linalg.norm(b)
            out[i, j] = a @ b / norms if norms else 0.0
    return out


def paper(student, teacher, size=2):
    student, teacher = shared.matched(student, teacher)
    pairs = zip(nodes(student, size), nodes(teacher, size), strict=True)
    return np.mean([(cosines(s) - cosines(t)) ** 2 for s, t in pairs])


@pytest.mark.parametrize(("student", "teacher"), [((8, 4, 4), (8, 4, 4)), ((8, 4, 4), (6, 3, 2))])
def test_it_passes_every_check(student, teacher):
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(SKDLoss("mid"), context_factory=make)


def test_the_value_computed_by_hand():
    # Student nodes east and north: cosine 0. Teacher nodes equal: cosine 1. Two of four pairs differ by 1.
    student = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    assert float(skd_loss(student, torch.ones(1, 3, 1, 2), patch_size=1)) == pytest.approx(0.5)


@shared.FEW
@given(shared.features(same_channels=False, same_size=False), st.integers(1, 3))
def test_it_agrees_with_the_paper_in_numpy(pair, size):
    shared.close(skd_loss(*map(torch.tensor, pair), patch_size=size), paper(*pair, size))


def test_half_precision_is_computed_in_float32():
    shared.check_half(skd_loss, paper, (2, 3, 4, 4), (2, 5, 4, 4))


def test_the_gradient_is_that_of_finite_differences():
    shared.check_gradient(skd_loss, (2, 3, 4, 3), (2, 5, 2, 2))


def test_channels_last_memory_gives_the_same():
    shared.check_memory_order(skd_loss, (2, 3, 4, 4), (2, 3, 4, 4))


def test_an_empty_batch_and_zeros_give_zero_and_finite_gradients():
    for student in (torch.zeros(0, 3, 4, 4), torch.zeros(1, 3, 4, 4)):
        student.requires_grad_()
        value = skd_loss(student, torch.zeros(len(student), 5, 4, 4))
        value.backward()
        assert value.item() == 0.0
        assert student.grad is not None
        assert not student.grad.any()


def test_wrong_settings_and_shapes_are_refused():
    with pytest.raises(LimbeckError, match=r"patch_size must be in \[1, inf\), got 0"):
        SKDLoss("mid", patch_size=0)
    with pytest.raises(LimbeckError, match=r"the student's features have the shape \[2, 3\]: use a convolutional"):
        skd_loss(torch.zeros(2, 3), torch.zeros(2, 3, 4, 4))
