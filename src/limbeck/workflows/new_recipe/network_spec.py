"""The networks that ``limbeck new`` takes, as nodes of a recipe, with the inputs that they need."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from limbeck.core.errors import LimbeckError
from limbeck.data.normalization import Normalization
from limbeck.export import read_model_metadata
from limbeck.recipe import load_recipe
from limbeck.recipe.schema import to_plain
from limbeck.report.record_io import read_record
from limbeck.utils.model_folder import find_model_folder
from limbeck.utils.model_names import MODEL_PREFIXES

__all__ = ["NetworkSpec", "read_student", "read_teacher"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """A network of a recipe.

    Attributes:
        node: its node.
        is_trained: whether the node has weights for the classes of the data, so that it is not trained.
        size: the input size that it needs; ``None``: any.
        channels: likewise.
        plugins: packages that the recipe must list.
        note: why it is trained although it has weights.
    """

    node: dict[str, Any]
    is_trained: bool = False
    size: int | None = None
    channels: int | None = None
    plugins: tuple[str, ...] = ()
    note: str = ""


def read_student(name: str, *, pretrained: bool) -> NetworkSpec:
    """The student ``name``: ``timm:NAME``, ``my_module:Net``, or a network of limbeck."""
    if name.startswith("onnx:"):
        raise LimbeckError(f"--student must be a network that can be trained, got {name}: an ONNX file is a teacher")
    if (Path(name) / "recipe.yaml").is_file():
        raise LimbeckError(
            f"--student must be the name of a network, got the run {name}: name its network, such as timm:NAME"
        )
    return _read_named(name, pretrained=pretrained)


def read_teacher(name: str, class_names: Sequence[str], *, weights: str | None, pretrained: bool) -> NetworkSpec:
    """The teacher ``name``: as :func:`read_student`, an ONNX file (``onnx:FILE``), or the folder of a finished run.

    Args:
        name: of the network.
        class_names: the classes of the data.
        weights: a file with its weights for these classes; ``None``: it is trained, unless it comes with weights.
        pretrained: whether it starts from the weights that timm or torchvision publish.

    Raises:
        LimbeckError: a file is missing or damaged, or weights are given for a teacher that has its own.
    """
    if (Path(name) / "recipe.yaml").is_file():
        spec = _read_run(Path(name), class_names)
    elif name.startswith("onnx:"):
        spec = _read_onnx(name, class_names)
    else:
        spec = _read_named(name, pretrained=pretrained and weights is None)
        if name.startswith("hf:"):
            spec = _with_folder_weights(spec, name.removeprefix("hf:"), class_names)
        if weights is not None and not spec.is_trained:
            node = {**spec.node, "weights": weights}
            return NetworkSpec(node=node, is_trained=True, size=spec.size, channels=spec.channels, plugins=spec.plugins)
    if weights is not None:
        raise LimbeckError(f"--teacher-weights must not be given for {name}, which has its own: remove it")
    return spec


def _read_named(name: str, *, pretrained: bool) -> NetworkSpec:
    prefix, colon, rest = name.partition(":")
    node: dict[str, Any] = {"use": name}
    if pretrained and prefix in ("timm", "torchvision"):
        node["pretrained"] = True
    if prefix == "timm":
        return NetworkSpec(node=node, size=_timm_input_size(rest, pretrained=pretrained))
    if prefix == "hf":
        folder = find_model_folder(rest)
        config = _read_settings(folder / "config.json")
        size, channels = config.get("image_size"), config.get("num_channels")
        return NetworkSpec(
            node=node, size=size if isinstance(size, int) else None,
            channels=channels if channels in (1, 3) else None,
        )  # fmt: skip
    plugins = (prefix.partition(".")[0],) if colon and prefix not in MODEL_PREFIXES else ()
    return NetworkSpec(node=node, plugins=plugins)


def _timm_input_size(name: str, *, pretrained: bool) -> int | None:
    """The size of images of a timm network with a fixed input size or pretrained weights."""
    try:
        import timm
    except ImportError:
        return None  # building the network reports it
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None or not (pretrained or config.fixed_input_size):
        return None
    return int(config.input_size[-1])


def _with_folder_weights(spec: NetworkSpec, path: str, class_names: Sequence[str]) -> NetworkSpec:
    """``spec`` with the weights of the folder, where its classifier has the classes of the data."""
    folder = find_model_folder(path)
    labels = _read_settings(folder / "config.json").get("id2label")
    names = [str(name) for _, name in sorted(labels.items(), key=_label_index)] if isinstance(labels, Mapping) else []
    if not set(class_names) <= set(names) or len(set(names)) < len(names):
        shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
        return replace(spec, note=f"the classes of {path} are {shown or 'unknown'}, not those of the data")
    node = {**spec.node, "weights": path}
    if names != list(class_names):
        node["class_names"] = names
    preprocessor = folder / "preprocessor_config.json"
    settings = _read_settings(preprocessor) if preprocessor.is_file() else {}
    node |= _normalize_setting(settings.get("image_mean"), settings.get("image_std"))
    return NetworkSpec(node=node, is_trained=True, size=spec.size, channels=spec.channels)


def _label_index(item: tuple[Any, Any]) -> int:
    return int(item[0]) if str(item[0]).isdigit() else -1


def _read_onnx(name: str, class_names: Sequence[str]) -> NetworkSpec:
    file, node = Path(name.removeprefix("onnx:")), dict[str, Any](use=name)
    if not file.is_file():  # building the teacher reports it
        return NetworkSpec(node=node, is_trained=True)
    metadata = read_model_metadata(file)
    # An export of limbeck normalizes its inputs itself; one of an older version has no metadata.
    if metadata.preprocessing is not None or (file.parent / "record.json").is_file():
        node["input_type"] = "pixels"
    if metadata.class_names and metadata.class_names != tuple(class_names):
        node["class_names"] = list(metadata.class_names)
    channels, size = _onnx_image_shape(file)
    return NetworkSpec(node=node, is_trained=True, channels=channels, size=size)


def _onnx_image_shape(file: Path) -> tuple[int | None, int | None]:
    """Channels and size of the input of an ONNX file; ``None`` where it is variable."""
    import onnx

    inputs = onnx.load(str(file), load_external_data=False).graph.input
    dims = inputs[0].type.tensor_type.shape.dim if len(inputs) == 1 else []
    if len(dims) != 4:
        return None, None
    return dims[1].dim_value if dims[1].dim_value in (1, 3) else None, dims[2].dim_value or None


def _read_run(folder: Path, class_names: Sequence[str]) -> NetworkSpec:
    """The student of a finished run, as a teacher."""
    if not (folder / "record.json").is_file():
        raise LimbeckError(f"--teacher {folder} is not finished: go on with limbeck distill --resume --out {folder}")
    recipe, data = load_recipe(folder / "recipe.yaml"), read_record(folder / "record.json").data
    student = {key: value for key, value in to_plain(recipe.student).items() if key != "pretrained"}
    node = {**student, "weights": str(folder)}
    if data.classes and data.classes != list(class_names):
        node["class_names"] = data.classes
    if data.normalization is not None:
        node |= _normalize_setting(data.normalization.mean, data.normalization.std)
    channels, size = (data.shape[0], data.shape[2]) if len(data.shape) == 3 else (None, None)
    return NetworkSpec(node=node, is_trained=True, plugins=recipe.plugins, channels=channels, size=size)


def _normalize_setting(mean: Any, std: Any) -> dict[str, Any]:
    """The ``normalize`` of a teacher; empty for that of ImageNet, which is the default of the data."""
    if not (isinstance(mean, list) and isinstance(std, list) and mean):
        return {}
    imagenet = Normalization.imagenet(len(mean))
    is_default = (tuple(mean), tuple(std)) == (imagenet.mean, imagenet.std)
    return {} if is_default else {"normalize": {"mean": mean, "std": std}}


def _read_settings(path: Path) -> Mapping[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise LimbeckError(f"{path} must be a JSON file, got {type(error).__name__}: copy it again") from error
    return settings if isinstance(settings, Mapping) else {}
