"""logit_mse_loss is the mean over rows and classes of the squared difference of the logits."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given

from limbeck.core.errors import LimbeckError
from limbeck.losses import LogitMSELoss, kd_loss, logit_mse_loss
from limbeck.testing import check_loss

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_relations.py"))))


def test_it_passes_every_check_but_that_on_an_impossible_class():
    # −inf has no distance from −inf.
    check_loss(LogitMSELoss(), skip={"unchanged by an impossible class"})
    check_loss(LogitMSELoss(teacher="teacher"), skip={"unchanged by an impossible class"})


def test_the_value_computed_by_hand():
    # Differences 2, −1, 0, 3 over two rows of two classes: (4 + 1 + 0 + 9) / 4.
    assert float(logit_mse_loss(torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))) == 3.5


@shared.FEW
@given(shared.logits())
def test_it_agrees_with_numpy(pair):
    assert shared.value(logit_mse_loss, *pair) == pytest.approx(np.square(pair[0] - pair[1]).mean(), rel=1e-6)


def test_a_kd_of_a_high_temperature_tends_to_it_between_centred_logits():
    # Hinton et al., section 2.1: tau² KL → half the squared distance of centred logits over the classes.
    student, teacher = (z - z.mean(1, keepdim=True) for z in torch.randn(2, 3, 5).double())
    torch.testing.assert_close(
        kd_loss(student, teacher, temperature=1e4), logit_mse_loss(student, teacher) / 2, rtol=1e-3, atol=0
    )


def test_half_precision_is_computed_in_float32():
    for pair, (student, teacher) in shared.halves(5, 7):
        value = logit_mse_loss(*pair)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(np.square(student - teacher).mean(), rel=1e-5)


def test_extreme_logits_have_a_finite_value_and_gradient():
    assert shared.finite_at(logit_mse_loss)


def test_the_gradient_is_that_of_finite_differences():
    assert shared.right_gradient(logit_mse_loss, 3, 4)


def test_a_teacher_without_valid_samples_gives_zero():
    assert float(LogitMSELoss()(shared.context_without_valid_samples())) == 0.0


def test_networks_of_different_classes_are_refused_with_both_shapes():
    with pytest.raises(LimbeckError, match=r"\[2, 3\].*\[2, 4\].*same rows with the same classes"):
        logit_mse_loss(torch.zeros(2, 3), torch.zeros(2, 4))
