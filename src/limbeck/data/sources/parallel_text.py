"""Parallel texts of several language pairs, from files with a sentence in each line."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import make_generator
from limbeck.data.language_similarity import script_counts, similarity_matrix, uriel_similarity
from limbeck.data.module import DataModule, make_splits
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.sources.lookup import DataNotFoundError, candidate_folders
from limbeck.data.split import UNLABELED, Split
from limbeck.data.subwords import Subwords, make_subwords, normalize_text
from limbeck.data.text_lines import find_text_file, read_text_lines

__all__ = ["ParallelText"]

_SUBSET, _LABELS = 21, 22
_PADDING: Final = -100
_EMPTY: Final = torch.empty(0, dtype=torch.long)


class _Pair(NamedTuple):
    """A sentence and its translation; ``None``: without one."""

    pair: int
    source: str
    target: str | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelText:
    """Files ``train.cs``, ``train.en``, ``val.cs`` … (or ``.gz``) of equally many lines, as of Multi30k and WMT.

    A batch has ``input_ids`` and ``attention_mask`` ``[batch, source tokens]``, ``target`` ``[batch, target tokens]``
    with −100 in padding, ``target_length`` (−1: no translation), ``pair`` ``[batch, 1]``, the index of the language
    pair in ``class_names``, and in validation and test ``reference``, the UTF-8 bytes of the translation.

    Sentence pairs of validation and test whose source or target is also in the training files of that side are left
    out, with a warning that says how many. Training pairs longer than ``max_tokens`` are left out as well; longer
    sources of validation and test are cut. Where the targets are of several languages, a source begins with a token
    such as ``<2de>`` (Johnson et al., 2017, https://arxiv.org/abs/1611.04558).

    Args:
        pairs: language pairs as ``SOURCE-TARGET`` in ISO 639 codes, such as ``cs-en``; they name the files.
        root: the folder, or one that contains it as ``name``; ``None``: ``name`` in the usual folders.
        name: name of the data set, such as ``multi30k``; ``None``: that of the folder.
        folders: by pair, the folders within it that are joined; the folder itself where a pair is missing.
        train_file: name of the training files, without their language.
        val_file: of the validation files.
        test_file: of the test files.
        eval_pairs: the pairs of validation and test; empty: all.
        num_samples: by pair, number of training pairs; all where a pair is missing.
        num_labeled: by pair, number of training pairs that keep their translation; the others are sentences without
            one. All where a pair is missing.
        keep_unlabeled: whether those without a translation are kept.
        vocabulary: ``bpe``, ``unigram`` or ``words``, learned from the training texts; or the path of a ``.json``
            file of tokenizers, a ``.model`` file of sentencepiece, or a folder with a tokenizer of transformers.
        vocab_size: of a learned vocabulary, at most.
        max_tokens: the longest source and target.
        language_tokens: by language, the token of the tokenizer that begins its sentences, such as
            ``{en: eng_Latn, my: mya_Mymr}`` for NLLB.
    """

    provides: ClassVar[tuple[str, ...]] = (
        "classes", "class_names", "vocab_size", "vocabulary", "decoder_start_token_id", "eos_token_id",
        "language_similarity", "subword_counts", "target_prefix_ids",
    )  # fmt: skip

    pairs: tuple[str, ...]
    root: str | None = None
    name: str | None = None
    folders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    train_file: str = "train"
    val_file: str = "val"
    test_file: str = "test"
    eval_pairs: tuple[str, ...] = ()
    num_samples: Mapping[str, int] = field(default_factory=dict)
    num_labeled: Mapping[str, int] = field(default_factory=dict)
    keep_unlabeled: bool = True
    vocabulary: str = "bpe"
    vocab_size: int = 4000
    max_tokens: int = 64
    language_tokens: Mapping[str, str] = field(default_factory=dict)

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; ``seed`` chooses the training pairs that are used and those that keep their translation."""
        self._check_settings()
        root = self._find_root()
        training = self._read(root, self.train_file, self.pairs)
        evaluated = self.eval_pairs or self.pairs
        held_out = {
            kind: self._read(root, file, evaluated)
            for kind, file in (("validation", self.val_file), ("test", self.test_file))
        }
        held_out = self._without_training_sentences(held_out, training)
        training = self._select(training, seed)
        tags = self._tags()
        subwords = make_subwords(self.vocabulary, _texts(training), self.vocab_size, list(dict.fromkeys(tags)))
        self._require_language_tokens(subwords)
        train_store, training = self._make_training_store(training, subwords, tags)
        splits = {"training": _make_split(train_store, training, 0)}
        first_id = len(training)
        for kind, samples in held_out.items():
            splits[kind] = _make_split(
                self._make_store(samples, subwords, tags, with_reference=True), samples, first_id
            )
            first_id += len(samples)
        facts = {
            "vocab_size": len(subwords.pieces), "vocabulary": list(subwords.pieces),
            "decoder_start_token_id": subwords.start_id, "eos_token_id": subwords.end_id,
            "target_prefix_ids": [i for p in range(len(self.pairs)) for i in self._prefixes(p, subwords, tags)[1]],
            **self._describe_languages(training, train_store, len(subwords.pieces)),
        }  # fmt: skip
        return make_splits(
            self.name or root.resolve().name, self.pairs, splits["training"], seed=seed,
            validation=splits["validation"], test=splits["test"], facts=facts,
        )  # fmt: skip

    def _check_settings(self) -> None:
        if not self.pairs or len(set(self.pairs)) < len(self.pairs):
            raise LimbeckError(f"pairs must be one or more different language pairs, got {list(self.pairs)}")
        for pair in self.pairs:
            languages = pair.split("-")
            if len(languages) != 2 or not all(code.isidentifier() for code in languages):
                raise LimbeckError(f"pairs must be written as SOURCE-TARGET, such as cs-en, got {pair!r}")
        for name in ("eval_pairs", "num_samples", "num_labeled", "folders"):
            for pair in getattr(self, name):
                if pair not in self.pairs:
                    raise LimbeckError(f"{name} must name some of pairs, {', '.join(self.pairs)}, got {pair!r}")
        if self.max_tokens < 2:
            raise LimbeckError(f"max_tokens must be at least 2, got {self.max_tokens}")

    def _find_root(self) -> Path:
        """The folder with the training file of the first pair."""
        if self.root is None and self.name is None:
            raise LimbeckError(
                "data.root must be a folder of texts, or data.name that of one in $LIMBECK_DATA; set one"
            )
        pair = self.pairs[0]
        inside, language = next(iter(self.folders.get(pair, [""]))), pair.split("-")[0]
        folders = candidate_folders(self.root, *([self.name] if self.name else []))
        for folder in folders:
            if find_text_file(folder / inside / f"{self.train_file}.{language}") is not None:
                return folder
        where = ", ".join(str((folder / inside).resolve()) for folder in folders) or "$LIMBECK_DATA"
        raise DataNotFoundError(f"{self.train_file}.{language} must be in {where}, got none: set data.root")

    def _read(self, root: Path, file: str, pairs: Sequence[str]) -> list[_Pair]:
        """The sentence pairs of the files ``file``, without those that have an empty side."""
        samples = []
        for pair in pairs:
            index, languages = self.pairs.index(pair), pair.split("-")
            for folder in self.folders.get(pair, [""]):
                paths = [root / folder / f"{file}.{language}" for language in languages]
                sides = [_read_lines(path) for path in paths]
                if len(sides[0]) != len(sides[1]):
                    raise LimbeckError(
                        f"{paths[0]} and {paths[1].name} must have equally many lines, got {len(sides[0])} and "
                        f"{len(sides[1])}"
                    )
                samples += [_Pair(index, *sentences) for sentences in zip(*sides, strict=True) if all(sentences)]
        return samples

    def _without_training_sentences(
        self, held_out: Mapping[str, list[_Pair]], training: Sequence[_Pair]
    ) -> dict[str, list[_Pair]]:
        """``held_out`` without pairs of which a side is in training; a warning says how many they are."""
        sources, targets = {(s.pair, s.source) for s in training}, {(s.pair, s.target) for s in training}
        kept = dict[str, list[_Pair]]()
        for kind, samples in held_out.items():
            kept[kind] = [s for s in samples if (s.pair, s.source) not in sources and (s.pair, s.target) not in targets]
            removed = Counter(s.pair for s in samples) - Counter(s.pair for s in kept[kind])
            for pair, count in sorted(removed.items()):
                total = sum(s.pair == pair for s in samples)
                warnings.warn(
                    f"{count:,} of the {total:,} {kind} pairs of {self.pairs[pair]} have a sentence that is also in "
                    "the training files, and are left out",
                    stacklevel=3,
                )
        return kept

    def _select(self, training: Sequence[_Pair], seed: int) -> list[_Pair]:
        """The training pairs that are used, some of them without their translation."""
        selected = []
        for index, pair in enumerate(self.pairs):
            samples = [sample for sample in training if sample.pair == index]
            count = self._count("num_samples", pair, len(samples))
            order = torch.randperm(len(samples), generator=make_generator(seed, _SUBSET, index))[:count]
            samples = [samples[i] for i in order.sort().values.tolist()]
            num_labeled = self._count("num_labeled", pair, len(samples))
            order = torch.randperm(len(samples), generator=make_generator(seed, _LABELS, index))
            labeled = set(order[:num_labeled].tolist())
            selected += [
                sample if i in labeled else sample._replace(target=None)
                for i, sample in enumerate(samples)
                if i in labeled or self.keep_unlabeled
            ]
        return selected

    def _count(self, name: str, pair: str, maximum: int) -> int:
        count: int = getattr(self, name).get(pair, maximum)
        if not 0 < count <= maximum:
            raise LimbeckError(f"{name} of {pair} must be from 1 to {maximum}, its training pairs, got {count}")
        return count

    def _tags(self) -> list[str]:
        """The token before the source of each pair; empty where all targets are of one language."""
        targets = [pair.split("-")[1] for pair in self.pairs]
        if self.language_tokens or len(set(targets)) == 1:
            return []
        return [f"<2{target}>" for target in targets]

    def _require_language_tokens(self, subwords: Subwords) -> None:
        languages = {language for pair in self.pairs for language in pair.split("-")}
        if not self.language_tokens:
            return
        for language in sorted(languages):
            token = self.language_tokens.get(language)
            if token not in subwords.special:
                raise LimbeckError(
                    f"language_tokens must name a special token of the vocabulary for {language!r}, got {token!r}"
                )

    def _encode(
        self, samples: Sequence[_Pair], subwords: Subwords, tags: Sequence[str]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Token ids of source and target with the end token, and the tokens of languages before them."""
        ids = [subwords.encode([s.source for s in samples]), subwords.encode([s.target or "" for s in samples])]
        sources, targets = list[Tensor](), list[Tensor]()
        for sample, source, target in zip(samples, *ids, strict=True):
            prefixes = self._prefixes(sample.pair, subwords, tags)
            sources.append(torch.tensor([*prefixes[0], *source, subwords.end_id]))
            has_target = sample.target is not None
            targets.append(torch.tensor([*prefixes[1], *target, subwords.end_id]) if has_target else _EMPTY)
        return sources, targets

    def _prefixes(self, pair: int, subwords: Subwords, tags: Sequence[str]) -> tuple[list[int], list[int]]:
        if self.language_tokens:
            source, target = (subwords.special[self.language_tokens[code]] for code in self.pairs[pair].split("-"))
            return [source], [target]
        return [subwords.special[tags[pair]]] if tags else [], []

    def _make_training_store(
        self, samples: Sequence[_Pair], subwords: Subwords, tags: Sequence[str]
    ) -> tuple[SequenceStore, list[_Pair]]:
        """The store without pairs that are too long, and the pairs in it."""
        sources, targets = self._encode(samples, subwords, tags)
        fits = [max(len(s), len(t)) <= self.max_tokens for s, t in zip(sources, targets, strict=True)]
        if not any(fits):
            raise LimbeckError(f"max_tokens must be above the length of some training pair, got {self.max_tokens}")
        if num_long := len(fits) - sum(fits):
            warnings.warn(
                f"{num_long:,} of the {len(fits):,} training pairs are longer than max_tokens, {self.max_tokens}, and "
                "are left out",
                stacklevel=3,
            )
        kept = [i for i, fit in enumerate(fits) if fit]
        store = _store([sources[i] for i in kept], [targets[i] for i in kept], [samples[i] for i in kept])
        return store, [samples[i] for i in kept]

    def _make_store(
        self, samples: Sequence[_Pair], subwords: Subwords, tags: Sequence[str], *, with_reference: bool
    ) -> SequenceStore:
        if not samples:
            raise LimbeckError("validation and test must have sentence pairs that are not in training, got none")
        sources, targets = self._encode(samples, subwords, tags)
        end = torch.tensor([subwords.end_id])
        sources = [s if len(s) <= self.max_tokens else torch.cat([s[: self.max_tokens - 1], end]) for s in sources]
        targets = [target[: self.max_tokens] for target in targets]
        return _store(sources, targets, samples, with_reference=with_reference)

    def _describe_languages(self, training: Sequence[_Pair], store: SequenceStore, vocab_size: int) -> dict[str, Any]:
        """The similarity of the languages of :attr:`pairs`, by what it is measured by, and counts of their tokens."""
        languages = list(dict.fromkeys(language for pair in self.pairs for language in pair.split("-")))
        texts, tokens = dict[str, list[str]](), dict[str, list[Tensor]]()
        for i, sample in enumerate(training):
            source, target = self.pairs[sample.pair].split("-")
            sides = ((source, sample.source, "input_ids"), (target, sample.target, "target"))
            for language, text, field_name in sides:
                texts.setdefault(language, []).append(text or "")
                tokens.setdefault(language, []).append(store.fields[field_name][i])
        counts = {name: torch.cat(tokens[name]).bincount(minlength=vocab_size).tolist() for name in languages}
        matrices = {
            "script": similarity_matrix([script_counts(texts[language]) for language in languages]),
            "subword": similarity_matrix([dict(enumerate(values)) for values in counts.values()]),
        }
        uriel = uriel_similarity(languages)
        similarity = {"languages": languages, **matrices, **({} if uriel is None else {"uriel": uriel})}
        return {
            "language_similarity": similarity,
            "subword_counts": [list(row) for row in zip(*counts.values(), strict=True)],
        }


def _texts(samples: Sequence[_Pair]) -> list[str]:
    """All different sentences, in order."""
    sentences = (text for sample in samples for text in (sample.source, sample.target) if text is not None)
    return list(dict.fromkeys(sentences))


def _store(
    sources: Sequence[Tensor], targets: Sequence[Tensor], samples: Sequence[_Pair], *, with_reference: bool = False
) -> SequenceStore:
    fields = {"input_ids": sources, "target": targets, "pair": [torch.tensor([sample.pair]) for sample in samples]}
    if with_reference:
        texts = [(sample.target or "").encode() for sample in samples]
        fields["reference"] = [torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in texts]
    return SequenceStore(fields, pad_values={"target": _PADDING}, masks={"input_ids": "attention_mask"})


def _make_split(store: SequenceStore, samples: Sequence[_Pair], first_id: int) -> Split:
    pairs = torch.tensor([UNLABELED if sample.target is None else sample.pair for sample in samples])
    return Split.from_sequences(store, pairs, first_id=first_id)


def _read_lines(path: Path) -> list[str]:
    """The normalized lines of the file ``path``, or of ``path.gz``."""
    file = find_text_file(path)
    if file is None:
        raise DataNotFoundError(f"{path} must be a text file, or one with the suffix .gz, got none: correct data.pairs")
    return [normalize_text(line) for line in read_text_lines(file)]
