"""Training batches by step: a batch is a pure function of the seed and the step, so a run resumes at any step."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Protocol, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.collated_dataset import CollatedDataset
from limbeck.data.counter_rng import derive_seed, make_generator
from limbeck.data.image_store import preserve_rng_state
from limbeck.data.normalization import InputNormalization
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.split import Split
from limbeck.data.token_batches import TokenBatches
from limbeck.data.unlabeled_images import reads_user_code

__all__ = ["Batch", "BatchSampler", "BatchStream"]

Batch = dict[str, Any]
_ORDER_STREAM: Final = 4
_ITEM_STREAM: Final = 11
# Increase it when the same settings produce other images.
_FINGERPRINT_VERSION: Final = "limbeck images 1"


class BatchStream(Protocol):
    """Training batches by step."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        ...

    def batch(self, step: int) -> Any:
        """The batch of ``step``, counted from 0 over all epochs."""
        ...


@final
class BatchSampler:
    """Batches of a split in a new order each epoch, each sample in its next view.

    Args:
        split: the samples.
        augmentation: transforms of the images.
        normalization: applied after the augmentation.
        batch_size: number of samples in a batch, for each process.
        batch_tokens: largest number of tokens or frames in a padded batch of sequences, for each process, in place of
            ``batch_size`` (:class:`~limbeck.data.token_batches.TokenBatches`).
        seed: seed of the views, and of the order where ``order_seed`` is ``None``.
        order_seed: seed of the order.
        classes: number of classes; needed for transforms that mix labels.
        rank: index of this process.
        world_size: number of processes; together they show every sample once per epoch.

    A batch has ``input``, ``target`` (or boxes, or the fields of sequences), ``sample_id`` and ``view``. The last,
    smaller batch of an epoch is dropped; a split smaller than a batch repeats in its next views. With
    ``augmentation.repeats`` M, a batch shows each of its samples in M views, and in M epochs each sample is shown M
    times.
    """

    def __init__(
        self, split: Split, augmentation: Augmentation, normalization: InputNormalization, *, batch_size: int,
        seed: int, order_seed: int | None = None, classes: int | None = None, rank: int = 0, world_size: int = 1,
        batch_tokens: int | None = None,
    ) -> None:  # fmt: skip
        if not len(split):
            raise LimbeckError("the training split, or its labeled subset, must have samples, got none")
        if batch_size < 1 or batch_size % augmentation.repeats:
            rule = f"at least 1 and a multiple of repeats ({augmentation.repeats})"
            raise LimbeckError(f"batch_size must be {rule}, got {batch_size}: set training.batch_size")
        if augmentation.mix_transforms and classes is None:
            raise LimbeckError("mixup and cutmix need the number of classes: set classes")
        self.split, self._augmentation, self._normalization = split, augmentation, normalization
        self._batch_size, self._global_batch_size = batch_size, batch_size * world_size
        self._seed, self.order_seed = seed, seed if order_seed is None else order_seed
        self._classes, self.rank = classes, rank
        self._epoch_order: tuple[int, Tensor] = (-1, torch.empty(0))
        self._has_user_code = reads_user_code(split.images) or any(
            not type(transform).__module__.startswith("limbeck.") for transform in augmentation.transforms
        )
        self._token_batches = None if batch_tokens is None else self._make_token_batches(batch_tokens, world_size)

    @property
    def steps_per_epoch(self) -> int:
        if self._token_batches is not None:
            return self._token_batches.steps_per_epoch
        return max(1, len(self.split) // self._global_batch_size)

    @property
    def num_views(self) -> int:
        """Number of different views of a sample: 1 without augmentation, 0 where each view is new."""
        return self._augmentation.num_views if self._augmentation.transforms else 1

    def fingerprint(self) -> str:
        """A SHA-256 of everything that determines the image of a (sample, view): data, augmentation, normalization.

        Labels, the batch size, the process and ``repeats`` do not change it.

        Raises:
            LimbeckError: images are not reproducible: the data set changes its items, or the ``repr`` of a transform
                does not contain its settings.
        """
        if not self.split.images.is_deterministic():
            raise LimbeckError(
                "items of the data set must be the same each time to cache teacher outputs: move its random transforms "
                "into the augmentation"
            )
        text = [_FINGERPRINT_VERSION, self.split.images.fingerprint(), repr(self._normalization)]
        text += [hashlib.sha256(t.numpy().tobytes()).hexdigest() for t in (self.split.sample_ids, self.split.indices)]
        if description := self._augmentation.describe():
            text += [str(self._seed), *description]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()

    def batch(self, step: int) -> Batch:
        return self.load_at(step, *self.batch_indices(step))

    def load_at(self, step: int, sample_indices: Tensor, views: Tensor) -> Batch:
        """:meth:`load` for the batch of ``step``.

        A user's data set or transform may draw from the global generators: the same for a step in any run, worker and
        resume.
        """
        if not self._has_user_code:
            return self.load(sample_indices, views)
        with preserve_rng_state(derive_seed(self.order_seed, _ITEM_STREAM, step, self.rank)):
            return self.load(sample_indices, views)

    def batch_indices(self, step: int, *, num_showings: int = 1, showing_index: int = 0) -> tuple[Tensor, Tensor]:
        """Indices into the split and views of the batch of ``step``, both ``[batch]``.

        Where each batch is shown ``num_showings`` times, the views are those of showing ``showing_index``.
        """
        if self._token_batches is not None:
            indices = self._token_batches.indices(step, seed=self.order_seed, rank=self.rank)
            showings = torch.full_like(indices, step // self.steps_per_epoch * num_showings + showing_index)
            return indices, self._views(showings)
        repeats = self._augmentation.repeats
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch * repeats)
        start = (step_in_epoch * self._global_batch_size + self.rank * self._batch_size) // repeats
        position = torch.arange(start, start + self._batch_size // repeats)
        # More than 1 where a small split repeats within a batch.
        passes = -(-self._global_batch_size // len(self.split))
        showings = ((epoch * passes + position // len(self.split)) * num_showings + showing_index) * repeats
        indices = self._permutation(epoch)[position % len(self.split)].repeat_interleave(repeats)
        showings = (showings[:, None] + torch.arange(repeats)).flatten()
        return indices, self._views(showings)

    def load(self, sample_indices: Tensor, views: Tensor) -> Batch:
        """The samples at ``sample_indices`` of the split in ``views``, both ``[batch]``; each sample is read once."""
        if self.split.sequences is not None:
            return self._load_sequences(self.split.sequences, sample_indices, views)
        sample_ids = self.split.sample_ids[sample_indices]
        if isinstance(self.split.images, CollatedDataset):
            return {**self.split.read_fields(sample_indices), "sample_id": sample_ids, "view": views}
        images = self._augment(sample_indices, views)
        if self.split.boxes is not None:
            fields, size = self.split.read_fields(sample_indices, with_input=False), (images.shape[2], images.shape[3])
            fields = self._augmentation.apply_to_boxes(fields, size, sample_ids, views, seed=self._seed)
            return {"input": self._normalization.apply(images), **fields, "sample_id": sample_ids, "view": views}
        target = self.split.read_target(sample_indices)
        if self.split.masks is not None:
            target = self._augmentation.apply_to_masks(target, sample_ids, views, seed=self._seed)
        mix = self._augmentation.sample_mix(sample_ids, views, seed=self._seed, population=len(self.split))
        if mix is not None:
            assert self._classes is not None
            partner_images = self._augment(mix.partners, views[mix.rows])
            images, fraction = mix.mix_images(images, partner_images)
            target = mix.mix_target(target, self.split.target[mix.partners], fraction, classes=self._classes)
        return {"input": self._normalization.apply(images), "target": target, "sample_id": sample_ids, "view": views}

    def _views(self, showings: Tensor) -> Tensor:
        return self._augmentation.view_index(showings) if self._augmentation.transforms else torch.zeros_like(showings)

    def _make_token_batches(self, batch_tokens: int, world_size: int) -> TokenBatches:
        if self.split.sequences is None:
            raise LimbeckError("batch_tokens needs samples that are sequences, got images: set batch_size")
        if self._augmentation.repeats > 1:
            raise LimbeckError(f"batch_tokens needs repeats 1, got {self._augmentation.repeats}: set batch_size")
        return TokenBatches(self.split.sequences.input_lengths(self.split.indices), batch_tokens, world_size)

    def _load_sequences(self, sequences: SequenceStore, sample_indices: Tensor, views: Tensor) -> Batch:
        fields, sample_ids = self.split.read_fields(sample_indices), self.split.sample_ids[sample_indices]
        name, lengths = sequences.input_name, sequences.input_lengths(self.split.indices[sample_indices])
        inputs = self._augmentation.apply_to_sequences(fields[name], lengths, sample_ids, views, seed=self._seed)
        return {**fields, name: self._normalization.apply(inputs), "sample_id": sample_ids, "view": views}

    def _augment(self, indices: Tensor, views: Tensor) -> Tensor:
        if not self._augmentation.transforms:
            return self.split.read(indices)
        unique, inverse = torch.unique(indices, return_inverse=True)
        images = self.split.read(indices) if len(unique) == len(indices) else self.split.read(unique)[inverse]
        return self._augmentation.apply(images, self.split.sample_ids[indices], views, seed=self._seed)

    def _permutation(self, epoch: int) -> Tensor:
        if self._epoch_order[0] != epoch:
            rng = make_generator(self.order_seed, _ORDER_STREAM, epoch)
            self._epoch_order = epoch, torch.randperm(len(self.split), generator=rng)
        return self._epoch_order[1]
