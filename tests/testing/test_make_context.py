"""make_context makes the same context from the same seed, of the given shapes."""

from __future__ import annotations

import pytest
import torch

from limbeck.core.progress import Progress
from limbeck.testing import make_context


def tensors(context):
    outputs = (context.student, *context.teachers.values())
    return [tensor for one in outputs for tensor in (one.require_logits(), *one.features.values())]


def test_the_same_seed_makes_the_same_context_whatever_happened_before():
    one = make_context(seed=3)
    torch.manual_seed(99)
    other = make_context(seed=3)
    assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
    assert torch.equal(one.require_target(), other.require_target())


def test_another_seed_makes_another_context():
    assert not torch.equal(make_context(seed=3).student.require_logits(), make_context(seed=4).student.require_logits())


def test_making_a_context_leaves_the_random_state_unchanged():
    before = torch.random.get_rng_state()
    make_context()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_its_shapes_and_types_are_the_arguments_and_all_require_gradients(dtype):
    context = make_context(
        rows=3,
        classes=7,
        student_feature_shapes={"a": (2, 4)},
        teacher_feature_shapes={"b": (5,)},
        teacher_names=("x", "y"),
        dtype=dtype,
    )
    assert [tuple(tensor.shape) for tensor in tensors(context)] == [(3, 7), (3, 2, 4)] + [(3, 7), (3, 5)] * 2
    assert all(tensor.dtype == dtype and tensor.requires_grad for tensor in tensors(context))
    assert context.require_target().shape == (3,)
    assert int(context.require_target().max()) < 7


def test_one_teacher_is_the_combination_and_several_are_their_mean():
    single = make_context()
    assert single.teacher is single.teachers["teacher"]
    several = make_context(teacher_names=("a", "b"))
    mean = (several.teachers["a"].require_logits() + several.teachers["b"].require_logits()) / 2
    torch.testing.assert_close(several.teacher.require_logits(), mean)


def test_no_teacher_is_no_combination():
    assert make_context(teacher_names=()).teacher is None


def test_scale_is_the_standard_deviation():
    assert make_context(rows=100, classes=100, scale=7.0).student.require_logits().std().item() == pytest.approx(
        7.0, rel=0.05
    )


def test_progress_is_the_requested_one():
    assert make_context(progress=Progress(step=3, steps=4)).progress.fraction == 0.75
