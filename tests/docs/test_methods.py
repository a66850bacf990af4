"""docs/methods.md is what the docstrings say, and the list of methods is whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import limbeck.losses
from limbeck.cli import main
from limbeck.recipe.registry import list_names
from limbeck.workflows.list_losses import list_losses, losses_page, losses_table
from limbeck.workflows.list_losses.cost import measure_loss_cost
from limbeck.workflows.list_losses.describe import _describe_loss

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
LISTED = list_losses()


def test_the_page_is_what_the_docstrings_say():
    again = "it is not what the docstrings say: run limbeck losses --markdown > docs/methods.md"
    assert PAGE.read_text() == losses_page(LISTED), again


def test_every_term_is_listed_with_a_form_of_knowledge_and_a_paper():
    assert sorted(method.name for method in LISTED) == list_names("loss")
    for method in LISTED:
        assert method.knowledge != "other", (
            f"{method.name}: begin its file with 'Knowledge of responses: …' or the like"
        )
        assert method.papers, f"{method.name}: its file names no paper"
        assert method.functions, f"{method.name}: its arithmetic is no public function"
        assert method.summary


def test_forms_and_costs_of_a_few_are_right():
    known = {method.name: method for method in LISTED}
    assert [known[name].knowledge for name in ("KDLoss", "FitNetLoss", "SPLoss", "CrossEntropyLoss")] == [
        "responses", "features", "relations", "target",
    ]  # fmt: skip
    assert known["FitNetLoss"].layer_args == ("layer",)
    assert known["FitNetLoss"].cost.num_parameters == 16 * 32 + 32
    assert known["KDLoss"].cost.num_parameters == known["SPLoss"].cost.num_parameters == 0
    assert known["KDLoss"].papers[0] == "https://arxiv.org/abs/1503.02531"


def test_the_command_prints_the_table_and_the_page(capsys):
    assert main(["losses"]) == 0
    assert capsys.readouterr().out == losses_table(LISTED) + "\n"
    assert main(["losses", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text()


class Bank(nn.Module):
    """Remembers.

    Arguments:
        first: the name of the earlier tap.
        last: the name of the later one.
        other: one more tap, if any.
        teacher: which teacher; ``None`` takes the ensemble of all.
    """

    def __init__(self, first: str, last: str, *, other: str | None = None, teacher: str | None = None) -> None:
        super().__init__()
        self.names, self.norm = (first, last), nn.BatchNorm1d(3)
        self.register_buffer("bank", torch.zeros(100, 3))

    def prepare(self, context):
        widths = [context.student.feature(name).shape[1] for name in self.names]
        self.layer = nn.Linear(*widths, bias=False)


class Special(nn.Module):
    """Needs what nobody has."""

    def __init__(self, number: int) -> None:
        super().__init__()


@pytest.fixture
def exported(monkeypatch):
    def of(term):
        monkeypatch.setattr(limbeck.losses, term.__name__, term, raising=False)
        monkeypatch.setattr(limbeck.losses, "__all__", [*limbeck.losses.__all__, term.__name__])
        return _describe_loss(term.__name__)

    return of


def test_taps_are_read_from_arguments_and_costs_are_counted(exported):
    found = exported(Bank)
    assert found.layer_args == ("first", "last", "[other]")
    assert (found.cost.num_parameters, found.cost.buffer_bytes) == (16 * 32 + 6, 100 * 3 * 4)


def test_a_term_that_cannot_be_made_or_says_nothing_is_listed_all_the_same(exported, monkeypatch):
    assert (measure_loss_cost(Special, ()).num_parameters, measure_loss_cost(Special, ()).buffer_bytes) == (None, None)
    monkeypatch.setattr(sys.modules[__name__], "__doc__", "A note.")
    found = exported(Special)
    assert (found.knowledge, found.summary, found.papers) == ("other", "A note", ())
    assert "Special" in losses_table([found])
    assert "## Others" in losses_page([found])


@pytest.mark.parametrize(
    ("text", "form", "what"),
    [
        ("Knowledge of relations between samples: who is near (X), https://x.org/a.", "relations",
         "between samples: who is near (X)"),
        ("Knowledge of the student's own past: what it said.", "self", "what it said"),
        ("The truth: the labels. More of it.", "target", "the labels"),
    ],
)  # fmt: skip
def test_the_first_words_of_a_file_say_what_it_is(exported, monkeypatch, text, form, what):
    class Said:
        """Of it."""

        marks: ClassVar[int] = 0

    Said.__module__ = __name__
    monkeypatch.setattr(sys.modules[__name__], "__doc__", text)
    found = exported(Said)
    assert (found.knowledge, found.summary) == (form, what)
