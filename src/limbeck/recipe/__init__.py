"""Recipes: YAML to validated settings (:func:`load_recipe`) to objects (:func:`resolve_recipe`), and back."""

from limbeck.recipe.load import find_recipe, list_recipes, load_recipe, to_yaml
from limbeck.recipe.node_schema import LossNode, ModelNode, Node, SchedulerNode, TeacherNode
from limbeck.recipe.resolve import ResolvedRecipe, ResolvedStage, fill_defaults, resolve_recipe
from limbeck.recipe.resolved_node import ResolvedNode
from limbeck.recipe.schema import ExportNode, Recipe, Stage, TrainingNode
from limbeck.recipe.trust import trust_plugins

__all__ = [
    "ExportNode", "LossNode", "ModelNode", "Node", "Recipe", "ResolvedNode", "ResolvedRecipe", "ResolvedStage",
    "SchedulerNode", "Stage", "TeacherNode", "TrainingNode", "fill_defaults", "find_recipe", "list_recipes",
    "load_recipe", "resolve_recipe", "to_yaml", "trust_plugins",
]  # fmt: skip
