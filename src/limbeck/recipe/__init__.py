"""YAML ⇄ live objects: the only room that reads settings.

:func:`load_recipe` reads a recipe, :func:`resolve_recipe` compares every node with what it names and gives a
:class:`ResolvedRecipe` whose parts have ``build()``, and :func:`to_yaml` writes the recipe out with every setting.
"""

from limbeck.recipe.builtin import find_recipe, list_recipes
from limbeck.recipe.recipe import load_recipe, to_yaml
from limbeck.recipe.resolve import ResolvedRecipe, ResolvedStage, fill_defaults, resolve_recipe
from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.recipe.schema import ExportNode, LossNode, Node, Recipe, SchedulerNode, Stage, TeacherNode, TrainingNode

__all__ = [
    "ExportNode",
    "LossNode",
    "Node",
    "Recipe",
    "ResolvedNode",
    "ResolvedRecipe",
    "ResolvedStage",
    "SchedulerNode",
    "Stage",
    "TeacherNode",
    "TrainingNode",
    "fill_defaults",
    "find_recipe",
    "list_recipes",
    "load_recipe",
    "resolve_recipe",
    "to_yaml",
]  # fmt: skip
