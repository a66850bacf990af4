"""Sequences of different lengths in memory: frames of audio, tokens of text; a batch of them is padded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from limbeck.core.errors import LimbeckError
from limbeck.data.input_checks import require_finite

__all__ = ["SequenceStore"]


@final
@dataclass(frozen=True, slots=True)
class SequenceStore:
    """Named sequences of each sample.

    A batch has each field padded to the longest sample in it, ``[batch, longest, ...]``, and ``NAME_length``
    ``[batch]``; or, for a field in ``masks``, a mask of that name, 1 where there is a token and 0 in padding.

    Args:
        fields: by name, one tensor ``[length, ...]`` for each sample; the first field is the input of a network.
        pad_values: padding by field; 0 where it is missing.
        masks: by field, the name of its mask.

    Raises:
        LimbeckError: the fields differ in the number of samples, or the sequences of a field in type or shape.

    >>> store = SequenceStore({"input_ids": [torch.tensor([5, 6]), torch.tensor([7])]}, masks={"input_ids": "mask"})
    >>> store.read_fields(torch.tensor([0, 1]))
    {'input_ids': tensor([[5, 6],
            [7, 0]]), 'mask': tensor([[1, 1],
            [1, 0]])}
    """

    fields: Mapping[str, Sequence[Tensor]]
    pad_values: Mapping[str, float] = field(default_factory=dict)
    masks: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(sequences) for name, sequences in self.fields.items()}
        if not lengths or len(set(lengths.values())) > 1 or 0 in lengths.values():
            raise LimbeckError(f"fields must have equally many sequences, at least one, got {lengths}")
        for name, sequences in self.fields.items():
            shapes = {(tensor.dtype, tuple(tensor.shape[1:])) for tensor in sequences if tensor.ndim}
            if len(shapes) != 1 or any(tensor.ndim == 0 for tensor in sequences):
                raise LimbeckError(
                    f"{name} must be [length, ...] tensors of one type and shape, got {sorted(map(str, shapes))}"
                )
        for index, sequence in enumerate(self.fields[self.input_name]):
            _require_finite_sequence(sequence, f"sequence {index} of {self.input_name}")
        for name in (*self.pad_values, *self.masks):
            if name not in self.fields:
                raise LimbeckError(f"no field is named {name!r}; the fields are {', '.join(self.fields)}")

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    @property
    def input_name(self) -> str:
        """The name of the first field."""
        return next(iter(self.fields))

    def read(self, indices: Tensor) -> Tensor:
        """The first field at ``indices`` ``[n]``, padded to ``[n, longest, ...]``."""
        return self.read_fields(indices)[self.input_name]

    def read_fields(self, indices: Tensor) -> dict[str, Tensor]:
        """All fields at ``indices`` (``[n]`` integers), padded, with their lengths or masks."""
        batch: dict[str, Tensor] = {}
        for name, sequences in self.fields.items():
            selected = [sequences[i] for i in indices.tolist()]
            batch[name] = pad_sequence(selected, batch_first=True, padding_value=self.pad_values.get(name, 0.0))
            lengths = torch.tensor([len(sequence) for sequence in selected])
            if name in self.masks:
                batch[self.masks[name]] = (torch.arange(batch[name].shape[1]) < lengths[:, None]).long()
            else:
                batch[f"{name}_length"] = lengths
        return batch

    def input_lengths(self, indices: Tensor) -> Tensor:
        """The lengths ``[n]`` of the first field at ``indices``."""
        sequences = self.fields[self.input_name]
        return torch.tensor([len(sequences[i]) for i in indices.tolist()])

    def fingerprint(self) -> str:
        """A hash of all fields and their padding."""
        digest = hashlib.sha256(f"{dict(self.pad_values)} {dict(self.masks)}".encode())
        for name, sequences in self.fields.items():
            digest.update(f"\n{name} {sequences[0].dtype} {list(sequences[0].shape[1:])}".encode())
            for sequence in sequences:
                digest.update(f" {len(sequence)} ".encode() + sequence.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def is_deterministic(self) -> bool:
        """Always: the sequences are in memory."""
        return True


def _require_finite_sequence(sequence: Tensor, name: str) -> None:
    require_finite(sequence[None], lambda _: name)
