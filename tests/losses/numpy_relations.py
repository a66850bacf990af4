"""Shared by tests of losses on logits and relations: float64 arithmetic and random inputs.

A test file takes it by ``runpy``, as this folder is no package.
"""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs

FEW = settings(deadline=None, max_examples=25, derandomize=True, database=None)
HALVES = (torch.float16, torch.bfloat16)


def logsumexp(z):
    return z.max() + np.log(np.exp(z - z.max()).sum())


def log_softmax(z):
    return z - np.array([logsumexp(row) for row in z])[:, None]


def softmax(z):
    return np.exp(log_softmax(z))


@st.composite
def logits(draw, scales=(1e-2, 1.0, 10.0, 1e4)):
    """Student and teacher, float64: one row, two classes, equal inputs and duplicates among them."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (draw(st.integers(1, 7)), draw(st.integers(2, 9)))
    student, teacher = (random.normal(size=shape) * draw(st.sampled_from(scales)) for _ in range(2))
    match draw(st.sampled_from(["free", "equal", "duplicates"])):
        case "equal":
            teacher = student.copy()
        case "duplicates":
            student, teacher = np.repeat(student[:1], 3, axis=0), np.repeat(teacher[:1], 3, axis=0)
    return student, teacher


@st.composite
def pair_with_target(draw, **options):
    """The same with a class for each row."""
    student, teacher = draw(logits(**options))
    return student, teacher, np.array([draw(st.integers(0, student.shape[1] - 1)) for _ in student])


@st.composite
def features(draw, scales=(0.0, 1.0, 1e4), least=1):
    """Features of one batch, of any rank and width: a batch of one, equal inputs and duplicates among them."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch = draw(st.integers(least, 6))
    student, teacher = (
        random.normal(size=(batch, *(draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 3))))))
        * draw(st.sampled_from(scales))
        for _ in range(2)
    )
    match draw(st.sampled_from(["free", "equal", "duplicates"])):
        case "equal":
            teacher = student.copy()
        case "duplicates":
            student, teacher = np.concatenate([student, student]), np.concatenate([teacher, teacher])
    return student, teacher


def value(function, *arrays, **options):
    """What the torch function says of numpy arrays."""
    return float(function(*map(torch.tensor, arrays), **options))


def halves(*shape, scale=1.0):
    """A pair in each half precision, and the same numbers in float64 for numpy."""
    draw = torch.Generator().manual_seed(0)
    for dtype in HALVES:
        pair = [(scale * torch.randn(*shape, generator=draw)).to(dtype) for _ in range(2)]
        yield pair, [tensor.double().numpy() for tensor in pair]


def context_without_valid_samples(rows=2, classes=3, shape=(4,)):
    """A context whose only teacher has no valid sample."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (
        Outputs(
            logits=torch.randn(rows, classes, generator=draw),
            features={"mid": torch.randn(rows, *shape, generator=draw)},
            valid=present,
        )
        for present in (None, torch.zeros(rows, dtype=torch.bool))
    )
    return LossContext(student=student, teacher=teacher, target=torch.zeros(rows, dtype=torch.long))


def finite_at(function, *arguments, scale=1e4, **options):
    """Whether value and gradient are finite where a student says the opposite of its teacher, at logits of ± scale."""
    student = torch.tensor([[scale, -scale, 0.0], [0.0, scale, scale]], requires_grad=True)
    teacher = torch.tensor([[-scale, scale, 0.0], [scale, 0.0, -scale]])
    loss = function(student, teacher, *arguments, **options)
    loss.backward()
    return bool(torch.isfinite(loss)) and bool(torch.isfinite(student.grad).all())


def right_gradient(function, *shape, scale=1.0, **options):
    """Whether the gradient is that of finite differences, in float64."""
    draw = torch.Generator().manual_seed(0)
    student, teacher = (scale * torch.randn(*shape, generator=draw, dtype=torch.float64) for _ in range(2))
    return torch.autograd.gradcheck(lambda s: function(s, teacher, **options), student.requires_grad_())
