"""``limbeck predict``: the classes of image files, by the student of a run or by an exported file.

Neither reads the data of the run: preprocessing and class names are those of the record, or of the file's metadata.
"""

from __future__ import annotations

import csv
import glob
import io
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, final

import torch
from torch import Tensor, nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import loss_attribute
from limbeck.data import Normalization, NormalizedModel
from limbeck.data.image_files import IMG_EXTENSIONS
from limbeck.data.image_preprocessing import ImagePreprocessing
from limbeck.export import load_onnx, read_model_metadata
from limbeck.models import load_weights
from limbeck.recipe import load_recipe, resolve_recipe
from limbeck.report.formatting import escape_csv
from limbeck.report.record_io import read_record
from limbeck.utils.console import escape_controls, format_json, print_text
from limbeck.utils.io import write_text
from limbeck.utils.logits import find_logits

__all__ = ["ImageClassifier", "find_images", "load_image_classifier", "predict"]

OutputFormat: TypeAlias = Literal["csv", "json"]
_Row: TypeAlias = tuple[Path, list[dict[str, Any]]]
_BATCH_SIZE: Final = 64
_MAX_BATCH_PIXELS: Final = 2**24
"""So that the images of a batch take some hundred megabytes."""


@final
@dataclass(frozen=True, slots=True)
class ImageClassifier:
    """A classifier of image files.

    Args:
        network: maps images ``[n, channels, height, width]`` in 0..1 to logits ``[n, classes]``.
        class_names: by class index.
        preprocessing: from a file to such an image.
    """

    network: Callable[[Tensor], Tensor]
    class_names: tuple[str, ...]
    preprocessing: ImagePreprocessing

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities ``[n, classes]`` of ``images`` ``[n, channels, height, width]`` in 0..1.

        Raises:
            LimbeckError: the network does not give one finite logit for each class.
        """
        logits = self.network(images)
        if logits.ndim != 2 or logits.shape[1] != len(self.class_names):
            raise LimbeckError(
                f"logits must be [n, {len(self.class_names)}], one for each class name, got {list(logits.shape)}"
            )
        if not logits.isfinite().all():
            raise LimbeckError("logits must be finite, got NaN or infinity: the weights are damaged; train it again")
        return logits.double().softmax(dim=1)

    def predict(self, images: Tensor, *, top_k: int = 1) -> list[list[dict[str, Any]]]:
        """For each image its ``top_k`` classes, the most probable first: ``class``, ``index`` and ``probability``."""
        values, indices = self.probabilities(images).topk(min(top_k, len(self.class_names)), dim=1)
        return [
            [
                {"class": self.class_names[index], "index": index, "probability": round(value, 6)}
                for value, index in zip(row_values, row_indices, strict=True)
            ]
            for row_values, row_indices in zip(values.tolist(), indices.tolist(), strict=True)
        ]


def predict(
    model: str | Path, images: Sequence[str], *, top_k: int = 1, output_format: OutputFormat | None = None,
    output_path: str | Path | None = None,
) -> int:  # fmt: skip
    """Classify image files; prints or writes one row for each image and rank. Returns the exit status.

    Args:
        model: a run folder, or an ONNX file that limbeck exported.
        images: files, folders (with their subfolders) and globs.
        top_k: classes of each image, the most probable first.
        output_format: ``None``: by the suffix of ``output_path``, else CSV.
        output_path: the file; ``None``: standard output.

    Returns:
        0, or 1 where an image could not be read; each such file is a line on standard error.

    Raises:
        LimbeckError: the model is no image classifier, or there is no image.
    """
    if top_k < 1:
        raise LimbeckError(f"--top-k must be at least 1, got {top_k}")
    output_path = None if output_path is None else Path(output_path)
    output_format = output_format or _format_of(output_path)
    paths, classifier = find_images(images), load_image_classifier(Path(model))
    rows, errors = list[_Row](), list[LimbeckError]()
    batch_size = min(_BATCH_SIZE, max(1, _MAX_BATCH_PIXELS // math.prod(classifier.preprocessing.size)))
    for start in range(0, len(paths), batch_size):
        rows += _predict_batch(classifier, paths[start : start + batch_size], top_k, errors)
    for error in errors:
        print_text(f"limbeck: {error}", file=sys.stderr)
    text = escape_controls(_to_csv(rows) if output_format == "csv" else _to_json(rows))
    if output_path is None:
        print_text(text, end="")
    else:
        write_text(output_path, text)
        print_text(f"{output_path}: {len(rows)} of {len(paths)} images", file=sys.stderr)
    return int(bool(errors))


def find_images(images: Sequence[str]) -> list[Path]:
    """The image files that files, folders and globs name, in order and each once.

    Raises:
        LimbeckError: one of ``images`` names no image.
    """
    paths = list[Path]()
    for name in images:
        path = Path(name)
        if path.suffix == ".onnx" or (path / "record.json").is_file():
            raise LimbeckError(
                f"{name} must be an image, a folder of images or a glob, got a model: the run or ONNX file "
                "comes first, then the images"
            )
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if _is_image(file)]
        elif path.exists():
            files = [path]
        else:
            matches = glob.glob(name, recursive=True)  # noqa: PTH207 (the pattern may be absolute)
            files = [file for file in map(Path, sorted(matches)) if _is_image(file)]
        if not files:
            raise LimbeckError(f"{name} must be an image, a folder of images or a glob, got none: check the path")
        paths += files
    return list(dict.fromkeys(paths))


def load_image_classifier(path: Path) -> ImageClassifier:
    """The classifier in a run folder or an exported file.

    Raises:
        LimbeckError: there is none at ``path``, or it is no classifier of images.
    """
    if path.is_dir():
        return _load_run(path)
    metadata = read_model_metadata(path)
    preprocessing = _require_preprocessing(metadata.preprocessing, metadata.task, path)
    network = load_onnx(str(path), name=str(path), num_threads=torch.get_num_threads())
    return ImageClassifier(network, metadata.class_names, preprocessing)


def _load_run(folder: Path) -> ImageClassifier:
    data = (record := read_record(folder / "record.json")).data
    values = None if data.preprocessing is None else ImagePreprocessing.from_dict(data.preprocessing)
    preprocessing = _require_preprocessing(values, record.task.name, folder)
    if not (folder / "recipe.yaml").exists():
        raise LimbeckError(f"{folder} was trained in Python and has no recipe: give its exported file, student.onnx")
    plan = resolve_recipe(load_recipe(folder / "recipe.yaml"))
    facts = {**data.facts, "class_names": data.classes}  # the facts of a record hold no long lists
    objective, _ = plan.stages[-1].build_objective(**facts, seed=plan.recipe.seed)
    if any(loss_attribute(loss, "replaces_classifier") for loss in objective.values()):
        from limbeck.workflows._job.job import Job

        student = Job.from_run(folder).build_deployed_student()
    else:
        student = plan.student.build(**facts)
    normalization = Normalization(preprocessing.mean, preprocessing.std)
    network = NormalizedModel(load_weights(student, folder), normalization, num_dims=3).eval()
    return ImageClassifier(_logits_of(network), tuple(data.classes), preprocessing)


def _logits_of(network: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        logits = find_logits(network(images))
        if logits is None:
            raise LimbeckError(f"{type(network).__name__} must return logits")
        return logits

    return run


def _require_preprocessing(preprocessing: ImagePreprocessing | None, task: str, path: Path) -> ImagePreprocessing:
    if task not in ("", "Classification"):
        raise LimbeckError(f"limbeck predict takes classifiers of images, and {path} is of the task {task}")
    if preprocessing is not None:
        return preprocessing
    raise LimbeckError(
        f"{path} does not say how an image becomes its input: limbeck did not export it, an older version did, or its "
        "data are no images or have transforms of their own; call limbeck.export.predict_onnx with its inputs"
    )


def _predict_batch(
    classifier: ImageClassifier, paths: Sequence[Path], top_k: int, errors: list[LimbeckError]
) -> list[_Row]:
    """The predictions of the images that can be read; the others are added to ``errors``."""
    images = dict[Path, Tensor]()
    for path in paths:
        try:
            images[path] = classifier.preprocessing.read([path])
        except LimbeckError as error:
            errors.append(error)
    if not images:
        return []
    return list(zip(images, classifier.predict(torch.cat([*images.values()]), top_k=top_k), strict=True))


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")


def _format_of(path: Path | None) -> OutputFormat:
    suffix = ".csv" if path is None else path.suffix.lower()
    if suffix not in (".csv", ".json"):
        raise LimbeckError(f"--out must end in .csv or .json, got {path}; or give --format")
    return "json" if suffix == ".json" else "csv"


def _to_csv(rows: Sequence[_Row]) -> str:
    """One line for each image and rank: ``file,rank,class,probability``."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["file", "rank", "class", "probability"])
    for path, predictions in rows:
        for rank, entry in enumerate(predictions, start=1):
            writer.writerow([escape_csv(str(path)), rank, escape_csv(entry["class"]), f"{entry['probability']:.6f}"])
    return buffer.getvalue()


def _to_json(rows: Sequence[_Row]) -> str:
    entries = [{"file": str(path), "predictions": predictions} for path, predictions in rows]
    return format_json(entries) + "\n"
