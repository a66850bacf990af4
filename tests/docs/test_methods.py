"""docs/methods.md is generated from the losses, and lists all of them."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from limbeck.cli import main
from limbeck.recipe.registry import list_names
from limbeck.workflows.list_losses import describe_loss, list_losses, losses_page, losses_table, measure_loss_size

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


@pytest.fixture(scope="module")
def infos():
    return list_losses()


def test_the_page_is_up_to_date(infos):
    assert PAGE.read_text() == losses_page(infos), "run limbeck losses --markdown > docs/methods.md"


def test_every_loss_is_listed_with_its_knowledge_paper_and_formula(infos):
    assert sorted(info.name for info in infos) == list_names("loss")
    for info in infos:
        assert info.knowledge != "other", f"{info.name} declares no knowledge"
        assert info.paper, f"{info.name} declares no paper"
        assert info.formula, f"the module of {info.name} has no public function"
        assert info.title.endswith("."), info.name


def test_knowledge_needs_and_sizes_of_a_few_are_right(infos):
    by_name = {info.name: info for info in infos}
    assert [by_name[name].knowledge for name in ("KDLoss", "FitNetLoss", "SPLoss", "CrossEntropyLoss")] == [
        "response", "feature", "relation", "label",
    ]  # fmt: skip
    assert by_name["FitNetLoss"].needs == ("teacher", "layer")
    assert by_name["DKDLoss"].needs == ("teacher", "target")
    assert by_name["CrossEntropyLoss"].needs == ("target",)
    assert by_name["CWDLoss"].needs == ("teacher", "[layer]")
    assert by_name["FitNetLoss"].num_parameters == 16 * 32 + 32
    assert by_name["KDLoss"].num_parameters == by_name["SPLoss"].num_parameters == 0
    assert by_name["KDLoss"].paper == "https://arxiv.org/abs/1503.02531"


def test_the_command_prints_the_table_and_the_page(capsys, infos):
    assert main(["losses"]) == 0
    assert capsys.readouterr().out == losses_table(infos) + "\n"
    assert main(["losses", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text()


class BankLoss(nn.Module):
    """Remembers a feature."""

    needs_target: ClassVar = True

    def __init__(self, first_layer: str, last_layer: str, *, other_layer: str | None = None) -> None:
        super().__init__()
        self.names, self.norm = (first_layer, last_layer), nn.BatchNorm1d(3)
        self.register_buffer("bank", torch.zeros(100, 3))

    def prepare(self, context):
        widths = [context.student.feature(name).shape[1] for name in self.names]
        self.layer = nn.Linear(*widths, bias=False)


class SpecialLoss(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()


def test_layers_are_arguments_by_name_and_sizes_are_counted():
    info = describe_loss(BankLoss)
    assert info.needs == ("teacher", "target", "first_layer", "last_layer", "[other_layer]")
    assert (info.num_parameters, info.buffer_bytes) == (16 * 32 + 6, 100 * 3 * 4)


def test_a_loss_that_cannot_be_built_or_declares_nothing_is_listed_as_well():
    assert measure_loss_size(SpecialLoss, {}) == (None, None)
    info = describe_loss(SpecialLoss)
    assert (info.knowledge, info.paper, info.formula) == ("other", "", "")
    assert "SpecialLoss" in losses_table([info])
    assert "## Others" in losses_page([info])
