"""YAML ⇄ live objects: the only room that reads settings.

:func:`load` reads a recipe, :func:`check` compares every node with what it names and gives a :class:`Plan` whose parts
have ``build()``, and :func:`show` writes the recipe out with every setting.
"""

from limbeck.recipe.builtin import find_recipe, list_recipes
from limbeck.recipe.recipe import load_recipe, to_yaml
from limbeck.recipe.resolve import ResolvedRecipe, ResolvedStage, fill_defaults, resolve_recipe
from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.recipe.schema import ExportNode, LossNode, Node, Recipe, SchedulerNode, Stage, TeacherNode, TrainingNode

__all__ = [
    "ResolvedNode", "ExportNode", "Node", "ResolvedRecipe", "Recipe", "SchedulerNode", "Stage", "ResolvedStage", "TeacherNode", "LossNode", "TrainingNode",
    "resolve_recipe", "find_recipe", "list_recipes", "load_recipe", "fill_defaults", "to_yaml",
]  # fmt: skip
