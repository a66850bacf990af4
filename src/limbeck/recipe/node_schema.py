"""Schema of the nodes of a recipe. A node is an object to build: its name under ``use``, and its settings.

:mod:`limbeck.recipe.resolve_node` checks the settings against the signature of the object.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self, final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from limbeck.core.errors import LimbeckError
from limbeck.core.limits import MAX_INPUT_SIZE
from limbeck.recipe.plugins import plugin_error
from limbeck.utils.model_names import expand_model_name
from limbeck.utils.validation import (
    Number,
    Settings,
    StrictBool,
    StrictInt,
    StrictStr,
    format_value,
    raise_validation_error,
)

__all__ = [
    "BaseNode", "FileName", "LossNode", "ModelNode", "Name", "Node", "NormalizationNode", "Plugin", "SchedulerNode",
    "TeacherName", "TeacherNode", "load_class_names",
]  # fmt: skip

_NORMALIZATIONS: Final = ("data", "imagenet", "none")
_RESERVED_NAMES: Final = (
    "baseline", "baseline_equal_time", "baseline_label_smoothing", "no_assistants", "distilled", "student_only",
    "equal_time", "label_smoothing",
)  # fmt: skip


def _name_validator(pattern: str, rule: str) -> Callable[[str], str]:
    def validate_name(value: str) -> str:
        return value if re.fullmatch(pattern, value) else raise_validation_error(f"{format_value(value)} is not {rule}")

    return validate_name


def _validate_teacher_name(value: str) -> str:
    if value == "student":
        raise_validation_error("a teacher cannot be named student, which is the student's name in feature_layers")
    if value in _RESERVED_NAMES:
        raise_validation_error(
            f"a teacher cannot be named {value}, which is one of the students of a run: choose another name"
        )
    return value


def _validate_plugin(value: str) -> str:
    return raise_validation_error(error) if (error := plugin_error(value)) else value


Name = Annotated[StrictStr, AfterValidator(_name_validator(r"\w[\w-]{0,99}", "a name: use letters, digits, _ and -"))]
FileName = Annotated[
    StrictStr,
    AfterValidator(_name_validator(r"\w[\w.-]{0,99}", "a name that can be a folder: use letters, digits, _, - and .")),
]
TeacherName = Annotated[Name, AfterValidator(_validate_teacher_name)]
Plugin = Annotated[StrictStr, AfterValidator(_validate_plugin)]


class BaseNode(BaseModel):
    """An object to build: its name, or a mapping with ``use`` and its settings as further keys."""

    model_config = ConfigDict(extra="allow", frozen=True)
    omit_if_default: ClassVar[tuple[str, ...]] = ()
    use: StrictStr

    @model_validator(mode="before")
    @classmethod
    def _expand_shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"use": value}
        if isinstance(value, BaseModel):
            return value
        if not isinstance(value, Mapping):
            raise_validation_error(f"{format_value(value)} is not a node: write {{use: NAME}}")
        if "use" not in value:
            raise_validation_error(f"{format_value(value)} lacks `use`, the name of the object to build")
        for key in value:
            if not isinstance(key, str):
                raise_validation_error(f"the key {format_value(key)} is not text: put it in quotes")
        return value


@final
class Node(BaseNode):
    """A node whose keys, besides ``use``, are all arguments of the object."""


def _expand_model_name(value: Any) -> Any:
    node = {"use": value} if isinstance(value, str) else value
    try:
        return expand_model_name(node) if isinstance(node, Mapping) else node
    except LimbeckError as error:
        raise_validation_error(str(error))


@final
class ModelNode(BaseNode):
    """A network, also by a name such as ``timm:resnet50`` (:mod:`limbeck.utils.model_names`)."""

    @model_validator(mode="before")
    @classmethod
    def _expand_model_name(cls, value: Any) -> Any:
        return _expand_model_name(value)


def _parse_weight(value: Any) -> Any:
    if isinstance(value, Mapping | Node):
        return Node.model_validate(value)
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise_validation_error(f"{format_value(value)} is not a number or a schedule, such as {{use: linear, …}}")
    return number if math.isfinite(number) else raise_validation_error(f"{format_value(value)} is not a finite number")


def _parse_normalization(value: Any) -> Any:
    if isinstance(value, Mapping | NormalizationNode):
        return NormalizationNode.model_validate(value)
    if value not in _NORMALIZATIONS:
        names = ", ".join(map(repr, _NORMALIZATIONS))
        raise_validation_error(f"{format_value(value)} is not one of {names}, nor {{mean: [...], std: [...]}}")
    return value


def _parse_class_names(value: Any) -> Any:
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    if not isinstance(value, str):
        raise_validation_error(
            f"{format_value(value)} is neither a list of class names, such as [cat, dog], nor the path of a file"
        )
    return value


@final
class LossNode(BaseNode):
    """A loss of an objective.

    Attributes:
        weight: its factor in the sum: a number, or a schedule such as ``{use: linear, start: 1, end: 0}``.
        gather_distributed: whether it receives the outputs of all processes, see
            :func:`limbeck.distiller.gather_context`.
    """

    omit_if_default = ("gather_distributed",)
    weight: Annotated[float | Node, BeforeValidator(_parse_weight)] = 1.0
    gather_distributed: StrictBool = False


@final
class NormalizationNode(Settings):
    """Mean and standard deviation of each channel, for pixels in 0..1.

    Attributes:
        mean: by channel.
        std: by channel.
    """

    display_name = "normalize"
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
class TeacherNode(BaseNode):
    """A teacher network, or an external teacher.

    Attributes:
        weights: a file or a run folder; ``None``: the teacher is trained first, see ``teacher_training``.
        backend: the runtime of its forward pass, see :class:`limbeck.teachers.InferenceBackend`.
        train_fraction: fraction of the steps after which its training stops; early-stopped teachers may distill better
            (Cho & Hariharan, ICCV 2019, https://arxiv.org/abs/1910.01348).
        input_size: shorter side of its images, where it differs from the student's.
        normalize: normalization of its inputs, where it differs from the student's.
        class_names: its classes in the order of its logits: a list, or a text file with one name per line.
        missing_classes: ``mask`` accepts a teacher that lacks classes of the data (:mod:`limbeck.teachers.adapter`).
        coverage: which samples it has outputs for: ``finite`` (those without NaN) or the path of a boolean mask, a
            ``.npy`` file (:mod:`limbeck.teachers.masked`).
    """

    omit_if_default = ("input_size", "normalize", "class_names", "missing_classes", "coverage")
    weights: StrictStr | None = None
    backend: Literal["auto", "eager", "fold_batchnorm", "compile", "onnxruntime", "openvino"] = "eager"
    train_fraction: Annotated[Number, Field(gt=0, le=1)] | None = None
    input_size: Annotated[StrictInt, Field(ge=1, le=MAX_INPUT_SIZE)] | None = None
    normalize: Annotated[
        Literal["data", "imagenet", "none"] | NormalizationNode | None, BeforeValidator(_parse_normalization)
    ] = None
    class_names: Annotated[StrictStr | tuple[StrictStr, ...] | None, BeforeValidator(_parse_class_names)] = None
    missing_classes: Literal["error", "mask"] = "error"
    coverage: StrictStr | None = None

    @model_validator(mode="before")
    @classmethod
    def _expand_model_name(cls, value: Any) -> Any:
        return _expand_model_name(value)

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        if self.train_fraction is not None and self.weights is not None:
            raise_validation_error(
                f"train_fraction: {self.train_fraction:g} stops the training early, but a teacher with weights is not "
                "trained: remove one"
            )
        if self.missing_classes == "mask" and self.class_names is None:
            raise_validation_error("missing_classes: mask needs the classes of the teacher: set class_names")
        return self


@final
class SchedulerNode(BaseNode):
    """A learning-rate scheduler.

    Attributes:
        interval: whether it is stepped after each optimizer ``step`` or after each ``epoch``.
    """

    interval: Literal["step", "epoch"] = "step"


def load_class_names(source: str | Sequence[str], *, config_path: str) -> tuple[str, ...]:
    """The class names of a teacher; ``source`` is a list of them, or the path of a text file with one name per line.

    Raises:
        LimbeckError: if the file cannot be read or contains no name.
    """
    if not isinstance(source, str):
        return tuple(source)
    try:
        lines = Path(source).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LimbeckError(
            f"{config_path}: {source} could not be read ({type(error).__name__}): give a text file with one name "
            "per line, or a list of names"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise LimbeckError(f"{config_path}: {source} contains no name: write one per line, in the order of the logits")
    return names
