"""Settings that a Python class and a section of a recipe share: names, types, ranges and defaults, without torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from limbeck.core.limits import MAX_BATCH_SIZE, MAX_EPOCHS, MAX_INPUT_SIZE, MAX_PROCESSES
from limbeck.utils.validation import (
    Number,
    Settings,
    StrictInt,
    StrictStr,
    format_value,
    parse_number,
    raise_validation_error,
)

__all__ = ["BatchPairing", "CacheSettings", "Strategy", "TrainingSettings"]

BatchPairing = Literal["none", "same_class", "repeat_previous"]
Strategy = Literal["auto", "ddp", "fsdp"]
_BatchSize = Annotated[StrictInt, Field(ge=1, le=MAX_BATCH_SIZE)]


class TrainingSettings(Settings):
    """Settings of :class:`limbeck.training.TrainingConfig` and of ``training`` in a recipe.

    Attributes:
        optimizer: an optimizer of torch.
        scheduler: a learning-rate scheduler of torch; ``None``: a constant learning rate.
        batch_size: batch size per process.
        batch_tokens: for sequences, the largest number of tokens or frames in a padded batch, per process; batches then
            have different numbers of samples, and ``batch_size`` is that of validation. ``None``: ``batch_size``.
        grad_accum_steps: number of batches whose gradients are accumulated for an optimizer step.
        max_grad_norm: norm to clip the gradient to; ``None`` does not clip.
        ema_decay: decay of an exponential moving average of the weights and BatchNorm statistics, which is then
            validated and kept; ``None`` keeps the weights themselves.
        early_stopping_patience: stop after this many epochs without a better first monitored metric; ``None``: never.
        keep_weights: keep the weights of the ``last`` epoch, or of the ``best`` on the validation split.
        parameter_groups: settings of the optimizer for some parameters, such as ``{"match": "*.bias", "lr": 0.1}``:
            a pattern (``fnmatch``) over the names in ``student.named_parameters()`` and ``losses.LOSS.…``, and any
            settings. A parameter belongs to the first group that matches.
        validation_batch_size: batch size of validation after each epoch; ``None``: ``batch_size``.
        num_workers: number of processes that load batches; 0 loads in this process.
        batch_pairing: ``none``; ``same_class``: the second half of a batch has other samples of the classes of the
            first; ``repeat_previous``: the first half repeats the second half of the previous batch. See
            :mod:`limbeck.data.pair_batches`.
    """

    display_name: ClassVar[str] = "training"
    optimizer: Any
    scheduler: Any = None
    batch_size: _BatchSize = 64
    batch_tokens: _BatchSize | None = None
    grad_accum_steps: _BatchSize = 1
    max_grad_norm: Annotated[Number, Field(gt=0)] | None = None
    ema_decay: Annotated[Number, Field(gt=0, lt=1)] | None = None
    early_stopping_patience: Annotated[StrictInt, Field(ge=1, le=MAX_EPOCHS)] | None = None
    keep_weights: Literal["last", "best"] = "last"
    parameter_groups: tuple[dict[StrictStr, Any], ...] = ()
    validation_batch_size: _BatchSize | None = None
    num_workers: Annotated[StrictInt, Field(ge=0, le=MAX_PROCESSES)] = 0
    batch_pairing: BatchPairing = "none"

    @field_validator("parameter_groups")
    @classmethod
    def _check_groups(cls, groups: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for group in groups:
            if not isinstance(group.get("match"), str) or len(group) < 2 or "params" in group:
                raise_validation_error(
                    "a group must have match, a pattern over parameter names, and settings of the optimizer, got "
                    f"{format_value(group)}: write {{match: '*.bias', weight_decay: 0.0}}"
                )
        return tuple(
            {key: value if key == "match" else parse_number(value) for key, value in group.items()} for group in groups
        )

    @model_validator(mode="after")
    def _check_batch_size(self) -> Self:
        if self.batch_pairing != "none" and self.batch_size % 2:
            raise_validation_error(
                f"batch_pairing: with {self.batch_pairing} a batch has two halves, and batch_size "
                f"{self.batch_size} is odd"
            )
        if self.batch_pairing != "none" and self.batch_tokens is not None:
            raise_validation_error(f"batch_tokens: batch_pairing {self.batch_pairing} halves batch_size: remove one")
        return self


class CacheSettings(Settings):
    """Settings of :class:`limbeck.teachers.CacheConfig` and of ``cache`` in a recipe.

    Attributes:
        top_k: number of largest logits of each row to store; ``None``: all (dense).
        tail: logits of the other classes, with ``top_k``: ``spread`` (default) distributes their total probability
            evenly (exact at temperature 1), ``renormalized`` gives them none.
        dtype: of logits, spatial logits and embeddings.
        feature_dtype: of features; ``int8`` has one scale for each sample, its largest magnitude over 127.
        pool_factor: average pooling of maps ``[channels, height, width]``. Features are returned pooled, spatial
            logits are resized bilinearly to their size.
    """

    display_name: ClassVar[str] = "cache"
    top_k: Annotated[StrictInt, Field(ge=1)] | None = None
    tail: Literal["spread", "renormalized"] | None = None
    dtype: Literal["float16", "float32"] = "float16"
    feature_dtype: Literal["float16", "float32", "int8"] = "float16"
    pool_factor: Annotated[StrictInt, Field(ge=1, le=MAX_INPUT_SIZE)] = 1

    @model_validator(mode="after")
    def _check_tail(self) -> Self:
        if self.top_k is None and self.tail is not None:
            raise_validation_error(f"tail must be null without `top_k`, since all logits are stored, got {self.tail!r}")
        return self
