"""Gradients that are written out are those of autograd, and so are the second ones."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from limbeck.losses._autograd import adaptive_avg_pool, attention_map, attention_map_distance, gram_matrix


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def usual_map(features):
    return F.normalize(features.square().mean(dim=1).flatten(1), dim=1)


def same_gradients(ours, usual, *inputs):
    weights = torch.randn_like(usual(*inputs))
    torch.testing.assert_close(ours(*inputs), usual(*inputs))
    torch.testing.assert_close(
        *(torch.autograd.grad((loss(*inputs) * weights).sum(), inputs[0])[0] for loss in (ours, usual))
    )


@pytest.mark.parametrize("size", [(2, 3), (1, 3), (4, 2), (2, 6), (1, 1), (3, 4), (4, 6)])
def test_pooling_is_adaptive_average_pooling(size):
    features = numbers(2, 3, 4, 6)
    same_gradients(lambda f: adaptive_avg_pool(f, size), lambda f: F.adaptive_avg_pool2d(f, size), features)
    assert gradgradcheck(lambda f: adaptive_avg_pool(f, size).square(), features)


def test_maps_whose_channels_lie_last_in_memory_are_pooled_alike():
    features = torch.randn(2, 8, 4, 4)
    last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(adaptive_avg_pool(last, (2, 2)), F.adaptive_avg_pool2d(features, (2, 2)))


def test_no_sample_is_pooled_to_none():
    assert adaptive_avg_pool(torch.zeros(0, 3, 4, 4), (2, 2)).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_the_gradient_of_products_is_that_of_a_matrix_product(shape):
    rows = numbers(*shape)
    same_gradients(gram_matrix, lambda f: f @ f.mT, rows)
    assert gradgradcheck(gram_matrix, rows)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 5, 2, 3), (3, 1, 2, 2)])
def test_a_square_map_is_the_normalised_mean_of_squares(shape):
    features = numbers(*shape)
    same_gradients(attention_map, usual_map, features)
    assert gradcheck(attention_map, features)
    assert gradgradcheck(attention_map, features)


@pytest.mark.parametrize("channels", [64, 63])
def test_a_large_map_whose_channels_are_added_in_parts_is_the_same(channels):
    same_gradients(attention_map, usual_map, numbers(2, channels, 64, 64))


def test_the_distance_of_maps_is_their_mean_squared_difference_and_leaves_the_teacher_alone():
    student, teacher = numbers(2, 3, 2, 2), numbers(2, 5, 2, 2)
    same_gradients(
        attention_map_distance, lambda s, t: F.mse_loss(usual_map(s), usual_map(t.detach())), student, teacher
    )
    assert gradgradcheck(lambda s: attention_map_distance(s, teacher.detach()), student)
    attention_map_distance(student, teacher).backward()
    assert teacher.grad is None


def test_a_map_of_zeros_stays_so_without_a_gradient():
    features = torch.zeros(2, 3, 2, 2, requires_grad=True)
    (attention_map(features) + attention_map_distance(features, torch.ones(2, 3, 2, 2))).sum().backward()
    assert attention_map(features).eq(0).all()
    assert features.grad.eq(0).all()
