"""Sentences with their translations, for encoders of several languages."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.counter_rng import make_generator
from limbeck.data.module import DataModule, make_splits
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.sources.lookup import DataNotFoundError, candidate_folders
from limbeck.data.sources.text_files import make_tokenizer
from limbeck.data.split import Split
from limbeck.data.text_lines import count_tokens, find_text_file, read_text_lines

__all__ = ["MultilingualSentences"]

_SUBSET: Final = 31


class _Sentence(NamedTuple):
    """A sentence: the index of its language, the number of its meaning, and its text."""

    language: int
    meaning: int
    text: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MultilingualSentences:
    """Files ``train.en``, ``train.de``, ``val.en`` … (or ``.gz``) of equally many lines, as of Multi30k.

    A training sample is a sentence of one of ``languages`` with the sentence of ``source_language`` that it translates:
    ``input_ids`` and ``attention_mask``, ``source_input_ids`` and ``source_attention_mask``. A sample of validation and
    test is a sentence of any language. ``target`` is its language, by index in ``class_names``, and ``meaning``
    ``[batch, 1]`` is the line number, equal for translations of each other. Lines of validation and test with a
    sentence that is also in the training files are left out in all languages, with a warning that says how many.

    Args:
        root: the folder, or one that contains it as ``name``; ``None``: ``name`` in the usual folders.
        name: name of the data set, such as ``multi30k``; ``None``: that of the folder.
        source_language: the language of the teacher, whose code ends the names of its files.
        languages: those that are learned from it.
        train_file: name of the training files, without their language.
        val_file: of the validation files.
        test_file: of the test files.
        tokenizer: folder of a tokenizer of transformers, or the name of an installed package that has one; that of the
            teacher. ``None``: words and punctuation marks in lower case that occur ``min_count`` times.
        max_tokens: longer sentences are cut.
        min_count: see ``tokenizer``.
        num_samples: number of training lines, in all languages; ``None``: all.
    """

    provides: ClassVar[tuple[str, ...]] = ("classes", "class_names", "vocab_size", "vocabulary", "token_counts")

    root: str | None = None
    name: str | None = None
    source_language: str = "en"
    languages: tuple[str, ...]
    train_file: str = "train"
    val_file: str = "val"
    test_file: str = "test"
    tokenizer: str | None = None
    max_tokens: int = 64
    min_count: int = 2
    num_samples: int | None = None

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; ``seed`` chooses the training lines where ``num_samples`` is below their number."""
        self._check_settings()
        codes, root = (self.source_language, *self.languages), self._find_root()
        training, held_out = self._read(root, self.train_file), dict[str, list[_Sentence]]()
        known = {(sentence.language, sentence.text) for sentence in training}
        for kind, file in (("validation", self.val_file), ("test", self.test_file)):
            sentences = self._read(root, file)
            repeated = {s.meaning for s in sentences if (s.language, s.text) in known}
            held_out[kind] = [s for s in sentences if s.meaning not in repeated]
            if repeated:
                num_lines = len({s.meaning for s in sentences})
                warnings.warn(
                    f"{len(repeated):,} of the {num_lines:,} {kind} lines have a sentence that is also in the training "
                    "files, and are left out",
                    stacklevel=2,
                )
        training = self._select(training, seed)
        encode, vocabulary = make_tokenizer(self.tokenizer, [s.text for s in training], min_count=self.min_count)
        ids = [encode(s.text)[: self.max_tokens] for s in training]
        splits = {"training": _make_training_split(training, ids)}
        first_id = len(splits["training"])
        for kind, sentences in held_out.items():
            splits[kind] = _make_split(sentences, encode, self.max_tokens, first_id)
            first_id += len(sentences)
        facts = {
            "vocab_size": len(vocabulary), "vocabulary": vocabulary, "token_counts": count_tokens(ids, len(vocabulary))
        }  # fmt: skip
        return make_splits(
            self.name or root.resolve().name, codes, splits["training"], seed=seed, validation=splits["validation"],
            test=splits["test"], facts=facts,
        )  # fmt: skip

    def _check_settings(self) -> None:
        codes = (self.source_language, *self.languages)
        if not self.languages or len(set(codes)) < len(codes) or not all(code.isidentifier() for code in codes):
            raise LimbeckError(
                f"languages must be one or more different codes without source_language, got {', '.join(codes)}"
            )
        if self.max_tokens < 1 or self.min_count < 1:
            raise LimbeckError(f"max_tokens and min_count must be at least 1, got {self.max_tokens}, {self.min_count}")

    def _find_root(self) -> Path:
        """The folder with the training file of the source language."""
        if self.root is None and self.name is None:
            raise LimbeckError(
                "data.root must be a folder of texts, or data.name that of one in $LIMBECK_DATA; set one"
            )
        folders, file = candidate_folders(self.root, *([self.name] if self.name else [])), self.train_file
        for folder in folders:
            if find_text_file(folder / f"{file}.{self.source_language}") is not None:
                return folder
        where = ", ".join(str(folder.resolve()) for folder in folders) or "$LIMBECK_DATA"
        raise DataNotFoundError(f"{file}.{self.source_language} must be in {where}, got none: set data.root")

    def _read(self, root: Path, file: str) -> list[_Sentence]:
        """The sentences of the files ``file``, without lines that are empty in a language."""
        paths = [root / f"{file}.{code}" for code in (self.source_language, *self.languages)]
        columns = []
        for path in paths:
            if (found := find_text_file(path)) is None:
                raise DataNotFoundError(f"{path} must be a text file, or one with the suffix .gz, got none")
            columns.append(read_text_lines(found))
        lengths = {path.name: len(lines) for path, lines in zip(paths, columns, strict=True)}
        if len(set(lengths.values())) > 1:
            raise LimbeckError(f"the files of {file} in {root} must have equally many lines, got {lengths}")
        lines = [(i, line) for i, line in enumerate(zip(*columns, strict=True)) if all(line)]
        if not lines:
            raise LimbeckError(f"{paths[0]} must have a line in all languages, got none")
        return [_Sentence(language, i, text) for i, line in lines for language, text in enumerate(line)]

    def _select(self, training: list[_Sentence], seed: int) -> list[_Sentence]:
        meanings = sorted({sentence.meaning for sentence in training})
        if self.num_samples is None:
            return training
        if not 0 < self.num_samples <= len(meanings):
            raise LimbeckError(f"num_samples must be from 1 to {len(meanings)} training lines, got {self.num_samples}")
        order = torch.randperm(len(meanings), generator=make_generator(seed, _SUBSET))[: self.num_samples]
        kept = {meanings[i] for i in order.tolist()}
        return [sentence for sentence in training if sentence.meaning in kept]


