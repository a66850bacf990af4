"""Weights of the rows of language pairs: by the similarity of languages, and by what a student has left to learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.core.errors import LimbeckError, suggest_names
from limbeck.core.outputs import Outputs
from limbeck.losses._ops import require_interval, upcast

__all__ = ["PairWeights", "catch_up_factor", "pair_similarity", "subword_overlap"]

_MOMENTUM: Final = 0.98
_MIN_FREQUENCY: Final = 1e-9


def pair_similarity(
    class_names: Sequence[str], anchor: str, matrix: Sequence[Sequence[float]], languages: Sequence[str]
) -> Tensor:
    """``[pairs]``: similarity of source and target languages to those of ``anchor``, multiplied.

    >>> matrix = [[1.0, 0.5, 0.7], [0.5, 1.0, 0.6], [0.7, 0.6, 1.0]]
    >>> pair_similarity(["cs-en", "de-en", "en-de"], "cs-en", matrix, ["cs", "de", "en"])
    tensor([1.0000, 0.5000, 0.4200])
    """
    index = {language: i for i, language in enumerate(languages)}
    ends = [tuple(index[language] for language in name.split("-")) for name in class_names]
    source, target = ends[list(class_names).index(anchor)]
    return torch.tensor([matrix[a][source] * matrix[b][target] for a, b in ends])


def catch_up_factor(gap: Tensor, scale: float) -> Tensor:
    """1 where the teacher's loss is ``scale`` nats per token or more below the student's, 0 where it is not below.

    >>> catch_up_factor(torch.tensor([-0.1, 0.25, 2.0]), 0.5)
    tensor([0.0000, 0.5000, 1.0000])
    """
    return (gap / scale).clamp(0.0, 1.0)


def subword_overlap(input_ids: Tensor, mask: Tensor, frequencies: Tensor, anchor_frequencies: Tensor) -> Tensor:
    """``[batch]``: mean over source tokens of 2a / (a + b) up to 1, of their frequencies in two languages.

    Args:
        input_ids: ``[batch, tokens]``.
        mask: ``[batch, tokens]``, false in padding.
        frequencies: ``[batch, vocabulary]`` or ``[vocabulary]`` b, in the language of the sample.
        anchor_frequencies: ``[vocabulary]`` a, in the anchor's language.

    >>> b, a = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.0, 0.5])
    >>> subword_overlap(torch.tensor([[0, 1]]), torch.tensor([[True, True]]), b, a)
    tensor([0.5000])
    """
    own = frequencies[input_ids] if frequencies.ndim == 1 else frequencies.gather(1, input_ids)
    other = anchor_frequencies[input_ids]
    ratio = (2 * other / (own + other).clamp(min=_MIN_FREQUENCY)).clamp(max=1.0)
    return (ratio * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


@final
class PairWeights(nn.Module):
    """Weights ``[rows]``: similarity of the language pair to the ``anchor``, times what is left to learn.

    The similarity part has the mean 1 over the pairs, so that uniform and shuffled weights have the same total. The
    other part is :func:`catch_up_factor` of the gap between the losses of student and teacher on the targets, a running
    mean over training batches by pair, or that of each sample; Tan et al. (ICLR 2019,
    https://arxiv.org/abs/1902.10461) end the distillation of a pair where the student is as good as the teacher on
    validation.

    Args:
        similarity: names of similarities of the data (``uriel``, ``script``, ``subword``), which are multiplied;
            ``sample`` is that of the subwords of each sample. Empty: all pairs are alike.
        anchor: the low-resource language pair, such as ``cs-en``.
        sharpness: power of the similarity.
        shuffle_seed: a control: the similarities of the pairs other than the anchor are exchanged; ``None``: not.
        catch_up: nats per token of the gap from which on the weight is full; ``None``: always full.
        catch_up_by: ``pair`` or ``sample``.
        class_names: names of the language pairs, a fact of the data.
        language_similarity: a fact of the data, see :class:`~limbeck.data.sources.ParallelText`.
        subword_counts: a fact of the data: ``[vocabulary][languages]``, how often a token occurs in training.
    """

    similarity: Tensor
    gap: Tensor
    num_batches: Tensor

    def __init__(
        self, *, similarity: Sequence[str] = (), anchor: str | None = None, sharpness: float = 1.0,
        shuffle_seed: int | None = None, catch_up: float | None = None,
        catch_up_by: Literal["pair", "sample"] = "pair", class_names: Sequence[str] = (),
        language_similarity: Mapping[str, Any] | None = None,
        subword_counts: Sequence[Sequence[int]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        require_interval("sharpness", sharpness, "(0, inf)")
        if catch_up is not None:
            require_interval("catch_up", catch_up, "(0, inf)")
        if catch_up_by not in ("pair", "sample"):
            raise LimbeckError(f"catch_up_by must be pair or sample, got {catch_up_by!r}")
        if isinstance(similarity, str):
            raise LimbeckError(f"similarity must be a list of names, got {similarity!r}: write [{similarity}]")
        if not similarity and (anchor is not None or shuffle_seed is not None or sharpness != 1):
            raise LimbeckError("anchor, sharpness and shuffle_seed need similarity: set it, or remove them")
        self.names, self.by_sample = tuple(class_names), "sample" in similarity
        self.catch_up, self.catch_up_by, self.sharpness = catch_up, catch_up_by, sharpness
        self.is_uniform = not similarity and catch_up is None
        if similarity and anchor not in self.names:
            raise LimbeckError(
                f"anchor must be one of the language pairs, {suggest_names(str(anchor), self.names)}, got {anchor!r}"
            )
        count = max(1, len(self.names))
        values, measures = torch.ones(count), [name for name in similarity if name != "sample"]
        for name in measures:
            values = values * _measured(name, self.names, str(anchor), language_similarity or {})
        values = _shuffle(values, self.names.index(str(anchor)), shuffle_seed) if measures else values
        values = values**sharpness
        self.register_buffer("similarity", values / values.mean())
        self.register_buffer("gap", torch.zeros(count))
        self.register_buffer("num_batches", torch.zeros(count, dtype=torch.long))
        self._make_frequencies(str(anchor), subword_counts, language_similarity)
        self._settings = {
            "similarity": list(similarity), "anchor": anchor, "sharpness": sharpness, "shuffle_seed": shuffle_seed,
            "catch_up": catch_up, "catch_up_by": catch_up_by,
        }  # fmt: skip

    def _make_frequencies(
        self, anchor: str, counts: Sequence[Sequence[int]] | None, similarities: Mapping[str, Any] | None
    ) -> None:
        """Token frequencies of the source language of each pair ``[pairs, vocabulary]``; empty where not needed."""
        frequencies, index = torch.zeros(0, 0), 0
        if self.by_sample:
            if counts is None or similarities is None:
                raise LimbeckError("similarity: sample needs data that declares subword_counts, such as ParallelText")
            languages = list(similarities["languages"])
            sources = [languages.index(name.split("-")[0]) for name in self.names]
            rows = torch.tensor(counts, dtype=torch.float32).T[sources]
            frequencies = rows / rows.sum(dim=1, keepdim=True).clamp(min=1)
            index = self.names.index(anchor)
        self._anchor = index
        self.frequencies: Tensor
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor | None:
        """The weight of each row of ``student``; ``None``: all are 1.

        Args:
            student: with ``pair`` by row, and ``token`` and ``is_hypothesis`` for the gap.
            teacher: of the same rows.
            target: ``[rows]``, −100 for rows that are no target.
        """
        if self.is_uniform:
            return None
        logits = student.require_logits()
        pair = student.by_row.get("pair")
        if pair is None and len(self.names) > 1:
            raise LimbeckError("weights of language pairs need rows with 'pair': use the task Translation")
        pair = torch.zeros(len(logits), dtype=torch.long, device=logits.device) if pair is None else pair
        weights = self.similarity[pair]
        if self.by_sample:
            weights = weights * self._sample_overlap(student, pair)
        return weights if self.catch_up is None else weights * self._factor(student, teacher, target, pair)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._settings.items())

    def _sample_overlap(self, student: Outputs, pair: Tensor) -> Tensor:
        rows = student.row_to_sample
        if rows is None or "input_ids" not in student.by_sample:
            raise LimbeckError("similarity: sample needs the source tokens of samples: use the task Translation")
        ids, mask = student.by_sample["input_ids"], student.by_sample["attention_mask"].bool()
        sample_pair = torch.zeros(len(ids), dtype=torch.long, device=ids.device).index_copy(0, rows, pair)
        overlap = subword_overlap(ids, mask, self.frequencies[sample_pair], self.frequencies[self._anchor])
        return (overlap**self.sharpness)[rows]

    @torch.no_grad()
    def _factor(self, student: Outputs, teacher: Outputs, target: Tensor | None, pair: Tensor) -> Tensor:
        assert self.catch_up is not None
        is_target = torch.zeros_like(pair, dtype=torch.bool) if target is None else target >= 0
        if bool(is_target.any()):
            assert target is not None
            losses = [
                F.cross_entropy(upcast(o.require_logits())[is_target], target[is_target], reduction="none")
                for o in (student, teacher)
            ]
            row_gap = losses[0] - losses[1]
            if self.training:
                self._update(row_gap, pair[is_target])
        factor = torch.where(self.num_batches > 0, catch_up_factor(self.gap, self.catch_up), 1.0)[pair]
        rows = student.row_to_sample
        if self.catch_up_by == "pair" or rows is None or not bool(is_target.any()):
            return factor
        count = int(rows.max()) + 1
        sums, counts = (
            torch.zeros(count, device=pair.device).index_add(0, rows[is_target], values.float())
            for values in (row_gap, torch.ones_like(row_gap))
        )
        by_sample = catch_up_factor(sums / counts.clamp(min=1), self.catch_up)[rows]
        return torch.where((counts > 0)[rows], by_sample, factor)  # a sample without a target has that of its pair

    def _update(self, row_gap: Tensor, pair: Tensor) -> None:
        count = len(self.gap)
        sums, counts = (
            torch.zeros(count, device=pair.device).index_add(0, pair, values.float())
            for values in (row_gap, torch.ones_like(row_gap))
        )
        momentum = torch.where(self.num_batches > 0, _MOMENTUM, 0.0)
        updated = momentum * self.gap + (1 - momentum) * sums / counts.clamp(min=1)
        self.gap.copy_(torch.where(counts > 0, updated, self.gap))
        self.num_batches.add_((counts > 0).long())


def _measured(name: str, pairs: Sequence[str], anchor: str, similarities: Mapping[str, Any]) -> Tensor:
    if name not in similarities or name == "languages":
        remedy = "; uriel needs pip install --no-deps lang2vec" if name == "uriel" else ""
        known = [key for key in similarities if key != "languages"]
        raise LimbeckError(
            f"similarity must be of {', '.join(known) or 'data that declares some'}, or sample, got {name!r}{remedy}"
        )
    return pair_similarity(pairs, anchor, similarities[name], similarities["languages"])


def _shuffle(values: Tensor, anchor: int, seed: int | None) -> Tensor:
    """Each value but that of ``anchor`` goes to another pair.

    >>> _shuffle(torch.tensor([1.0, 0.5, 0.2]), 0, 7)
    tensor([1.0000, 0.2000, 0.5000])
    """
    if seed is None:
        return values
    others = [i for i in range(len(values)) if i != anchor]
    if len(others) < 2:
        raise LimbeckError(f"shuffle_seed needs at least two language pairs beside the anchor, got {len(others)}")
    generator = torch.Generator().manual_seed(seed)
    order = [others[i] for i in torch.randperm(len(others), generator=generator).tolist()]
    shuffled = values.clone()
    shuffled[order] = values[order[1:] + order[:1]]  # one cycle, so no value stays
    return shuffled
