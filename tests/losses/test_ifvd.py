"""ifvd_loss compares the cosines of pixels to the prototype of their class."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limbeck.core.errors import LimbeckError
from limbeck.losses import IFVDLoss, ifvd_loss
from limbeck.testing import check_loss, make_context

shared = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("numpy_features.py"))))


def nearest(mask, height, width):
    rows, columns = (np.arange(new) * old // new for old, new in zip(mask.shape[1:], (height, width), strict=True))
    return mask[:, rows][:, :, columns]


def class_cosines(maps, mask):
    """The cosine of each pixel with a class to the mean of its class in the image, image by image."""
    out = []
    for features, labels in zip(maps, mask, strict=True):
        for label, row, column in zip(labels[labels >= 0], *np.nonzero(labels >= 0), strict=True):
            pixel, prototype = features[:, row, column], features[:, labels == label].mean(axis=1)
            norms = np.linalg.norm(pixel) * np.linalg.norm(prototype)
            out.append(pixel @ prototype / norms if norms else 0.0)
    return np.array(out)


def paper(student, teacher, mask):
    student, teacher = shared.matched(student, teacher)
    mask = nearest(mask, *student.shape[2:])
    if not (mask >= 0).any():
        return 0.0
    return np.mean((class_cosines(student, mask) - class_cosines(teacher, mask)) ** 2)


def make_masked_context(student=(8, 4, 4), teacher=(6, 2, 2), **options):
    context = make_context(
        student_feature_shapes={"mid": student}, teacher_feature_shapes={"mid": teacher}, **options
    )  # fmt: skip
    draw = torch.Generator().manual_seed(options.get("seed", 0))
    mask = torch.randint(-1, 3, (len(context.sample_ids), 8, 8), generator=draw)
    return replace(context, sample_targets={"mask": torch.where(mask < 0, -100, mask)})


def test_it_passes_every_check():
    check_loss(IFVDLoss("mid"), context_factory=make_masked_context)


def test_the_value_computed_by_hand():
    # Student pixels east and north of one class: the prototype is between, cosine √½. Teacher pixels equal: cosine 1.
    student = torch.tensor([[[[1.0, 0.0, 9.0]], [[0.0, 1.0, -9.0]]]])
    value = ifvd_loss(student, torch.ones(1, 3, 1, 3), torch.tensor([[[4, 4, -100]]]))
    assert float(value) == pytest.approx((1 - 0.5**0.5) ** 2, rel=1e-5)


@shared.FEW
@given(shared.features(same_channels=False, same_size=False), st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 3]))
def test_it_agrees_with_the_paper_in_numpy(pair, seed, classes):
    random = np.random.default_rng(seed)
    mask = random.integers(-1, classes, size=(len(pair[0]), *random.integers(1, 9, size=2)))
    shared.close(ifvd_loss(*map(torch.tensor, pair), torch.tensor(mask)), paper(*pair, mask))


def test_prototypes_are_by_image_and_the_mask_is_resized_to_the_nearest_pixel():
    student, teacher = torch.randn(2, 3, 2, 2), torch.randn(2, 5, 2, 2)
    mask = torch.randint(0, 2, (2, 4, 4))
    by_image = [ifvd_loss(student[i : i + 1], teacher[i : i + 1], mask[i : i + 1, ::2, ::2]) for i in range(2)]
    torch.testing.assert_close(ifvd_loss(student, teacher, mask), torch.stack(by_image).mean())


def test_half_precision_is_computed_in_float32():
    mask = torch.randint(0, 3, (2, 4, 4))
    shared.check_half(
        lambda s, t: ifvd_loss(s, t, mask), lambda s, t: paper(s, t, mask.numpy()), (2, 3, 4, 4), (2, 5, 4, 4)
    )


def test_the_gradient_is_that_of_finite_differences():
    mask = torch.randint(-1, 2, (2, 4, 3))
    shared.check_gradient(lambda s, t: ifvd_loss(s, t, mask), (2, 3, 4, 3), (2, 5, 2, 2))


@pytest.mark.parametrize("batch", [0, 2])
def test_without_a_class_it_is_zero_with_a_gradient_of_zero(batch):
    student = torch.randn(batch, 3, 4, 4, requires_grad=True)
    value = ifvd_loss(student, torch.randn(batch, 5, 4, 4), torch.full((batch, 4, 4), -100))
    value.backward()
    assert value.item() == 0.0
    assert not student.grad.any()


def test_only_samples_that_are_valid_for_the_teacher_are_compared():
    context = make_masked_context()
    valid = torch.tensor([True, False, True, True, False, True])
    loss_fn, teacher = IFVDLoss("mid"), context.teacher
    masked = replace(context, teacher=replace(teacher, valid=valid))
    expected = ifvd_loss(
        context.student.feature("mid")[valid], teacher.feature("mid")[valid], context.sample_target("mask")[valid]
    )
    torch.testing.assert_close(loss_fn(masked), expected)


def test_missing_and_wrong_masks_are_refused():
    with pytest.raises(LimbeckError, match="this loss needs the target 'mask' of each sample"):
        IFVDLoss("mid")(make_context())
    maps = torch.zeros(2, 3, 4, 4)
    with pytest.raises(LimbeckError, match=r"class indices \[batch, height, width\] of 2 images, got .*\[1, 4, 4\]"):
        ifvd_loss(maps, maps, torch.zeros(1, 4, 4, dtype=torch.long))
    with pytest.raises(LimbeckError, match=r"class indices .* got torch\.float32"):
        ifvd_loss(maps, maps, torch.zeros(2, 4, 4))
