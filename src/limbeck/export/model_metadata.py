"""What an exported file says about itself: the task, the class names, and how an image becomes its input.

They are JSON in ``metadata_props`` of the ONNX file, which onnxruntime returns as ``custom_metadata_map``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.data.image_preprocessing import ImagePreprocessing
from limbeck.utils.io import require_regular_file

__all__ = ["ModelMetadata", "read_model_metadata"]

_MAX_CLASSES = 1_000_000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """The metadata of an exported file.

    Args:
        task: name of the task, such as ``Classification``.
        class_names: by class index; empty where there are no classes.
        preprocessing: of an image classifier; ``None`` for other tasks, and where it is unknown.
        output: what the outputs are, where the task says so (``output_description``).
    """

    task: str
    class_names: tuple[str, ...] = ()
    preprocessing: ImagePreprocessing | None = None
    output: str = ""

    def to_props(self) -> dict[str, str]:
        """As text by key: ``task``, ``output``, and in JSON ``class_names`` and ``preprocessing``."""
        props = {"task": self.task}
        if self.class_names:
            props["class_names"] = json.dumps(self.class_names, ensure_ascii=False)
        if self.preprocessing is not None:
            props["preprocessing"] = json.dumps(self.preprocessing.to_dict())
        if self.output:
            props["output"] = self.output
        return props

    @classmethod
    def from_props(cls, props: Mapping[str, str]) -> ModelMetadata:
        """The metadata in :meth:`to_props`.

        Raises:
            LimbeckError: a value is no JSON, or not what an export writes.
        """
        names, preprocessing = (_parse_json(key, props.get(key, "null")) for key in ("class_names", "preprocessing"))
        names = [] if names is None else names
        if not isinstance(names, list) or len(names) > _MAX_CLASSES or not all(isinstance(n, str) for n in names):
            raise LimbeckError("class_names must be a list of names")
        return cls(
            task=props.get("task", ""), class_names=tuple(names), output=props.get("output", ""),
            preprocessing=None if preprocessing is None else ImagePreprocessing.from_dict(preprocessing),
        )  # fmt: skip


def read_model_metadata(path: Path) -> ModelMetadata:
    """The metadata of the ONNX file at ``path``; that of a file which limbeck has not written is empty.

    Raises:
        LimbeckError: the file is missing or damaged, or its metadata is invalid.
    """
    import onnx

    try:
        proto = onnx.load(str(require_regular_file(path)), load_external_data=False)
    except FileNotFoundError:
        raise LimbeckError(f"there is no ONNX file at {path}; export the student first") from None
    except Exception as error:  # a damaged file can raise nearly anything
        raise LimbeckError(f"{path} cannot be read as ONNX ({format_root_cause(error)}): export it again") from error
    try:
        return ModelMetadata.from_props({prop.key: prop.value for prop in proto.metadata_props})
    except LimbeckError as error:
        raise LimbeckError(f"the metadata of {path} is invalid: {error}; export it again") from error


def _parse_json(key: str, text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LimbeckError(f"{key} must be JSON") from error
    return value
