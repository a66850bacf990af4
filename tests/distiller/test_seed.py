"""The seed of the idea: a Distiller costs what six plain lines cost, in value and in gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import limbeck
from limbeck.losses import CrossEntropyLoss, KDLoss
from limbeck.tasks import Classification

X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))
Y = torch.randint(10, (16,), generator=torch.Generator().manual_seed(2))


class Bare(nn.Module):
    """What one would write without limbeck."""

    def __init__(self, student, teacher):
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, x):
        with torch.no_grad():
            t = self.teacher(x)
        s = self.student(x)
        return F.kl_div(F.log_softmax(s / 4, 1), F.softmax(t / 4, 1), reduction="batchmean") * 16


def networks():
    torch.manual_seed(0)
    make = lambda width: nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 10))  # noqa: E731
    return make(6), make(32)


# In float32 a small divergence is what large logarithms leave over, and the two ways round differently.
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_the_distiller_gives_the_loss_and_the_gradient_of_six_plain_lines(dtype, rtol):
    student, teacher = (network.to(dtype) for network in networks())
    bare = Bare(copy.deepcopy(student), copy.deepcopy(teacher))
    distiller = limbeck.Distiller(
        student, teacher, objective={"kd": KDLoss(temperature=4.0)}, task=Classification(10)
    )  # fmt: skip
    loss, expected = distiller((X.to(dtype), Y)).total, bare(X.to(dtype))
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=0)
    for student_parameter, plain in zip(student.parameters(), bare.student.parameters(), strict=True):
        torch.testing.assert_close(student_parameter.grad, plain.grad, rtol=rtol, atol=1e-8)


def test_the_hard_and_the_soft_loss_train_to_the_same_weights_as_plain_lines():
    student, teacher = networks()
    bare = Bare(copy.deepcopy(student), copy.deepcopy(teacher))
    distiller = limbeck.Distiller(
        student, teacher, objective={"target": CrossEntropyLoss(), "kd": KDLoss(temperature=4.0)},
        weights={"target": 0.1, "kd": 0.9}, task=Classification(10),
    )  # fmt: skip
    ours = torch.optim.SGD(distiller.parameters(), lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD(bare.student.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        for optimizer, loss in (
            (ours, distiller((X, Y)).total),
            (theirs, 0.1 * F.cross_entropy(bare.student(X), Y) + 0.9 * bare(X)),
        ):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for student_parameter, plain in zip(student.parameters(), bare.student.parameters(), strict=True):
        torch.testing.assert_close(student_parameter, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_without_the_factor_the_loss_would_be_smaller_by_tau_squared(tau):
    student, teacher = networks()
    distiller = limbeck.Distiller(student, teacher, objective={"kd": KDLoss(temperature=tau)}, task=Classification(10))
    with torch.no_grad():
        plain = F.kl_div((student(X) / tau).log_softmax(1), (teacher(X) / tau).softmax(1), reduction="batchmean")
        torch.testing.assert_close(distiller((X, Y)).total, plain * tau**2)
