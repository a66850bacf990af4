"""What a cache stores of embeddings and states: one list of rows for each sample.

The rows of a sample are its two embeddings, its valid frames, and its tokens, so that samples of any length fit into
one layout. ``given`` says which of them the network returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.core.outputs import Outputs
from limbeck.losses._alignment import mask_positions

__all__ = ["decode_alignment", "encode_alignment"]

_NAMES: Final = ("speech_embedding", "text_embedding", "speech_states", "text_states", "frame_logits")
_NUM_EMBEDDINGS: Final = 2


def encode_alignment(outputs: Outputs) -> dict[str, Tensor]:
    """``rows`` and ``frame_rows`` (CTC logits), ``length`` of them, ``num_frames``, ``num_tokens`` and ``given``."""
    by_sample = outputs.by_sample
    reference = next(by_sample[name] for name in _NAMES if name in by_sample)
    batch_size, width = len(reference), reference.shape[-1]
    none = torch.zeros(batch_size, dtype=torch.long, device=reference.device)
    num_frames, num_tokens = by_sample.get("speech_length", none), by_sample.get("text_length", none)

    def states(name: str, num_positions: int) -> Tensor:
        return by_sample[name] if name in by_sample else reference.new_zeros(batch_size, num_positions, width)

    sizes = [max((by_sample[n].shape[1] for n in names if n in by_sample), default=0) for names in (
        ("speech_states", "frame_logits"), ("text_states",)
    )]  # fmt: skip
    embeddings = [by_sample.get(name, torch.zeros_like(reference)) for name in _NAMES[:_NUM_EMBEDDINGS]]
    tensors = [torch.stack(embeddings, dim=1), states("speech_states", sizes[0]), states("text_states", sizes[1])]
    masks = [
        torch.ones(batch_size, _NUM_EMBEDDINGS, dtype=torch.bool, device=reference.device),
        mask_positions(num_frames, sizes[0], reference.device),
        mask_positions(num_tokens, sizes[1], reference.device),
    ]
    mask = torch.cat(masks, dim=1)
    given = sum(1 << bit for bit, name in enumerate(_NAMES) if name in by_sample)
    stored = {
        "rows": _compact(torch.cat(tensors, dim=1), mask), "length": mask.sum(dim=1), "num_frames": num_frames,
        "num_tokens": num_tokens, "given": none + given,
    }  # fmt: skip
    if "frame_logits" in by_sample:
        stored["frame_rows"] = _compact(F.pad(by_sample["frame_logits"], (0, 0, _NUM_EMBEDDINGS, sizes[1])), mask)
    return stored


def decode_alignment(stored: Mapping[str, Tensor], batch: Any) -> Outputs:
    """The outputs of :func:`encode_alignment` again, padded to the longest sample."""
    rows, num_frames, num_tokens = stored["rows"], stored["num_frames"], stored["num_tokens"]
    given = {name for bit, name in enumerate(_NAMES) if int(stored["given"][0]) >> bit & 1}
    has_frames = bool({"speech_states", "frame_logits"} & given)
    by_sample: dict[str, Tensor] = {}
    presence = {"speech": batch["input_length"] > 0, "text": batch["attention_mask"].bool().any(dim=1)}
    for index, side in enumerate(("speech", "text")):
        if f"{side}_embedding" in given:
            by_sample |= {f"{side}_embedding": rows[:, index], f"has_{side}": presence[side].to(rows.device)}
    first_frame = torch.full_like(num_frames, _NUM_EMBEDDINGS)
    if "speech_states" in given:
        by_sample["speech_states"] = _spread(rows, first_frame, num_frames)
    if "frame_logits" in given:
        by_sample["frame_logits"] = _spread(stored["frame_rows"], first_frame, num_frames)
    if has_frames:
        by_sample |= {"speech_length": num_frames, "frame_length": num_frames}
    if "text_states" in given:
        by_sample |= {
            "text_states": _spread(rows, first_frame + num_frames, num_tokens), "text_length": num_tokens
        }  # fmt: skip
    return Outputs(by_sample=by_sample)


def _compact(rows: Tensor, mask: Tensor) -> Tensor:
    """The rows where ``mask`` ``[batch, positions]`` is true at the front, in order, padded with zeros."""
    order = (~mask).to(torch.int8).argsort(dim=1, stable=True)[:, : int(mask.sum(dim=1).max())]
    kept = mask.gather(1, order)[:, :, None]
    return rows.gather(1, order[:, :, None].expand(-1, -1, rows.shape[2])) * kept


def _spread(rows: Tensor, start: Tensor, counts: Tensor) -> Tensor:
    """``counts`` rows of each sample from ``start`` on, padded with zeros to the largest count."""
    positions = torch.arange(int(counts.max()), device=rows.device)
    index = (start[:, None] + positions).clamp(max=rows.shape[1] - 1)
    mask = positions < counts[:, None]
    return rows.gather(1, index[:, :, None].expand(-1, -1, rows.shape[2])) * mask[:, :, None]
