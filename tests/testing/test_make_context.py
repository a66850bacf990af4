"""make_exchange makes the same exchange from the same seed, of the shapes that were asked for."""

from __future__ import annotations

import pytest
import torch

from limbeck.core.progress import Progress
from limbeck.testing import make_exchange


def tensors(said):
    outputs = (said.student, *said.teachers.values())
    return [tensor for one in outputs for tensor in (one.rows(), *one.taps.values())]


def test_the_same_seed_makes_the_same_exchange_whatever_happened_before():
    one = make_exchange(seed=3)
    torch.manual_seed(99)
    other = make_exchange(seed=3)
    assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
    assert torch.equal(one.truth(), other.truth())


def test_another_seed_makes_another_exchange():
    assert not torch.equal(make_exchange(seed=3).student.rows(), make_exchange(seed=4).student.rows())


def test_making_one_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    make_exchange()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_its_shapes_and_types_are_those_asked_for_and_all_ask_for_gradients(dtype):
    said = make_exchange(
        rows=3, classes=7, student_taps={"a": (2, 4)}, teacher_taps={"b": (5,)}, teachers=("x", "y"), dtype=dtype
    )
    assert [tuple(tensor.shape) for tensor in tensors(said)] == [(3, 7), (3, 2, 4)] + [(3, 7), (3, 5)] * 2
    assert all(tensor.dtype == dtype and tensor.requires_grad for tensor in tensors(said))
    assert said.truth().shape == (3,)
    assert int(said.truth().max()) < 7


def test_one_teacher_is_the_combination_and_several_are_their_mean():
    alone = make_exchange()
    assert alone.teacher is alone.teachers["teacher"]
    several = make_exchange(teachers=("a", "b"))
    mean = (several.teachers["a"].rows() + several.teachers["b"].rows()) / 2
    torch.testing.assert_close(several.teacher.rows(), mean)


def test_no_teacher_is_no_combination():
    assert make_exchange(teachers=()).teacher is None


def test_scale_is_the_standard_deviation():
    assert make_exchange(rows=100, classes=100, scale=7.0).student.rows().std().item() == pytest.approx(7.0, rel=0.05)


def test_training_stands_where_it_was_put():
    assert make_exchange(progress=Progress(step=3, steps=4)).progress.fraction == 0.75
