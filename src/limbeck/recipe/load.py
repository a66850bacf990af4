"""Reading recipes, from files, text and the recipes that come with limbeck, and writing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.recipe import yaml_io
from limbeck.recipe.overrides import apply_overrides
from limbeck.recipe.resolve import fill_defaults
from limbeck.recipe.schema import Recipe, to_plain
from limbeck.recipe.trust import require_trusted
from limbeck.utils.validation import format_value, validate

__all__ = ["find_recipe", "list_recipes", "load_recipe", "to_yaml"]

_RECIPE_DIR: Final = Path(__file__).parent.parent / "recipes"


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and check its keys and types; :func:`limbeck.recipe.resolve_recipe` checks the nodes.

    Args:
        source: a path, or YAML text; a file's name is the name of a recipe without ``name``.
        overrides: changed settings, as ``path.to.setting=value``.

    Raises:
        LimbeckError: with the dotted path of the first mistake; or a file names plugins that are not trusted, see
            :func:`~limbeck.recipe.trust_plugins`. The plugins of YAML text are those of the calling script.

    >>> text = '''
    ... task: Classification
    ... data: Digits
    ... student: {use: small_cnn, width: 8}
    ... stages:
    ...   - {name: pretrain, epochs: 30, objective: {target: CrossEntropyLoss}}
    ... '''
    >>> recipe = load_recipe(text, ["stages.0.epochs=5", "training.optimizer.lr=1e-2"])
    >>> recipe.stages[0].epochs, recipe.training.optimizer.lr
    (5, 0.01)
    """
    text, source_name = yaml_io.read_source(source)
    data = yaml_io.parse_yaml(text, source_name)
    if data is None:
        raise LimbeckError(f"{source_name} is empty: a recipe needs task, data, student and stages")
    if not isinstance(data, Mapping):
        raise LimbeckError(
            f"{source_name} is {format_value(data)}, and a recipe is a mapping of settings, such as `seed: 0`"
        )
    is_file = source_name == str(source)
    default_name = {"name": Path(source_name).stem} if is_file and "name" not in data else {}
    recipe = validate(Recipe, apply_overrides({**default_name, **data}, overrides))
    if is_file:
        require_trusted(recipe.plugins, source_name)
    return recipe


def to_yaml(recipe: Recipe, *, provided: Mapping[str, Any] | None = None) -> str:
    """The recipe as YAML with every setting, defaults included, in the order of the schema.

    Settings that the data decides (classes, channels) are written only if ``provided``.
    """
    return yaml_io.dump_yaml(to_plain(fill_defaults(recipe, provided=provided)))


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: ``name`` is a path, or the name of a recipe that comes with limbeck.

    >>> find_recipe("digits").name
    'digits.yaml'
    """
    path = Path(name)
    if path.is_file() or path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path
    builtin = _RECIPE_DIR / f"{name}.yaml"
    if not builtin.exists():
        if path.is_dir():
            raise LimbeckError(
                f"a recipe must be a YAML file, got the folder {name}: for a folder of images, write one with "
                f"limbeck new --data {name} --teacher MODEL --student MODEL"
            )
        names = [*(file.name for file in sorted(Path().glob("*.y*ml"))), *(recipe for recipe, _ in list_recipes())]
        raise LimbeckError(
            f"there is no file {str(name)!r}, and no recipe of that name; available: {suggest_names(str(name), names)}"
        )
    return builtin


def list_recipes() -> list[tuple[str, str]]:
    """Name and first comment line of each recipe that comes with limbeck."""
    return [
        (path.stem, path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
        for path in sorted(_RECIPE_DIR.glob("*.yaml"))
    ]
