"""The page of the recipe's keys is that of the schema, and says what each key means."""

from pathlib import Path

import pytest

from limbeck.recipe.registry import NODE_KINDS, list_names
from limbeck.workflows.recipe_reference import _SECTIONS, describe_settings, recipe_reference

PAGE = Path(__file__).parents[2] / "docs" / "recipe-reference.md"


@pytest.mark.parametrize("model", [model for model, _ in _SECTIONS.values()], ids=lambda model: model.__name__)
def test_every_key_has_a_meaning(model):
    assert [name for name, meaning in describe_settings(model).items() if not meaning] == []


def test_the_page_is_generated_and_names_every_object_with_its_settings():
    text = recipe_reference()
    assert PAGE.read_text() == text, "limbeck recipe reference > docs/recipe-reference.md"
    for kind in NODE_KINDS:
        for name in list_names(kind):
            assert f"`{name}`" in text
    assert "| `AdamW` | " not in text  # torch documents its own
    rows = [line for line in text.splitlines() if line.startswith("|  | `")]
    assert [row for row in rows if row.endswith("|  |")] == []
    assert "| `temperature` | number or schedule (node) or temperature (node) or null | `null` |" in text
    assert "| `dropout` | number | `0.0` | dropout probability. |" in text  # not that of another network
