"""The nodes of a recipe: things to build, by the name under ``use``, with their settings beside it.

They are kept as they were written; :mod:`limbeck.recipe.resolve` compares them with what they name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from limbeck.recipe.messages import format_value
from limbeck.recipe.scalars import Number, StrictBool, StrictInt, StrictStr, raise_validation_error, validation_error

__all__ = ["LossNode", "Node", "NormalizationNode", "SchedulerNode", "TeacherNode"]

BackendName = Literal["auto", "eager", "fold_batchnorm", "compile", "onnxruntime", "openvino"]

_STRICT_CONFIG: Final = ConfigDict(extra="forbid", frozen=True)
_NODE_CONFIG: Final = ConfigDict(extra="allow", frozen=True)


def _parse_weight(value: Any) -> Any:
    if isinstance(value, Mapping | Node):
        return Node.model_validate(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise validation_error(f"{format_value(value)} is not a number or a schedule")
    try:
        number = float(value)
    except ValueError:
        raise validation_error(
            f"{format_value(value)} is not a number or a schedule, such as {{use: linear, …}}"
        ) from None
    if not math.isfinite(number):
        raise validation_error(f"{format_value(value)} is not a finite number")
    return number


def _parse_normalization(value: Any) -> Any:
    if isinstance(value, Mapping | NormalizationNode):
        return NormalizationNode.model_validate(value)
    allowed = ("data", "imagenet", "none")
    return value if value in allowed else raise_validation_error(
        f"{format_value(value)} is not one of {', '.join(map(repr, allowed))}, nor {{mean: [...], std: [...]}}"
    )  # fmt: skip


def _parse_class_names(value: Any) -> Any:
    """Names are a list of them, or a file."""
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    if not isinstance(value, str):
        raise_validation_error(
            f"{format_value(value)} is no list of class names, such as [cat, dog], and no file that holds them"
        )
    return value


def _expand_shorthand(value: Any) -> Any:
    """A mapping with ``use``; the name alone is short for it."""
    if isinstance(value, str):
        return {"use": value}
    if not isinstance(value, Mapping):
        return (
            value
            if isinstance(value, BaseModel)
            else raise_validation_error(f"{format_value(value)} is not a node: write {{use: NAME}}")
        )
    if "use" not in value:
        raise_validation_error(f"{format_value(value)} lacks `use`, the name of what to build")
    for key in value:
        if not isinstance(key, str):
            raise_validation_error(f"the key {format_value(key)} is not text: put it in quotes")
    return value


@final
class Node(BaseModel):
    """Something to build: what it is, and its settings beside that."""

    model_config = _NODE_CONFIG
    use: StrictStr

    expand_shorthand = model_validator(mode="before")(_expand_shorthand)


@final
class LossNode(BaseModel):
    """A loss of an objective, with its weight: a number or a schedule.

    With ``gather_distributed`` it gets what all processes said together, see :func:`limbeck.distiller.gather_context`.
    """

    model_config = _NODE_CONFIG
    use: StrictStr
    weight: Annotated[float | Node, BeforeValidator(_parse_weight)] = 1.0
    gather_distributed: StrictBool = False

    expand_shorthand = model_validator(mode="before")(_expand_shorthand)


@final
class NormalizationNode(BaseModel):
    """Mean and spread of each channel, for pixels in 0..1."""

    model_config = _STRICT_CONFIG
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
    """A teacher; ``weights`` is a file or a run folder, and without it the network is trained first.

    ``backend`` is what a network's answers are computed by, see :class:`limbeck.teachers.InferenceBackend`. ``train_fraction`` ends the
    training early, after this fraction of its steps, since a teacher that was stopped early may teach a small student
    better (Cho & Hariharan, ICCV 2019, https://arxiv.org/abs/1910.01348).

    Where it sees and names things otherwise than the student: ``input_size`` is the shorter side of its pictures,
    ``normalize`` what is taken off them, ``class_names`` the names of its classes in its order, and ``missing_classes: mask``
    allows that some of the data's are not among them (:mod:`limbeck.teachers.adapter`). ``coverage`` says for which
    samples it has an answer: ``finite``, where its row is not NaN, or a mask in a ``.npy`` file
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
                f"train_fraction: {self.train_fraction:g} ends a training early, and a teacher with weights is not trained: drop one"
            )
        if self.missing_classes == "mask" and self.class_names is None:
            raise_validation_error(
                "missing_classes: mask leaves classes out that are missing among the teacher's, and it names none: give "
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
