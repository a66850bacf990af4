"""LossContext.pair selects the same samples of student and teacher, also where rows are not samples."""

from __future__ import annotations

import pytest
import torch

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs

VALID = torch.tensor([False, True, True])


def test_a_fully_valid_teacher_changes_nothing():
    student, teacher = Outputs(logits=torch.zeros(2, 3)), Outputs(logits=torch.ones(2, 3))
    assert LossContext(student=student, teacher=teacher).pair() == (student, teacher)


def test_both_are_selected_by_the_valid_samples_of_the_teacher():
    student = Outputs(logits=torch.arange(6.0).reshape(3, 2), features={"mid": torch.arange(3.0)})
    teacher = Outputs(logits=-torch.arange(6.0).reshape(3, 2), valid=VALID)
    student_outputs, teacher_outputs = LossContext(student=student, teachers={"big": teacher}).pair("big")
    assert student_outputs.require_logits().tolist() == [[2.0, 3.0], [4.0, 5.0]]
    assert torch.equal(teacher_outputs.require_logits(), -student_outputs.require_logits())
    assert student_outputs.feature("mid").tolist() == [1.0, 2.0]


def test_rows_are_selected_by_their_sample():
    row_to_sample = torch.tensor([0, 0, 1, 2, 2, 2])
    student = Outputs(logits=torch.arange(6.0).unsqueeze(1).repeat(1, 2), row_to_sample=row_to_sample)
    teacher = Outputs(logits=torch.arange(6.0).unsqueeze(1).repeat(1, 2), row_to_sample=row_to_sample, valid=VALID)
    student_outputs, teacher_outputs = LossContext(student=student, teacher=teacher).pair()
    assert (
        student_outputs.require_logits()[:, 0].tolist()
        == teacher_outputs.require_logits()[:, 0].tolist()
        == [2.0, 3.0, 4.0, 5.0]
    )
    assert student_outputs.row_to_sample.tolist() == teacher_outputs.row_to_sample.tolist() == [0, 1, 1, 1]


def test_a_teacher_without_valid_samples_leaves_no_row():
    teacher = Outputs(logits=torch.zeros(3, 2), valid=torch.zeros(3, dtype=torch.bool))
    student_outputs, teacher_outputs = LossContext(student=Outputs(logits=torch.zeros(3, 2)), teacher=teacher).pair()
    assert student_outputs.require_logits().shape == teacher_outputs.require_logits().shape == (0, 2)


def test_require_target_returns_all_targets_also_where_a_teacher_is_invalid():
    context = LossContext(student=Outputs(), teacher=Outputs(valid=VALID), target=torch.tensor([1, 2, 3]))
    assert context.require_target().tolist() == [1, 2, 3]


def test_a_misspelt_teacher_names_the_nearest():
    context = LossContext(student=Outputs(), teachers={"resnet": Outputs(), "vit": Outputs()})
    with pytest.raises(LimbeckError, match="no teacher is named 'resent'; available: resnet"):
        context.pair("resent")


def test_without_a_teacher_the_error_names_the_remedy():
    with pytest.raises(LimbeckError, match=r"there is none: pass Distiller\(teachers=...\)"):
        LossContext(student=Outputs()).pair()


def test_teachers_that_cannot_be_combined_are_an_error():
    with pytest.raises(LimbeckError, match="no logits to combine: set `teacher` of the loss to one of a, b"):
        LossContext(student=Outputs(), teachers={"a": Outputs(), "b": Outputs()}).pair()


def test_a_batch_without_target_is_an_error():
    with pytest.raises(LimbeckError, match="the batch has none"):
        LossContext(student=Outputs()).require_target()


def test_targets_are_selected_like_the_pair():
    student, teacher = Outputs(logits=torch.zeros(3, 2)), Outputs(logits=torch.ones(3, 2), valid=VALID)
    context = LossContext(
        student=student, teacher=teacher, target=torch.tensor([1, 2, 3]), sample_ids=torch.tensor([7, 8, 9])
    )
    student_outputs, teacher_outputs, target = context.pair_with_target()
    assert student_outputs.require_logits().shape == teacher_outputs.require_logits().shape == (2, 2)
    assert target.tolist() == [2, 3]
    assert context.require_sample_ids().tolist() == [8, 9]


def test_targets_of_rows_are_selected_by_their_sample():
    row_to_sample = torch.tensor([0, 0, 1, 2])
    student, teacher = Outputs(logits=torch.zeros(4, 2), row_to_sample=row_to_sample), Outputs(valid=VALID)
    assert LossContext(student=student, teacher=teacher, target=torch.arange(4)).pair_with_target()[2].tolist() == [
        2,
        3,
    ]


def test_a_batch_without_sample_ids_is_an_error():
    with pytest.raises(LimbeckError, match="a mapping with 'sample_id'"):
        LossContext(student=Outputs(), teacher=Outputs()).require_sample_ids()
