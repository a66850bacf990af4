"""The context of all processes, for losses that relate samples of a batch to each other.

With W processes, every process computes the same loss L from the gathered outputs. The backward pass of the gathering
sums over processes, so the gradient of process r is (∂o_r/∂θ)ᵀ · W · ∂L/∂o_r; the average over processes that DDP and
FSDP take is Σ_r (∂o_r/∂θ)ᵀ · ∂L/∂o_r, the gradient of one process with the full batch. Without gathering it is that of
the mean of W losses on the parts, which differs for a loss on pairs of samples, or a mean over labeled rows only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.core.loss_context import LossContext
from limbeck.core.outputs import Outputs
from limbeck.utils.all_gather import all_gather, gather_sizes, get_rank, get_world_size


def gather_context(context: LossContext) -> LossContext:
    """Concatenate the batches of all processes; returns ``context`` itself with one process.

    Features and further tensors, which may be large, are gathered when a loss first reads them; all processes then read
    the same ones. A scalar among ``extra`` becomes the mean over processes; other ``extra`` tensors stay as they are.
    ``sample_targets``, which may be padded to different lengths, cannot be gathered: reading one is an error.
    """
    if get_world_size() == 1:
        return context
    outputs_by_name = {"": context.student, **{f"teacher {name}": out for name, out in context.teachers.items()}}
    shared_teacher = next((name for name, outputs in context.teachers.items() if outputs is context.teacher), None)
    if context.teacher is not None and shared_teacher is None:
        outputs_by_name["ensemble"] = context.teacher
    batch_size = _batch_size(list(outputs_by_name.values()))
    shapes = [[_num_rows(outputs), outputs.valid is not None] for outputs in outputs_by_name.values()]
    device = next((t.device for outputs in outputs_by_name.values() for t in outputs.tensors()), None)
    all_sizes = gather_sizes([batch_size, *(int(size) for shape in shapes for size in shape)], device=device)
    batch_sizes, gathered_outputs = [sizes[0] for sizes in all_sizes], dict[str, Outputs]()
    for i, (name, outputs) in enumerate(outputs_by_name.items()):
        row_counts, has_mask = [sizes[1 + 2 * i] for sizes in all_sizes], any(sizes[2 + 2 * i] for sizes in all_sizes)
        gathered_outputs[name] = _gather_outputs(
            outputs, row_counts, batch_sizes, has_mask=has_mask, is_padded=context.input_mask is not None
        )
    teachers = {name: gathered_outputs[f"teacher {name}"] for name in context.teachers}
    return replace(
        context,
        student=gathered_outputs[""],
        teachers=teachers,
        teacher=gathered_outputs.get("ensemble") if shared_teacher is None else teachers[shared_teacher],
        target=None if context.target is None else all_gather(context.target),
        sample_targets=_LazyGather(context.sample_targets, _refuse_sample_targets),
        input_mask=None,
        sample_ids=None if context.sample_ids is None else all_gather(context.sample_ids),
    )


def _gather_outputs(
    outputs: Outputs, row_counts: list[int], batch_sizes: list[int], *, has_mask: bool, is_padded: bool
) -> Outputs:
    """Gather the outputs of one network.

    Args:
        outputs: of this process.
        row_counts: rows of each process.
        batch_sizes: samples of each process.
        has_mask: whether any process has masked samples.
        is_padded: whether inputs are padded sequences, of another length in each process.
    """
    valid = outputs.valid
    if has_mask and valid is None:
        device = next((tensor.device for tensor in outputs.tensors()), None)
        valid = torch.ones(batch_sizes[get_rank()], dtype=torch.bool, device=device)
    offset = sum(batch_sizes[: get_rank()])

    def gather(tensor: Tensor | None, sizes: list[int]) -> Tensor | None:
        return None if tensor is None else all_gather(tensor, sizes=sizes)

    def gather_features(tensor: Tensor) -> Tensor:
        if is_padded and tensor.ndim == 3:
            raise LimbeckError(
                "features of padded sequences cannot be gathered from all processes: remove gather_distributed, or use "
                "features without positions"
            )
        return all_gather(tensor, sizes=batch_sizes)

    return Outputs(
        logits=gather(outputs.logits, row_counts),
        spatial_logits=gather(outputs.spatial_logits, batch_sizes),
        embedding=gather(outputs.embedding, batch_sizes),
        features=_LazyGather(outputs.features, gather_features),
        by_row=_LazyGather(outputs.by_row, lambda tensor: all_gather(tensor, sizes=row_counts)),
        by_sample=_LazyGather(outputs.by_sample, lambda tensor: all_gather(tensor, sizes=batch_sizes)),
        extra=_LazyGather(outputs.extra, lambda tensor: tensor if tensor.ndim else all_gather(tensor[None]).mean()),
        row_to_sample=gather(None if outputs.row_to_sample is None else outputs.row_to_sample + offset, row_counts),
        valid=gather(valid, batch_sizes),
    )


def _refuse_sample_targets(_: Tensor) -> Tensor:
    raise LimbeckError(
        "the targets in sample_targets cannot be gathered from all processes: remove this loss from gather_distributed"
    )


@final
class _LazyGather(Mapping[str, Tensor]):
    """Tensors that are gathered when first read."""

    def __init__(self, tensors: Mapping[str, Tensor], gather_fn: Callable[[Tensor], Tensor]) -> None:
        self._tensors, self._gather_fn, self._gathered = tensors, gather_fn, dict[str, Tensor]()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._gathered:
            self._gathered[name] = self._gather_fn(self._tensors[name])
        return self._gathered[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _num_rows(outputs: Outputs) -> int:
    """Rows of the logits, or of the tensors by row where there are no logits; 0 without either."""
    rows = (outputs.logits, outputs.row_to_sample, *outputs.by_row.values())
    return next((len(tensor) for tensor in rows if tensor is not None), 0)


def _batch_size(all_outputs: list[Outputs]) -> int:
    """Local batch size, from a tensor with a batch axis, or from the rows."""
    for outputs in all_outputs:
        for tensor in (outputs.valid, outputs.spatial_logits, outputs.embedding, *outputs.features.values()):
            if tensor is not None:
                return len(tensor)
    sizes = [0]
    for outputs in all_outputs:
        if outputs.row_to_sample is not None and len(outputs.row_to_sample):
            sizes.append(int(outputs.row_to_sample.max()) + 1)
        elif outputs.row_to_sample is None:
            sizes.append(_num_rows(outputs))
    return max(sizes)
