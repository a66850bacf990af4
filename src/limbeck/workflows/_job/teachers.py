"""A recipe's teachers as the run meets them: behind what translates their pictures and classes, and masked."""

from __future__ import annotations

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Teacher
from limbeck.data import DataModule, Normalization
from limbeck.recipe.node_schema import NormalizationNode, TeacherNode, load_class_names
from limbeck.teachers import InputMapping, MaskedTeacher, adapt_teacher, load_sample_mask, match_classes

__all__ = ["adapt_teacher_network", "mask_teacher"]


def adapt_teacher_network(network: nn.Module, config: TeacherNode, data: DataModule, *, config_path: str) -> nn.Module:
    """``network`` as the run calls it: with its own size, normalization and classes, where the recipe says some."""
    if config.coverage == "finite":
        network.allow_missing = True  # type: ignore[assignment]  # nn.Module is typed to hold tensors and modules only
    try:
        mapping = InputMapping(
            data_normalization=data.normalization,
            teacher_normalization=_teacher_normalization(config, data),
            input_size=config.input_size,
            class_indices=_class_indices(config, data),
        )
        return adapt_teacher(network, mapping)
    except LimbeckError as error:
        raise LimbeckError(f"{config_path}: {error}") from error


def mask_teacher(teacher: Teacher, config: TeacherNode | None, data: DataModule, *, config_path: str) -> Teacher:
    """``teacher``, absent for the samples that the recipe says it has no output for."""
    if config is None:  # an assistant
        return teacher
    class_indices = _class_indices(config, data) or ()
    missing_classes = [index for index, class_index in enumerate(class_indices) if class_index < 0]
    try:
        covered_samples = None if config.coverage in (None, "finite") else load_sample_mask(str(config.coverage))
    except LimbeckError as error:
        raise LimbeckError(f"{config_path}.coverage: {error}") from error
    if covered_samples is None and not missing_classes:
        return teacher
    if covered_samples is not None and len(covered_samples) <= int(data.train.sample_ids.max()):
        raise LimbeckError(
            f"{config_path}.coverage: {config.coverage} holds {len(covered_samples)} samples, and the sample ids of "
            "the training split go up to "
            f"{int(data.train.sample_ids.max())}: give one for each, in the order of the source"
        )
    return MaskedTeacher(teacher, sample_mask=covered_samples, unknown_classes=missing_classes)


def _teacher_normalization(config: TeacherNode, data: DataModule) -> Normalization | None:
    channels = data.input_shape[0]
    if isinstance(config.normalize, NormalizationNode):
        if len(config.normalize.mean) != channels:
            raise LimbeckError(
                f"normalize has {len(config.normalize.mean)} channels, and the images have {channels}: give one mean "
                "and one std for each"
            )
        return Normalization(tuple(config.normalize.mean), tuple(config.normalize.std))
    if config.normalize in (None, "data"):
        return None
    return Normalization.imagenet(channels) if config.normalize == "imagenet" else Normalization.none(channels)


def _class_indices(config: TeacherNode, data: DataModule) -> tuple[int, ...] | None:
    if config.class_names is None:
        return None
    return match_classes(
        load_class_names(config.class_names, config_path="class_names"),
        data.class_names,
        missing_classes=config.missing_classes,
    )
