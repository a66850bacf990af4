"""``limbeck recipe check``: the recipe is valid, and its networks fit its data."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from limbeck.core.errors import LimbeckError
from limbeck.data.sources.lookup import DataNotFoundError, no_downloads
from limbeck.models.build import require_model_name, timm, torchvision
from limbeck.recipe import Recipe, ResolvedRecipe, find_recipe, load_recipe, resolve_recipe
from limbeck.recipe.constructors import check_constructors
from limbeck.recipe.node_schema import Node
from limbeck.recipe.schema import to_plain, validate
from limbeck.workflows._job.job import Job

__all__ = ["check_recipe"]


def check_recipe(recipe: str, overrides: Sequence[str] = ()) -> str:
    """Check a recipe as ``limbeck distill`` does before training: settings, names, data, networks, two samples.

    Where the data are not found in the usual folders, networks are not run; they are not downloaded.

    Args:
        recipe: a file, or the name of a recipe that comes with limbeck.
        overrides: ``key=value`` settings that replace those of the file.

    Returns:
        A sentence that says so.

    Raises:
        LimbeckError: the first mistake.
    """
    loaded_recipe = load_recipe(find_recipe(recipe), overrides)
    plan = resolve_recipe(loaded_recipe)
    if loaded_recipe.study is not None:
        from limbeck.workflows.study.variants import check_variants

        check_variants(loaded_recipe)
    check_constructors(plan)
    _check_model_names(plan)
    try:
        with no_downloads():
            _rehearse(loaded_recipe)
    except DataNotFoundError as error:
        if plan.data.settings.get("root") is not None:
            raise
        return f"{recipe}: recipe is valid; its data were not found, so the networks were not run ({error})"
    return f"{recipe}: recipe is valid, and its networks run on its data"


def _check_model_names(plan: ResolvedRecipe) -> None:
    """Refuse names that timm and torchvision do not have, also where there are no data."""
    nodes = [plan.student, *plan.teachers.values(), *plan.assistants.values(), *plan.peers.values()]
    for node in nodes:
        if node.target in (timm, torchvision):
            try:
                require_model_name("timm" if node.target is timm else "torchvision", str(node.settings["name"]))
            except LimbeckError as error:
                raise LimbeckError(f"{node.config_path}: {error}") from error


def _rehearse(recipe: Recipe) -> None:
    """Load the data, with images that are read on access, and run every stage on two samples."""
    # The processes of `devices` and `strategy` start with the training.
    training = recipe.training.model_copy(update={"devices": None, "strategy": "auto"})
    data, target = recipe.data, resolve_recipe(recipe).data.target
    if "cache_mb" in inspect.signature(target).parameters:
        data = validate(Node, {**to_plain(data), "cache_mb": 0})
    with TemporaryDirectory() as folder:
        Job.from_recipe(recipe.model_copy(update={"training": training, "data": data}), Path(folder)).validate()
