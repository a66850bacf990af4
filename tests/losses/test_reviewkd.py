"""reviewkd_loss is the hierarchical context loss over stages; ReviewKDLoss fuses stages from deep to shallow."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.losses import ReviewKDLoss, reviewkd_loss
from limbeck.recipe.resolve_node import resolve_node
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))

STAGES = {"early": (4, 8, 8), "middle": (6, 4, 4), "late": (10,)}
OTHERS = {"early": (8, 8, 8), "middle": (12, 6, 6), "late": (20,)}


def hierarchical(student, teacher):
    weights = losses = 0.0
    weight = 1.0
    for size in (None, 4, 2, 1):
        if size is not None and size >= min(student.shape[2:]):
            continue
        own, teacher_x = (maps if size is None else shared.pooled(maps, size, size) for maps in (student, teacher))
        losses += weight * np.square(own - teacher_x).mean()
        weights += weight
        weight /= 2
    return losses / weights


def nearest(maps, height, width):
    rows = np.arange(height) * maps.shape[2] // height
    columns = np.arange(width) * maps.shape[3] // width
    return maps[:, :, rows][:, :, :, columns]


def fused(loss_fn, student):
    """What ReviewKDLoss compares with the teacher, from the layers it learned, in NumPy."""
    made, handed = [], None
    for maps, stage in reversed(list(zip(student, loss_fn.fusions, strict=True))):
        own = shared.batch_normed(shared.convolved(maps, stage.conv_in), stage.norm_in)
        if handed is not None:
            handed = nearest(handed, *own.shape[2:])
            attention = 1 / (1 + np.exp(-shared.convolved(np.concatenate([own, handed], axis=1), stage.attention)))
            own = own * attention[:, :1] + handed * attention[:, 1:]
        handed = own
        made.insert(0, shared.batch_normed(shared.convolved(own, stage.conv_out), stage.norm_out))
    return made


def both(student=STAGES, teacher=OTHERS, **options):
    return make_context(student_feature_shapes=student, teacher_feature_shapes=teacher, **options)


def test_it_passes_every_check_but_zero_at_agreement():
    # What fuses has to learn before it agrees.
    check_loss(ReviewKDLoss(["early", "middle", "late"]), context_factory=both, skip={"zero at agreement"})
    check_loss(
        ReviewKDLoss(["middle"], mid_channels=3, teacher="teacher"), context_factory=both, skip={"zero at agreement"}
    )


def test_the_value_computed_by_hand():
    # Differences (1, 3; 0, 0): full 10/4; pooled to 1, their mean 1 squared: 1. (2.5 + ½ · 1) / 1.5 = 2. The second
    # stage is one position with a difference of 2: 4. Together 6.
    early = torch.tensor([[[[1.0, 3.0], [0.0, 0.0]]]]), torch.zeros(1, 1, 2, 2)
    late = torch.tensor([[[[2.0]]]]), torch.zeros(1, 1, 1, 1)
    assert reviewkd_loss((early[0], late[0]), (early[1], late[1])).item() == pytest.approx(6.0)


@shared.FEW
@given(st.lists(shared.features(), min_size=1, max_size=3), st.integers(5, 9))
def test_it_agrees_with_the_published_form_in_numpy(pairs, size):
    # Stages of up to 5 × 5 skip pooled sizes; one larger has them all.
    large = np.random.default_rng(size).normal(size=(2, 2, 3, size, size))
    pairs = [(large[0], large[1]), *pairs]
    students, teachers = zip(*pairs, strict=True)
    value = reviewkd_loss(list(map(torch.tensor, students)), list(map(torch.tensor, teachers)))
    shared.close(value, sum(hierarchical(*pair) for pair in pairs))


def test_the_class_agrees_with_numpy_through_what_it_fuses():
    random = np.random.default_rng(0)
    student = [random.normal(size=(3, *shape)) for shape in ((4, 8, 8), (6, 4, 4), (10, 1, 1))]
    teacher = [random.normal(size=(3, *shape)) for shape in ((8, 8, 8), (12, 6, 6), (20, 1, 1))]
    names = ["early", "middle", "late"]
    context = shared.context(torch.zeros(1), torch.zeros(1))
    context.student.features.update(zip(names, map(torch.tensor, student), strict=True))
    context.teacher.features.update(zip(names, map(torch.tensor, teacher), strict=True))
    loss_fn = shared.prepared(ReviewKDLoss(names), context)
    pairs = [shared.matched(*pair) for pair in zip(fused(loss_fn, student), teacher, strict=True)]
    shared.close(loss_fn(context), sum(hierarchical(*pair) for pair in pairs))


def test_the_shallowest_loss_reaches_the_students_deepest_stage():
    context = both()
    loss_fn = shared.prepared(ReviewKDLoss(["early", "middle", "late"]), context)
    made, handed = loss_fn.fusions[2](context.student.feature("late")[:, :, None, None], None)
    made, handed = loss_fn.fusions[1](context.student.feature("middle"), handed)
    made, handed = loss_fn.fusions[0](context.student.feature("early"), handed)
    made.square().sum().backward()
    assert context.student.feature("late").grad.any()


def test_the_common_width_is_the_students_deepest_up_to_512():
    wide = {"early": (4, 2, 2), "late": (600, 1, 1)}
    assert shared.prepared(ReviewKDLoss(["early", "late"]), both(wide, wide)).fusions[0].conv_in.out_channels == 512
    assert shared.prepared(ReviewKDLoss(["early", "late"]), both()).fusions[0].conv_in.out_channels == 10


def test_half_precision_is_computed_in_float32():
    def function(student, teacher):
        return reviewkd_loss([student], [teacher])

    shared.check_half(function, hierarchical, (2, 3, 6, 6), (2, 3, 6, 6))


def test_the_gradient_is_that_of_finite_differences():
    shared.check_gradient(lambda student, teacher: reviewkd_loss([student], [teacher]), (1, 2, 3, 3), (1, 2, 3, 3))


def test_channels_last_memory_gives_the_same():
    shared.check_memory_order(lambda student, teacher: reviewkd_loss([student], [teacher]), (2, 3, 6, 6), (2, 3, 6, 6))


def test_a_teacher_without_valid_samples_gives_zero():
    shared.check_no_valid_samples(ReviewKDLoss(["mid"]), (2, 3, 4, 4), (2, 5, 2, 2))


def test_what_it_learns_may_be_moved_to_another_precision():
    shared.check_precisions(ReviewKDLoss(["mid"]), (2, 3, 4, 4), (2, 5, 2, 2))


def test_an_unprepared_loss_names_the_call():
    shared.check_unprepared(ReviewKDLoss(["mid"]))


def test_a_recipe_names_its_layers_in_a_list():
    loss_fn = resolve_node({"use": "ReviewKDLoss", "layers": ["early", "late"]}, "loss").build()
    assert repr(loss_fn) == "ReviewKDLoss(layers=['early', 'late'])"


def test_the_repr_describes_every_stage():
    text = str(shared.prepared(ReviewKDLoss(["early", "middle", "late"]), both()))
    assert "4 → 8" in text
    assert "6 → 12, maps 4×4 and 6×6 pooled to 4×4" in text


@pytest.mark.parametrize("at", ["mid", []])
def test_layers_that_are_no_list_are_refused(at):
    with pytest.raises(LimbeckError, match="layers must be a list of layer names, got"):
        ReviewKDLoss(at)


def test_a_width_of_nothing_is_refused():
    with pytest.raises(LimbeckError, match=r"mid_channels must be in \[1, inf\), got 0"):
        ReviewKDLoss(["mid"], mid_channels=0)


def test_stages_that_cannot_be_compared_are_refused():
    maps = torch.zeros(2, 3, 4, 4)
    with pytest.raises(LimbeckError, match="got 1 and 2"):
        reviewkd_loss([maps], [maps, maps])
    with pytest.raises(LimbeckError, match=r"\[2, 3, 4, 4\].*\[2, 5, 4, 4\]: the class ReviewKDLoss fuses"):
        reviewkd_loss([maps], [torch.zeros(2, 5, 4, 4)])
    with pytest.raises(LimbeckError, match="use a convolutional layer"):
        ReviewKDLoss(["mid"]).prepare(
            make_context(student_feature_shapes={"mid": (5, 4)}, teacher_feature_shapes={"mid": (5, 4)})
        )
