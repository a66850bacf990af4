"""Classification reads any batch of a loop and any answer of a network, and refuses what does not fit in a sentence."""

from __future__ import annotations

from collections import UserDict
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.tasks import Classification

TASK = Classification(classes=3)
X, Y = torch.arange(8.0).reshape(2, 4), torch.tensor([0, 2])


class Says(nn.Module):
    """Gives the first three numbers of its input, wrapped as asked."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(x[:, :3])


class Answer(NamedTuple):
    loss: object
    logits: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [(X, Y), [X, Y], (X, Y, "more"), *({name: X, "target": Y} for name in ("input", "x", "image", "images")),
     UserDict(pixel_values=X, labels=Y), {"x": X, "y": Y}, {"x": X, "label": Y}],
)  # fmt: skip
def test_input_and_target_are_read_from_every_batch_form(batch):
    assert torch.equal(TASK.outputs(Says(lambda rows: rows), batch).require_logits(), X[:, :3])
    assert TASK.target(batch) is Y


@pytest.mark.parametrize("batch", [X, (X,), [X], {"x": X}, {"x": X, "labels": None}, (X, None)])
def test_a_batch_without_target_has_none(batch):
    assert TASK.target(batch) is None
    assert torch.equal(TASK.outputs(Says(lambda rows: rows), batch).require_logits(), X[:, :3])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda rows: rows,
        lambda rows: (rows, "auxiliary"),
        lambda rows: [rows],
        lambda rows: {"logits": rows, "loss": 0.0},
        lambda rows: SimpleNamespace(logits=rows),
        lambda rows: Answer(loss=torch.zeros(()), logits=rows),
    ],
)
def test_logits_are_read_from_every_output_form(wrap):
    assert torch.equal(TASK.outputs(Says(wrap), (X, Y)).require_logits(), X[:, :3])


@pytest.mark.parametrize(
    "target", [torch.tensor([0, -100]), torch.tensor([-100, -100]), torch.tensor([[0.2, 0.3, 0.5]] * 2), Y[:0]]
)
def test_missing_labels_and_probabilities_are_targets(target):
    assert TASK.target((X, target)) is target


@pytest.mark.parametrize("label", [3, 99, -1, -101])
def test_a_label_outside_the_classes_is_refused_with_its_number(label):
    with pytest.raises(LimbeckError, match=rf"in 0\.\.2 for 3 classes, or -100 for no label, got {label}"):
        TASK.target((X, torch.tensor([0, label])))


def test_a_network_with_another_head_is_refused_with_both_numbers():
    with pytest.raises(LimbeckError, match=r"logits of Linear must be \[batch, 3\], got \[2, 5\].*head of 3 classes"):
        TASK.outputs(nn.Linear(4, 5), (X, Y))


def test_logits_that_are_no_rows_are_refused():
    with pytest.raises(LimbeckError, match=r"got \[2, 3, 1\]"):
        TASK.outputs(Says(lambda rows: rows.unsqueeze(2)), (X, Y))


@pytest.mark.parametrize("wrap", [lambda rows: None, lambda rows: {"scores": rows}, lambda rows: ("text", rows)])
def test_outputs_without_logits_are_refused_with_their_type(wrap):
    with pytest.raises(LimbeckError, match=r"must return logits, got a (NoneType|dict|tuple)"):
        TASK.outputs(Says(wrap), (X, Y))


def test_a_mapping_without_input_tells_what_it_has_and_what_is_looked_for():
    with pytest.raises(LimbeckError, match=r"input under one of \['input'.*got \['audio', 'y'\]"):
        TASK.outputs(Says(lambda rows: rows), {"audio": X, "y": Y})


@pytest.mark.parametrize("batch", ["text", 3, (), None])
def test_what_is_no_batch_is_refused_by_its_type(batch):
    with pytest.raises(LimbeckError, match=f"got no input in this {type(batch).__name__}"):
        TASK.outputs(Says(lambda rows: rows), batch)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(classes):
    with pytest.raises(LimbeckError, match=f"classes must be at least 2, got {classes}"):
        Classification(classes)
