"""Every function of the workflows takes a path as text, as the command line and torch do."""

import inspect
from importlib import import_module

import pytest

FUNCTIONS = (
    "compare.run:compare", "compare.run:build_comparison", "diagnose:diagnose_run", "distill.run:distill",
    "evaluate.run:evaluate_networks", "evaluate.run:evaluate_student", "export_run:export_run", "predict:predict",
    "reproduce:reproduce", "select_teachers.run:select_teachers", "study.run:study",
)  # fmt: skip


@pytest.mark.parametrize("path", FUNCTIONS)
def test_each_path_may_be_text(path):
    module, _, name = path.partition(":")
    function = getattr(import_module(f"limbeck.workflows.{module}"), name)
    hints = {key: parameter.annotation for key, parameter in inspect.signature(function).parameters.items()}
    assert [key for key, hint in hints.items() if "Path" in str(hint) and "str | Path" not in str(hint)] == []
