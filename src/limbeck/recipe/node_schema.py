"""The nodes of a recipe: objects to build, by the name under ``use``, with their settings.

:mod:`limbeck.recipe.resolve_node` compares the settings with the signature of what is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from limbeck.core.errors import LimbeckError
from limbeck.recipe.validation import Number, StrictBool, StrictInt, StrictStr, format_value, raise_validation_error

__all__ = ["LossNode", "Node", "NormalizationNode", "SchedulerNode", "TeacherNode", "load_class_names"]

BackendName = Literal["auto", "eager", "fold_batchnorm", "compile", "onnxruntime", "openvino"]

_NODE_CONFIG: Final = ConfigDict(extra="allow", frozen=True)
_NORMALIZATIONS: Final = ("data", "imagenet", "none")


def _parse_weight(value: Any) -> Any:
    if isinstance(value, Mapping | Node):
        return Node.model_validate(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise_validation_error(f"{format_value(value)} is not a number or a schedule")
    try:
        number = float(value)
    except ValueError:
        raise_validation_error(f"{format_value(value)} is not a number or a schedule, such as {{use: linear, …}}")
    return number if math.isfinite(number) else raise_validation_error(f"{format_value(value)} is not a finite number")


def _parse_normalization(value: Any) -> Any:
    if isinstance(value, Mapping | NormalizationNode):
        return NormalizationNode.model_validate(value)
    allowed = ", ".join(map(repr, _NORMALIZATIONS))
    return value if value in _NORMALIZATIONS else raise_validation_error(
        f"{format_value(value)} is not one of {allowed}, nor {{mean: [...], std: [...]}}"
    )  # fmt: skip


def _parse_class_names(value: Any) -> Any:
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    return value if isinstance(value, str) else raise_validation_error(
        f"{format_value(value)} is no list of class names, such as [cat, dog], and no file that holds them"
    )  # fmt: skip


def _expand_shorthand(value: Any) -> Any:
    """A mapping with ``use``, for which the name is short."""
    if isinstance(value, str):
        return {"use": value}
    if not isinstance(value, Mapping):
        is_node = isinstance(value, BaseModel)
        return value if is_node else raise_validation_error(f"{format_value(value)} is not a node: write {{use: NAME}}")
    if "use" not in value:
        raise_validation_error(f"{format_value(value)} lacks `use`, the name of what to build")
    for key in value:
        if not isinstance(key, str):
            raise_validation_error(f"the key {format_value(key)} is not text: put it in quotes")
    return value


@final
class Node(BaseModel):
    """An object to build, by its name, with its settings as further keys."""

    model_config = _NODE_CONFIG
    use: StrictStr

    expand_shorthand = model_validator(mode="before")(_expand_shorthand)


@final
class LossNode(BaseModel):
    """A loss of an objective, with its weight: a number or a schedule.

    With ``gather_distributed`` it gets the outputs of all processes, see :func:`limbeck.distiller.gather_context`.
    """

    model_config = _NODE_CONFIG
    use: StrictStr
    weight: Annotated[float | Node, BeforeValidator(_parse_weight)] = 1.0
    gather_distributed: StrictBool = False

    expand_shorthand = model_validator(mode="before")(_expand_shorthand)


@final
class NormalizationNode(BaseModel):
    """Mean and standard deviation of each channel, for pixels in 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mean: tuple[Number, ...]
    std: tuple[Annotated[Number, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        if len(self.mean) != len(self.std) or not self.mean:
            raise_validation_error(
                f"mean has {len(self.mean)} channels and std {len(self.std)}: give one of each for every channel"
            )
        return self


@final
class TeacherNode(BaseModel):
    """A teacher network, or an external teacher.

    Attributes:
        weights: a file or a run folder; ``None``: the teacher is trained first, by ``teacher_training``.
        backend: the runtime of its forward pass, see :class:`limbeck.teachers.InferenceBackend`.
        train_fraction: stops its training after this fraction of the steps, as an early-stopped teacher may distill
            better (Cho & Hariharan, ICCV 2019, https://arxiv.org/abs/1910.01348).
        input_size: shorter side of its images, where it differs from the student's.
        normalize: normalization of its inputs, where it differs from the student's.
        class_names: its classes in the order of its outputs: a list, or a file with one name a line.
        missing_classes: ``mask`` allows classes of the data that it lacks (:mod:`limbeck.teachers.adapter`).
        coverage: the samples it has outputs for: ``finite``, where its row is not NaN, or a mask in a ``.npy`` file
            (:mod:`limbeck.teachers.masked`).
    """

    model_config = _NODE_CONFIG
    use: StrictStr
    weights: StrictStr | None = None
    backend: BackendName = "eager"
    train_fraction: Annotated[Number, Field(gt=0, le=1)] | None = None
    input_size: Annotated[StrictInt, Field(ge=1)] | None = None
    normalize: Annotated[
        Literal["data", "imagenet", "none"] | NormalizationNode | None, BeforeValidator(_parse_normalization)
    ] = None
    class_names: Annotated[StrictStr | tuple[StrictStr, ...] | None, BeforeValidator(_parse_class_names)] = None
    missing_classes: Literal["error", "mask"] = "error"
    coverage: StrictStr | None = None

    expand_shorthand = model_validator(mode="before")(_expand_shorthand)

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        if self.train_fraction is not None and self.weights is not None:
            raise_validation_error(
                f"train_fraction: {self.train_fraction:g} ends a training early, and a teacher with weights is not "
                "trained: drop one"
            )
        if self.missing_classes == "mask" and self.class_names is None:
            raise_validation_error(
                "missing_classes: mask leaves out classes that the teacher does not have, and it names none: give "
                "class_names"
            )
        return self


@final
class SchedulerNode(BaseModel):
    """A learning-rate scheduler, stepped after each optimizer ``step`` or each ``epoch``."""

    model_config = _NODE_CONFIG
    use: StrictStr
    interval: Literal["step", "epoch"] = "step"

    expand_shorthand = model_validator(mode="before")(_expand_shorthand)


def load_class_names(source: str | Sequence[str], *, config_path: str) -> tuple[str, ...]:
    """The class names of a teacher; ``source`` is a list of them, or the path of a file with one name a line.

    Raises:
        LimbeckError: if the file cannot be read or holds no name.

    >>> load_class_names(["cat", "dog"], config_path="teachers.big.class_names")
    ('cat', 'dog')
    """
    if not isinstance(source, str):
        return tuple(source)
    try:
        lines = Path(source).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LimbeckError(
            f"{config_path}: {source} could not be read ({type(error).__name__}): give a text file with one name a "
            "line, or a list of names"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise LimbeckError(
            f"{config_path}: {source} holds no name: write one a line, in the order of the teacher's outputs"
        )
    return names
