"""First and second derivatives of losses agree with finite differences."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from limbeck.losses import attention_transfer_loss, cc_loss, dist_loss, gram_loss, kd_loss, pkt_loss, sp_loss
from limbeck.losses._features import attention_map, match_size
from limbeck.losses.temperature import standardize_logits


def random_tensor(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_maps_whose_channels_lie_last_in_memory_are_pooled_alike():
    features, small = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 2, 2)
    channels_last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(match_size(channels_last, small)[0], F.adaptive_avg_pool2d(features, (2, 2)))


def test_an_empty_batch_is_pooled_to_an_empty_batch():
    assert match_size(torch.zeros(0, 3, 4, 4), torch.zeros(0, 3, 2, 2))[0].shape == (0, 3, 2, 2)


@pytest.mark.parametrize("loss", [cc_loss, gram_loss, pkt_loss, sp_loss])
def test_losses_on_products_have_the_right_derivatives(loss):
    student, teacher = random_tensor(3, 4, 2), random_tensor(3, 4, 2).detach()
    assert gradcheck(lambda s: loss(s, teacher), student)
    assert gradgradcheck(lambda s: loss(s, teacher), student)


@pytest.mark.parametrize("loss", [kd_loss, dist_loss])
def test_losses_on_logits_have_the_right_derivatives(loss):
    student, teacher = random_tensor(4, 5), random_tensor(4, 5).detach()
    assert gradcheck(lambda s: loss(s, teacher, temperature=2.0), student)
    assert gradgradcheck(lambda s: loss(s, teacher, temperature=2.0), student)


def test_standardized_logits_have_the_right_derivatives():
    logits = random_tensor(3, 4)
    assert gradcheck(standardize_logits, logits)
    assert gradgradcheck(standardize_logits, logits)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 5, 2, 3), (3, 1, 2, 2)])
def test_an_attention_map_is_the_normalized_mean_of_squares(shape):
    features = random_tensor(*shape)
    expected = F.normalize(features.square().mean(dim=1).flatten(1), dim=1)
    torch.testing.assert_close(attention_map(features), expected)
    assert gradcheck(attention_map, features)
    assert gradgradcheck(attention_map, features)


def test_attention_transfer_is_the_mean_squared_difference_of_maps_without_a_teacher_gradient():
    student, teacher = random_tensor(2, 3, 2, 2), random_tensor(2, 5, 2, 2)
    loss = attention_transfer_loss(student, teacher)
    torch.testing.assert_close(loss, F.mse_loss(attention_map(student), attention_map(teacher)))
    assert gradgradcheck(lambda s: attention_transfer_loss(s, teacher.detach()), student)
    loss.backward()
    assert teacher.grad is None


def test_a_map_of_zeros_stays_zero_without_a_gradient():
    features = torch.zeros(2, 3, 2, 2, requires_grad=True)
    loss = attention_map(features).sum() + attention_transfer_loss(features, torch.ones(2, 3, 2, 2))
    loss.backward()
    assert attention_map(features).eq(0).all()
    assert features.grad.eq(0).all()
