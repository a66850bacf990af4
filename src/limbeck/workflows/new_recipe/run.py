"""``limbeck new``: write a recipe for a folder of images, a teacher and a student, after checking it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from limbeck.core.errors import LimbeckError
from limbeck.evaluation.cost import count_parameters
from limbeck.recipe import load_recipe
from limbeck.recipe.trust import require_trusted, trust_plugins
from limbeck.recipe.yaml_io import dump_compact
from limbeck.utils.console import escape_controls, print_text
from limbeck.utils.io import write_text
from limbeck.workflows._job.data_cache import DataCache
from limbeck.workflows._job.job import Job
from limbeck.workflows.new_recipe.image_summary import ImageSummary, summarize_images
from limbeck.workflows.new_recipe.network_spec import NetworkSpec, read_student, read_teacher

__all__ = ["new_recipe"]

_BATCH_SIZE: Final = 64
"""The default of recipes."""
_EPOCHS: Final = 30
_MIN_STEPS: Final = 400
"""A folder of few images needs more epochs."""
_SMALL_NETWORK: Final = 1_000_000
"""Parameters."""
_SIZES: Final = (32, 224)
_AFFINE: Final = {"use": "affine", "degrees": 10, "scale": [0.9, 1.1], "translate": 0.06}


def new_recipe(
    *, data: Path, teacher: str, student: str, output: Path = Path("recipe.yaml"), teacher_weights: str | None = None,
    pretrained: bool = False, size: int | None = None, channels: int | None = None,
    num_labeled: int | None = None, unlabeled: str | None = None,
) -> str:  # fmt: skip
    """Write a recipe that distills ``student`` from ``teacher`` on the images in ``data``.

    The data is loaded, the networks are built, and every stage runs once on two samples before the file is written.

    Args:
        data: a folder with one folder of images per class, or with ``train``, ``val`` and ``test`` of such folders.
        teacher: ``timm:NAME``, ``torchvision:NAME``, ``hf:FOLDER``, ``onnx:FILE``, the folder of a finished run, or
            ``my_module:Net``. It is trained first, unless it has weights for the classes of the data.
        student: ``timm:NAME``, ``torchvision:NAME``, ``hf:FOLDER``, ``my_module:Net``, or a network of limbeck.
        output: the file, which must not exist.
        teacher_weights: a file with weights of the teacher for the classes of the data.
        pretrained: start networks of timm and torchvision from their published weights.
        size: shorter side of the images; ``None``: that of the images or the networks, from 32 to 224.
        channels: 1 for gray images, 3 for color; ``None``: that of the networks or the images.
        num_labeled: number of training images whose label is used; ``None``: all.
        unlabeled: a folder in ``data``, or a path, with further training images without a label.

    Returns:
        What was written, and the next command.

    Raises:
        LimbeckError: the file exists, or one of the errors that ``limbeck distill`` would report. Nothing is written.
    """
    if output.suffix not in (".yaml", ".yml") or output.exists():
        problem = "which exists: remove it, or choose another" if output.exists() else "which is no name of a YAML file"
        raise LimbeckError(f"--out must be a new .yaml file, got {output}, {problem}")
    print_text(f"reading the images in {data} …", file=sys.stderr)
    images = summarize_images(data, unlabeled=unlabeled)
    teacher_spec = read_teacher(teacher, images.class_names, weights=teacher_weights, pretrained=pretrained)
    student_spec = read_student(student, pretrained=pretrained)
    document = _make_document(
        data,
        images,
        teacher_spec,
        student_spec,
        size=size,
        channels=channels,
        num_labeled=num_labeled,
        unlabeled=unlabeled,
    )
    title = escape_controls(" ".join(f"{student} from {teacher} on the images in {data}".split()))
    print_text("building the networks, and running each stage on two samples …", file=sys.stderr)
    cache = DataCache()
    with TemporaryDirectory() as folder:
        job = Job.from_recipe(load_recipe(dump_compact(document)), Path(folder), data_cache=cache)
        counts = [count_parameters(network) for network in (job.build_teacher("teacher"), job.build_student())]
        document |= _make_stages(teacher_spec, num_labeled=job.data.num_labeled, num_train=len(job.data.train))
        document["training"] = _training(counts, is_finetuning=_is_finetuning(teacher_spec, student_spec))
        text = f"# {title}\n{dump_compact(document, width=120)}"
        recipe = load_recipe(text, [f"name={output.stem}"])
        job = Job.from_recipe(recipe, Path(folder), data_cache=cache)
        with _channels_hint(images.channels, channels):
            job.validate()
    write_text(output, text)
    with trust_plugins():  # those that the command line names, which were imported here already
        require_trusted(recipe.plugins, str(output))
    return _describe(output, images, job, teacher_spec, counts)


@contextmanager
def _channels_hint(image_channels: int, channels: int | None) -> Iterator[None]:
    """Name ``--channels`` in an error where the images are gray, which a network for color images does not take."""
    try:
        yield
    except LimbeckError as error:
        if image_channels != 1 or channels is not None:
            raise
        raise LimbeckError(f"{error}; the images are gray: for networks of color images give --channels 3") from error


def _make_document(
    root: Path, images: ImageSummary, teacher: NetworkSpec, student: NetworkSpec, *, size: int | None,
    channels: int | None, num_labeled: int | None, unlabeled: str | None,
) -> dict[str, Any]:  # fmt: skip
    """The recipe as plain data, for data of unknown length; what has its default value is left out."""
    channels = channels or student.channels or teacher.channels or images.channels
    image_size = min(max(images.size, _SIZES[0]), _SIZES[1])
    data_size = (student.size or teacher.size or image_size) if size is None else size
    node = dict(teacher.node)
    if teacher.size not in (None, data_size) and not node["use"].startswith("onnx:"):
        node["input_size"] = teacher.size
    transforms = [_AFFINE] if channels == 1 else [_AFFINE, "color_jitter"]
    data: dict[str, Any] = {"use": "ImageFolder", "root": str(root)}
    data |= {} if images.is_uniform and images.size == data_size else {"size": data_size}
    data |= {"channels": channels} if channels != 3 else {}
    data |= {} if num_labeled is None else {"num_labeled": num_labeled}
    data |= {} if unlabeled is None else {"unlabeled": unlabeled}
    data["augment"] = {"use": "Augmentation", "transforms": transforms}
    plugins = list(dict.fromkeys([*teacher.plugins, *student.plugins]))
    return {
        **({"plugins": plugins} if plugins else {}),
        "task": "Classification",
        "data": data,
        "teachers": {"teacher": node},
        "student": student.node["use"] if len(student.node) == 1 else student.node,
        **_make_stages(teacher),
        "training": {},
        "export": {"to": ["onnx"]},
    }


def _make_stages(teacher: NetworkSpec, *, num_labeled: int = 0, num_train: int = 0) -> dict[str, Any]:
    """The training of the teacher, on the labeled samples, and of the student."""
    stages: dict[str, Any] = {}
    if not teacher.is_trained:
        stages["teacher_training"] = {**_length(num_labeled), "objective": {"target": "CrossEntropyLoss"}}
    objective = {
        "target": {"use": "CrossEntropyLoss", "weight": 0.1},
        "kd": {"use": "KDLoss", "temperature": 4, "weight": 0.9},
    }
    return {**stages, "stages": [{"name": "distill", **_length(num_train), "objective": objective}]}


def _is_finetuning(*specs: NetworkSpec) -> bool:
    return any(spec.node.get("pretrained") or str(spec.node["use"]).startswith("hf:") for spec in specs)


def _training(num_parameters: Sequence[int], *, is_finetuning: bool) -> dict[str, Any]:
    """Optimizer and scheduler; a small network that starts from random weights takes a higher learning rate."""
    lr = 0.0005 if is_finetuning else 0.01 if max(num_parameters) < _SMALL_NETWORK else 0.002
    return {
        "optimizer": {"use": "AdamW", "lr": lr, "weight_decay": 0.01},
        "scheduler": {"use": "OneCycleLR", "max_lr": lr},
    }


def _length(num_samples: int) -> dict[str, int]:
    """Epochs, or steps where these are few."""
    steps = _EPOCHS * num_samples // _BATCH_SIZE
    return {"epochs": _EPOCHS} if steps >= _MIN_STEPS else {"steps": _MIN_STEPS}


def _describe(
    output: Path, images: ImageSummary, job: Job, teacher: NetworkSpec, num_parameters: Sequence[int]
) -> str:  # fmt: skip
    data, (teacher_count, student_count) = job.data, num_parameters
    lines = [
        f"{output} is checked and written: {images.num_images:,} images of {len(images.class_names)} classes as "
        f"{'×'.join(map(str, data.input_shape))}; {len(data.train):,} training samples ({data.num_labeled:,} "
        f"labeled), {len(data.validation):,} validation, {len(data.test):,} test",
        f"teacher: {f'{teacher_count:,} parameters' if teacher_count else 'an ONNX file'}, "
        f"{_describe_training(teacher)}; student: {student_count:,} parameters",
        f"next: {_python_path() if job.recipe.plugins else ''}limbeck distill {shlex.quote(str(output))}",
    ]
    return "\n".join(lines)


def _describe_training(teacher: NetworkSpec) -> str:
    if teacher.is_trained:
        return "with its weights"
    note = f" ({teacher.note})" if teacher.note else ""
    return f"fine-tuned first{note}" if _is_finetuning(teacher) else "trained first, from random weights"


def _python_path() -> str:
    """The setting by which networks of the user are found, for a command that is copied to another shell."""
    value = os.environ.get("PYTHONPATH")
    return f"PYTHONPATH={shlex.quote(value)} " if value else ""
