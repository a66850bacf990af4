"""Means are defined for an empty batch, half precision is upcast, and errors list the nearest names."""

from __future__ import annotations

import pytest
import torch

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.losses._ops import mean_squared_error, require_same_shape, row_mean, upcast


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype):
    assert upcast(torch.ones(1, dtype=dtype)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_full_and_double_precision_stay_the_same_tensor(dtype):
    tensor = torch.ones(1, dtype=dtype)
    assert upcast(tensor) is tensor


def test_the_mean_of_no_rows_is_zero_with_a_gradient_of_zero():
    weight = torch.ones(1, requires_grad=True)
    value = row_mean(torch.zeros(0) * weight)
    value.backward()
    assert float(value.detach()) == float(weight.grad) == 0.0


def test_the_mean_square_of_nothing_is_zero_with_a_gradient_of_zero():
    weight = torch.ones(1, requires_grad=True)
    value = mean_squared_error(torch.zeros(0, 3) * weight, torch.zeros(0, 3))
    value.backward()
    assert float(value.detach()) == float(weight.grad) == 0.0


def test_unequal_shapes_are_refused_with_both():
    with pytest.raises(LimbeckError, match=r"the student's maps have the shape \[1\] and the teacher's \[2\]: pool"):
        require_same_shape(torch.zeros(1), torch.zeros(2), name="maps", hint="pool them")


def test_the_nearest_name_comes_first():
    assert suggest_names("kdd", ["target", "kd"]) == "kd"


def test_without_a_near_name_up_to_twelve_are_listed():
    assert suggest_names("zzz", [f"layer{i}" for i in range(20)]) == ", ".join(f"layer{i}" for i in range(12))
    assert suggest_names("zzz", []) == "none"
