"""The teachers of a recipe: with their input size, normalization, classes, coverage, backend and cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

from limbeck.core.errors import LimbeckError
from limbeck.core.protocols import Teacher
from limbeck.data import DataModule, Normalization
from limbeck.recipe.node_schema import NormalizationNode, TeacherNode, load_class_names
from limbeck.teachers import (
    CacheConfig,
    CachedTeacher,
    FrozenTeacher,
    InferenceBackend,
    InputMapping,
    MaskedTeacher,
    adapt_teacher,
    load_sample_mask,
    match_classes,
)
from limbeck.teachers.cache.cache_registry import cache_dir
from limbeck.teachers.cache.round_trip import RoundTripTeacher
from limbeck.utils.console import print_text
from limbeck.workflows._job.run_dir import require_writable

if TYPE_CHECKING:
    from limbeck.workflows._job.job import Job

FeatureLayers: TypeAlias = Mapping[str, str] | None
TeacherFactory: TypeAlias = "Callable[[Job, str, nn.Module, FeatureLayers], Teacher]"
"""Makes a teacher of a network, by its name, for the layers to read features from."""


def make_recipe_teacher(job: Job, name: str, network: nn.Module, feature_layers: FeatureLayers) -> Teacher:
    """``network`` as the teacher ``name`` of the recipe: with its backend, cache and coverage."""
    if name not in job.backends:
        log = partial(_print_backend, name) if job.processes.rank == 0 else None
        job.backends[name] = InferenceBackend(_backend_name(job, name), log=log)
    teacher: Teacher = FrozenTeacher(network, feature_layers, backend=job.backends[name])
    if job.recipe.cache is not None:
        cached = _open_cache(job, name, teacher)
        job.caches.append((name, cached))
        teacher = cached
    return _mask_teacher(job, name, teacher)


def make_uncached_teacher(job: Job, name: str, network: nn.Module, feature_layers: FeatureLayers) -> Teacher:
    """``network`` with the backend of the teacher ``name``."""
    return FrozenTeacher(network, feature_layers, backend=_backend_name(job, name))


def make_dry_run_teacher(job: Job, name: str, network: nn.Module, feature_layers: FeatureLayers) -> Teacher:
    """Like :func:`make_recipe_teacher`, without writing; two samples are too few to select a backend.

    With a cache, outputs have its precision, and those that are stored are compared with the teacher.
    """
    backend = InferenceBackend(_backend_name(job, name))
    backend.require_feature_support(feature_layers or {})
    # Compilation takes a minute, and auto drops a backend that fails.
    use_eager = backend.name in ("auto", "compile")
    teacher: Teacher = FrozenTeacher(network, feature_layers, backend="eager" if use_eager else backend)
    if job.recipe.cache is not None:
        if job.processes.rank == 0:
            require_writable(cache_dir(job.recipe.cache.root), "cache.root")
        _open_cache(job, name, FrozenTeacher(network, feature_layers)).check(job.task)
        teacher = RoundTripTeacher(teacher, _cache_config(job))
    return _mask_teacher(job, name, teacher)


def _open_cache(job: Job, name: str, teacher: Teacher) -> CachedTeacher:
    node = job.recipe.cache
    assert node is not None
    return CachedTeacher(teacher, job.data, root=node.root, config=_cache_config(job), name=name)


def _cache_config(job: Job) -> CacheConfig:
    node = job.recipe.cache
    assert node is not None
    return CacheConfig(**node.model_dump(exclude={"root"}))


def _backend_name(job: Job, name: str) -> str:
    return job.recipe.teachers[name].backend if name in job.recipe.teachers else "eager"  # an assistant


def _print_backend(name: str, backend: str) -> None:
    print_text(f"{name}: outputs computed by {backend}")


def adapt_teacher_network(network: nn.Module, config: TeacherNode, data: DataModule, *, config_path: str) -> nn.Module:
    """``network`` for inputs and classes of ``data``, with the input size, normalization and classes of ``config``."""
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


def _mask_teacher(job: Job, name: str, teacher: Teacher) -> Teacher:
    """``teacher`` without outputs for the samples and classes that the recipe excludes."""
    config, data, config_path = job.recipe.teachers.get(name), job.data, f"teachers.{name}"
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
    num_ids = int(data.train.sample_ids.max()) + 1
    if covered_samples is not None and len(covered_samples) < num_ids:
        raise LimbeckError(
            f"{config_path}.coverage: {config.coverage} holds {len(covered_samples)} samples, and the sample ids of "
            f"the training split go up to {num_ids - 1}: give one for each, in the order of the source"
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
