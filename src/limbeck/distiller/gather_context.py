"""The exchange of all processes together: for terms that relate samples of one batch to each other.

Why the gradient is right. Let process r of W hold the share x_r of a batch, and o_r = f(x_r; θ) be what the student
says of it; L(o_1 … o_W; φ) is a term on the whole, φ its own parameters. One process with the whole batch has

    dL/dθ = Σ_r (∂o_r/∂θ)ᵀ · ∂L/∂o_r     and     ∂L/∂φ.

Here every process s computes the same L from the gathered outputs. The backward pass of the gathering gives process r
the sum of what all ask of its share, Σ_s ∂L/∂o_r = W · ∂L/∂o_r, so its gradients are

    g_r = (∂o_r/∂θ)ᵀ · W · ∂L/∂o_r       and     h_r = ∂L/∂φ,

and the average over processes that DDP (and FSDP) takes is (1/W) Σ_r g_r = dL/dθ, and (1/W) Σ_r h_r = ∂L/∂φ: those of
one process. Without gathering the same average is the gradient of the mean of W terms on the shares. For a mean over
equally many rows that is the same; for a term on pairs of samples, or a mean over the labelled rows only, it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from limbeck.core.loss_context import Exchange
from limbeck.core.outputs import Outputs
from limbeck.utils.all_gather import counts, gather, place, world

__all__ = ["gathered"]


def gathered(exchange: Exchange) -> Exchange:
    """``exchange`` with the batches of all processes one after the other; itself where there is one process.

    Logits, maps, embeddings, targets and numbers are gathered at once, and ``sample`` is numbered through. Taps and
    extra tensors, which may be large, are gathered when a term first reads them; since every process holds the same
    whole by then, all read the same ones. A scalar among the extra tensors becomes the mean over processes.
    """
    if world() == 1:
        return exchange
    named = {"": exchange.student, **{f"teacher {name}": said for name, said in exchange.teachers.items()}}
    same = next((name for name, said in exchange.teachers.items() if said is exchange.teacher), None)
    if exchange.teacher is not None and same is None:
        named["together"] = exchange.teacher
    batch = _batch(list(named.values()))
    shapes = [[0 if said.logits is None else len(said.logits), said.present is not None] for said in named.values()]
    device = next((t.device for said in named.values() for t in _tensors(said)), None)
    known = counts([batch, *(int(number) for shape in shapes for number in shape)], device=device)
    batches, whole = [numbers[0] for numbers in known], dict[str, Outputs]()
    for i, (name, said) in enumerate(named.items()):
        rows, partial = [numbers[1 + 2 * i] for numbers in known], any(numbers[2 + 2 * i] for numbers in known)
        whole[name] = _whole(said, rows, batches, partial=partial)
    teachers = {name: whole[f"teacher {name}"] for name in exchange.teachers}
    return replace(
        exchange,
        student=whole[""],
        teachers=teachers,
        teacher=whole.get("together") if same is None else teachers[same],
        target=None if exchange.target is None else gather(exchange.target),
        index=None if exchange.index is None else gather(exchange.index),
    )


def _whole(said: Outputs, rows: list[int], batches: list[int], *, partial: bool) -> Outputs:
    """One network's outputs on all shares; ``partial`` where it left samples out in any of them."""
    present = said.present
    if partial and present is None:
        device = next((tensor.device for tensor in _tensors(said)), None)
        present = torch.ones(batches[place()], dtype=torch.bool, device=device)
    before = sum(batches[: place()])
    return Outputs(
        logits=None if said.logits is None else gather(said.logits, sizes=rows),
        maps=None if said.maps is None else gather(said.maps, sizes=batches),
        embedding=None if said.embedding is None else gather(said.embedding, sizes=batches),
        taps=_WhenRead(said.taps, lambda tensor: gather(tensor, sizes=batches)),
        extra=_WhenRead(said.extra, lambda tensor: gather(tensor) if tensor.ndim else gather(tensor[None]).mean()),
        sample=None if said.sample is None else gather(said.sample + before, sizes=rows),
        present=None if present is None else gather(present, sizes=batches),
    )


@final
class _WhenRead(Mapping[str, Tensor]):
    """Tensors that are gathered when they are read for the first time."""

    def __init__(self, own: Mapping[str, Tensor], bring: Callable[[Tensor], Tensor]) -> None:
        self._own, self._bring, self._here = own, bring, dict[str, Tensor]()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._here:
            self._here[name] = self._bring(self._own[name])
        return self._here[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def _batch(everyone: list[Outputs]) -> int:
    """How many samples this process's batch has: what has a batch axis tells, else the rows do."""
    for said in everyone:
        for tensor in (said.present, said.maps, said.embedding, *said.taps.values()):
            if tensor is not None:
                return len(tensor)
    numbered = [said.sample for said in everyone if said.sample is not None and len(said.sample)]
    plain = [len(said.logits) for said in everyone if said.logits is not None and said.sample is None]
    return max([*plain, *(int(sample.max()) + 1 for sample in numbered)], default=0)


def _tensors(said: Outputs) -> list[Tensor]:
    own = (said.logits, said.maps, said.embedding, *said.taps.values())
    return [tensor for tensor in own if tensor is not None]