def _make_training_split(sentences: Sequence[_Sentence], ids: Sequence[Tensor]) -> Split:
    """The translations, each with its source, which is the first sentence of a meaning."""
    sources = {s.meaning: tokens for s, tokens in zip(sentences, ids, strict=True) if s.language == 0}
    pairs = [(s, tokens) for s, tokens in zip(sentences, ids, strict=True) if s.language > 0]
    fields = {
        "input_ids": [tokens for _, tokens in pairs],
        "source_input_ids": [sources[s.meaning] for s, _ in pairs],
        "meaning": [torch.tensor([s.meaning]) for s, _ in pairs],
    }
    masks = {name: name.replace("input_ids", "attention_mask") for name in ("input_ids", "source_input_ids")}
    target = torch.tensor([s.language for s, _ in pairs])
    return Split.from_sequences(SequenceStore(fields, masks=masks), target)


def _make_split(
    sentences: Sequence[_Sentence], encode: Callable[[str], Tensor], max_tokens: int, first_id: int
) -> Split:
    if not sentences:
        raise LimbeckError("validation and test must have sentences that are not in training, got none")
    fields = {
        "input_ids": [encode(s.text)[:max_tokens] for s in sentences],
        "meaning": [torch.tensor([s.meaning]) for s in sentences],
    }
    store = SequenceStore(fields, masks={"input_ids": "attention_mask"})
    return Split.from_sequences(store, torch.tensor([s.language for s in sentences]), first_id=first_id)
