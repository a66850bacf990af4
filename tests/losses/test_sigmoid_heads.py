"""Losses of sigmoid heads: binary KL, and binary cross-entropy weighted by |p − q|^β; sums over classes."""

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

from limbeck import LimbeckError
from limbeck.losses import BinaryKDLoss, QualityFocalLoss, binary_kd_loss, kd_loss, quality_focal_loss
from limbeck.testing import check_loss

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def paper_kl(student, teacher, tau=1.0):
    p, q = sigmoid(teacher / tau), sigmoid(student / tau)
    return tau**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(axis=1).mean()


def paper_focal(student, teacher, beta=1.0, tau=1.0):
    p, q = sigmoid(teacher / tau), sigmoid(student / tau)
    entropy = -(p * np.log(q) + (1 - p) * np.log(1 - q))
    return tau**2 * (np.abs(p - q) ** beta * entropy).sum(axis=1).mean()


@pytest.mark.parametrize("loss", [BinaryKDLoss(temperature=2.0), QualityFocalLoss(), QualityFocalLoss(beta=2.0)])
def test_it_passes_every_check(loss):
    check_loss(loss)


@shared.FEW
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.sampled_from([1.0, 2.0, 3.0]))
def test_it_agrees_with_numpy(seed, rows, classes, tau):
    random = np.random.default_rng(seed)
    student, teacher = random.normal(size=(2, rows, classes)) * 3
    pair = torch.tensor(student), torch.tensor(teacher)
    shared.close(binary_kd_loss(*pair, temperature=tau), paper_kl(student, teacher, tau))
    for beta in (1.0, 2.0):
        shared.close(quality_focal_loss(*pair, beta=beta, temperature=tau), paper_focal(student, teacher, beta, tau))


def test_two_classes_of_a_softmax_are_one_sigmoid():
    student, teacher = torch.randn(5, 1).double(), torch.randn(5, 1).double()
    pair = (torch.cat([logits, torch.zeros(5, 1)], dim=1) for logits in (student, teacher))
    torch.testing.assert_close(binary_kd_loss(student, teacher, temperature=2.0), kd_loss(*pair, temperature=2.0))


def test_each_row_may_have_its_own_temperature():
    student, teacher = torch.randn(2, 3), torch.randn(2, 3)
    by_row = [binary_kd_loss(student[i : i + 1], teacher[i : i + 1], temperature=float(i + 1)) for i in range(2)]
    torch.testing.assert_close(
        binary_kd_loss(student, teacher, temperature=torch.tensor([1.0, 2.0])), torch.stack(by_row).mean()
    )


@pytest.mark.parametrize("function", [binary_kd_loss, quality_focal_loss, partial(quality_focal_loss, beta=2.0)])
def test_gradients_precisions_and_empty_rows(function):
    paper = paper_kl if function is binary_kd_loss else partial(paper_focal, **getattr(function, "keywords", {}))
    shared.check_half(function, paper, (4, 3), (4, 3))
    shared.check_gradient(function, (3, 2), (3, 2))
    student = torch.zeros(0, 3, requires_grad=True)
    value = function(student, torch.zeros(0, 3))
    value.backward()
    assert (value.item(), student.grad.shape) == (0.0, (0, 3))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(LimbeckError, match=r"beta must be in \[1, inf\), got 0.5"):
        QualityFocalLoss(beta=0.5)
    with pytest.raises(LimbeckError, match="both need the same rows with the same classes"):
        binary_kd_loss(torch.zeros(2, 3), torch.zeros(2, 4))
