"""YAML ⇄ live objects: the only room that reads settings.

:func:`load` reads a recipe, :func:`check` compares every node with what it names and gives a :class:`Plan` whose parts
have ``build()``, and :func:`show` writes the recipe out with every setting.
"""

from limbeck.recipe.builtin import find, listing
from limbeck.recipe.recipe import load, show
from limbeck.recipe.resolve import Plan, StagePlan, check, resolved
from limbeck.recipe.resolved_node import Checked
from limbeck.recipe.schema import Export, Node, Recipe, Scheduler, Stage, Teacher, Term, Training

__all__ = [
    "Checked", "Export", "Node", "Plan", "Recipe", "Scheduler", "Stage", "StagePlan", "Teacher", "Term", "Training",
    "check", "find", "listing", "load", "resolved", "show",
]  # fmt: skip
