"""mgd_loss compares the teacher's map with one generated from the student's masked map."""

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
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.losses import MGDLoss, mgd_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))


class Seeded(nn.Module):
    """A loss with the same mask at each call, since the checks compare calls."""

    def __init__(self, loss_fn):
        super().__init__()
        self.loss = loss_fn

    def prepare(self, context):
        self.loss.prepare(context)

    def forward(self, context):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.loss(context)


def generated(student, mask, layers):
    first, _, second = layers
    return shared.convolved(np.maximum(shared.convolved(student * mask, first), 0.0), second)


def paper(student, teacher, mask, layers):
    return np.square(generated(student, mask, layers) - teacher).mean()


def layers_of(channels, others):
    torch.manual_seed(0)
    first, second = nn.Conv2d(channels, others, 3, padding=1), nn.Conv2d(others, others, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second).double()


@pytest.mark.parametrize(
    ("student", "teacher"), [((8, 4, 4), (6, 4, 4)), ((8, 6, 6), (8, 3, 3)), ((3, 2, 2), (4, 5, 2))]
)
def test_it_passes_every_check_but_zero_at_agreement_and_repetition(student, teacher):
    # Another mask is drawn for each repeated sample; and a generator has to learn before it agrees.
    make = partial(make_context, student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher})
    check_loss(Seeded(MGDLoss("mid")), context_factory=make, skip={"zero at agreement", "unchanged by repetition"})


def test_it_is_unchanged_by_repetition_where_nothing_is_hidden():
    make = partial(make_context, student_feature_shapes={"mid": (3, 4, 4)}, teacher_feature_shapes={"mid": (5, 4, 4)})
    check_loss(MGDLoss("mid", mask_ratio=0.0), context_factory=make, skip={"zero at agreement"})


def test_the_value_computed_by_hand():
    # Of (1, 2) the second is hidden, so doubling makes (2, 0); the teacher says (3, 4): 1 and 16, mean 8.5.
    student, teacher = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 4.0]]]])
    value = mgd_loss(student, teacher, mask=torch.tensor([[[[1.0, 0.0]]]]), generator=lambda maps: 2 * maps)
    assert value.item() == 8.5


@shared.FEW
@given(shared.features(same_channels=False), st.integers(0, 2**32 - 1))
def test_it_agrees_with_the_paper_in_numpy(pair, seed):
    student, teacher = pair
    mask = np.random.default_rng(seed).integers(2, size=(len(student), 1, *student.shape[2:])).astype(float)
    layers = layers_of(student.shape[1], teacher.shape[1])
    value = mgd_loss(torch.tensor(student), torch.tensor(teacher), mask=torch.tensor(mask), generator=layers)
    shared.close(value, paper(student, teacher, mask, layers))


def test_the_class_agrees_with_numpy_through_its_own_projection_and_generator():
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(2, 3, 4, 4)), random.normal(size=(2, 5, 2, 2))
    context = shared.context(torch.tensor(student), torch.tensor(teacher))
    loss_fn = shared.prepared(MGDLoss("mid"), context)
    torch.manual_seed(1)
    value = loss_fn(context)
    torch.manual_seed(1)
    mask = (torch.rand(2, 1, 2, 2, dtype=torch.float64) >= 0.65).double().numpy()
    shared.close(
        value,
        paper(
            shared.pooled(shared.convolved(student, loss_fn.projection.layer), 2, 2), teacher, mask, loss_fn.generator
        ),
    )


@pytest.mark.parametrize("hidden", [0.0, 0.25, 0.65])
def test_the_share_that_is_hidden_is_the_one_that_was_set(hidden):
    context = shared.context(torch.ones(50, 1, 20, 20), torch.zeros(50, 1, 20, 20))
    loss_fn = shared.prepared(MGDLoss("mid", mask_ratio=hidden), context)
    seen = []
    loss_fn.generator.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    loss_fn(context)
    loss_fn(context)
    assert (seen[0] == 0).float().mean().item() == pytest.approx(hidden, abs=0.01)
    assert hidden == 0.0 or not torch.equal(*seen)


def test_all_channels_of_a_position_are_hidden_together():
    context = shared.context(torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    loss_fn = shared.prepared(MGDLoss("mid"), context)
    loss_fn.generator.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    seen = []
    loss_fn(context)
    assert torch.equal(seen[0], seen[0][:, :1].expand(-1, 3, -1, -1))


def test_half_precision_is_computed_in_float32():
    mask = torch.randint(2, (2, 1, 4, 4)).float()
    layers = layers_of(3, 5).float()
    function = partial(mgd_loss, mask=mask, generator=layers)
    reference = partial(paper, mask=mask.double().numpy(), layers=layers)
    shared.check_half(function, reference, (2, 3, 4, 4), (2, 5, 4, 4))


def test_the_gradient_is_that_of_finite_differences():
    mask = torch.tensor([[[[1.0, 0.0, 1.0]]]]).double()
    shared.check_gradient(partial(mgd_loss, mask=mask, generator=layers_of(2, 3)), (1, 2, 1, 3), (1, 3, 1, 3))


def test_channels_last_memory_gives_the_same():
    function = partial(mgd_loss, mask=torch.randint(2, (2, 1, 4, 4)).float(), generator=layers_of(3, 5).float())
    shared.check_memory_order(function, (2, 3, 4, 4), (2, 5, 4, 4))


def test_a_teacher_without_valid_samples_gives_zero():
    shared.check_no_valid_samples(MGDLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_what_it_learns_may_be_moved_to_another_precision():
    shared.check_precisions(MGDLoss("mid"), (2, 3, 4, 4), (2, 5, 2, 2))


def test_an_unprepared_loss_names_the_call():
    shared.check_unprepared(MGDLoss("mid"))


def test_equal_channels_need_no_projection_and_the_repr_is_named():
    context = shared.context(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    loss_fn = shared.prepared(MGDLoss("mid"), context)
    assert not list(loss_fn.projection.parameters())
    assert "Projection(3 → 3, maps 4×4 and 2×2 pooled to 2×2)" in str(loss_fn)


@pytest.mark.parametrize("hidden", [-0.1, 1.0, float("nan")])
def test_a_share_that_hides_all_is_refused(hidden):
    with pytest.raises(LimbeckError, match=r"mask_ratio must be in \[0, 1\), got"):
        MGDLoss("mid", mask_ratio=hidden)


def test_shapes_that_cannot_be_compared_are_refused():
    maps, mask = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    with pytest.raises(LimbeckError, match=r"\[2, 3, 4, 4\].*\[2, 5, 4, 4\]: the class MGDLoss projects"):
        mgd_loss(maps, torch.zeros(2, 5, 4, 4), mask=mask, generator=nn.Identity())
    with pytest.raises(LimbeckError, match=r"the mask of maps \[2, 3, 4, 4\] must be \[batch, 1, height, width\]"):
        mgd_loss(maps, maps, mask=torch.zeros(2, 3, 4, 4), generator=nn.Identity())
    with pytest.raises(LimbeckError, match=r"the student's features have the shape \[6, 5\]: use a conv"):
        MGDLoss("mid").prepare(make_context(student_feature_shapes={"mid": (5,)}))
