"""Shared by tests of losses on features: random features, layers in NumPy, and common checks."""

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)


def context(student, teacher, valid=None):
    return LossContext(
        student=Outputs(features={"mid": student}), teacher=Outputs(features={"mid": teacher}, valid=valid)
    )


def prepared(loss_fn, context):
    torch.manual_seed(0)
    loss_fn.prepare(context)
    return loss_fn


@st.composite
def features(draw, *, rank=4, same_channels=True, same_size=True):
    """A student's and a teacher's features: batch 1 to 3, at size 0, 1 or 1e4, now and then equal or all duplicates."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    small = st.integers(1, 5)
    batch = draw(st.integers(1, 3))
    layers = draw(st.lists(small, min_size=rank - 2, max_size=rank - 2))
    others = layers if same_size else draw(st.lists(small, min_size=rank - 2, max_size=rank - 2))
    channels = draw(small)
    widths = channels, channels if same_channels else draw(small)
    scales = [draw(st.sampled_from([0.0, 1.0, 1e4])) for _ in range(2)]
    student = random.normal(size=(batch, widths[0], *layers)) * scales[0]
    teacher = random.normal(size=(batch, widths[1], *others)) * scales[1]
    match draw(st.sampled_from(["free", "equal", "duplicates"])):
        case "equal":
            teacher = student.copy()
        case "duplicates":
            student, teacher = np.repeat(student[:1], 3, axis=0), np.repeat(teacher[:1], 3, axis=0)
    return student, teacher


def close(value, expected):
    assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def pooled(maps, height, width):
    """Adaptive average pooling: place i of n averages the positions from ⌊i·H/n⌋ to before ⌈(i+1)·H/n⌉."""
    high, wide = maps.shape[2:]
    out = np.empty((*maps.shape[:2], height, width))
    for i in range(height):
        for j in range(width):
            rows = slice(i * high // height, -(-(i + 1) * high // height))
            columns = slice(j * wide // width, -(-(j + 1) * wide // width))
            out[:, :, i, j] = maps[:, :, rows, columns].mean(axis=(2, 3))
    return out


def matched(student, teacher):
    """Both at the smaller size."""
    size = np.minimum(student.shape[2:], teacher.shape[2:])
    return pooled(student, *size), pooled(teacher, *size)


def convolved(maps, layer):
    """A convolution of odd kernel with the padding that keeps the size, from the definition."""
    weight = layer.weight.detach().double().numpy()
    reach = weight.shape[2] // 2
    wide = np.pad(maps, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(wide, weight.shape[2:], axis=(2, 3))
    out = np.einsum("bihwkl,oikl->bohw", windows, weight)
    return out if layer.bias is None else out + layer.bias.detach().double().numpy()[:, None, None]


def batch_normed(maps, norm):
    """A BatchNorm while it trains."""
    dims = tuple(axis for axis in range(maps.ndim) if axis != 1)
    standard = (maps - maps.mean(axis=dims, keepdims=True)) / np.sqrt(maps.var(axis=dims, keepdims=True) + norm.eps)
    weight, bias = (p.detach().double().numpy().reshape(-1, *[1] * (maps.ndim - 2)) for p in (norm.weight, norm.bias))
    return standard * weight + bias


def check_half(function, paper, *shapes):
    """From half precision the value is float32, and that of the same numbers in float64."""
    for dtype in (torch.float16, torch.bfloat16):
        student, teacher = (torch.randn(shape).to(dtype) for shape in shapes)
        value = function(student, teacher)
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(paper(student.double().numpy(), teacher.double().numpy()), rel=1e-5)


def check_gradient(function, *shapes):
    """The student's gradient is that of finite differences, and the teacher has none."""
    student, teacher = (torch.randn(shape).double().requires_grad_() for shape in shapes)
    assert torch.autograd.gradcheck(lambda own: function(own, teacher), student)
    function(student, teacher).backward()
    assert teacher.grad is None


def check_memory_order(function, *shapes):
    """Channels-last memory changes nothing."""
    student, teacher = (torch.randn(shape) for shape in shapes)
    last = (tensor.to(memory_format=torch.channels_last) for tensor in (student, teacher))
    torch.testing.assert_close(function(*last), function(student, teacher))


def check_no_valid_samples(loss_fn, student, teacher):
    """A teacher without valid samples gives zero, with zero gradients to the student and all parameters."""
    own = torch.randn(student, requires_grad=True)
    prepared(loss_fn, context(own, torch.randn(teacher)))
    value = loss_fn(context(own, torch.randn(teacher), valid=torch.zeros(len(own), dtype=torch.bool)))
    value.backward()
    assert value.item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in (own, *loss_fn.parameters()))


def check_unprepared(loss_fn):
    """The error of an unprepared loss names the call."""
    with pytest.raises(Exception, match=r"call distiller.prepare\(batch\) before building the optimizer"):
        loss_fn(context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)))


def check_precisions(loss_fn, student, teacher):
    """A loss works in another precision; its value stays float32 or wider."""
    prepared(loss_fn, context(torch.randn(student), torch.randn(teacher)))
    for dtype in (torch.bfloat16, torch.float64):
        value = loss_fn.to(dtype)(context(torch.randn(student), torch.randn(teacher)))
        assert torch.isfinite(value)
        assert value.dtype != torch.bfloat16
