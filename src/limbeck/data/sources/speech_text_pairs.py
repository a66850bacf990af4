"""Clips in several languages with texts of one meaning, from WAV files and a table of transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, NamedTuple, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.audio_files import read_wav
from limbeck.data.augmentation import Augmentation
from limbeck.data.image_store import InMemory
from limbeck.data.log_mel import log_mel
from limbeck.data.module import DataModule, make_splits
from limbeck.data.normalization import FrameNormalization
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.sources.lookup import DataNotFoundError, candidate_folders
from limbeck.data.sources.source_file import SourceFile
from limbeck.data.sources.text_files import make_tokenizer
from limbeck.data.split import Split, stratified_split
from limbeck.data.transcripts import count_ctc_frames, read_table, to_characters, warn_of_omitted_clips

_TABLE: Final = "transcripts.tsv"
_COLUMNS: Final = ("key", "language", "file", "text")
_BLANK: Final = "-"
_VALIDATION, _TEST = 5, 6  # the purposes of `make_splits`


class _Row(NamedTuple):
    """A row of the table: the key of its meaning, the language, the file of the clip, and its transcript."""

    key: str
    language: str
    file: str
    text: str


class _Pair(NamedTuple):
    """A clip with its transcript and the text it is paired with."""

    path: Path
    language: str
    transcript: str
    text: str
    group: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechTextPairs:
    """A folder with ``transcripts.tsv`` and the WAV files that it names.

    The table has the columns ``key``, ``language``, ``file`` (in the folder) and ``text``; rows of one key have one
    meaning. A sample is a clip with the text of its key in ``text_language``. Rows without a file are texts only, and
    clips without such a text are left out. Keys that share a text in any language are in one split.

    Args:
        root: the folder, or one that contains it as ``name``; ``None``: ``name`` in the usual folders.
        name: name of the data set, such as ``asterisk``.
        languages: of the clips; ``None``: all.
        text_language: of the paired texts; ``None``: the language of the clip, so that each is paired with its
            transcript.
        tokenizer: as in :class:`TextFiles`.
        min_count: as in :class:`TextFiles`.
        max_tokens: longer texts are cut.
        max_seconds: longer clips are left out.
        min_frames_per_token: clips with fewer frames of 10 ms for each character of their transcript are left out,
            since CTC with frames of this stride could not emit it. Often such a transcript does not match the
            recording.
        mels: number of mel bands; a frame is 10 ms.
        num_labeled: number of training pairs, evenly by language; the others have no target; ``None``: all.
        num_samples: number of training samples; ``None``: all.
        val_split: validation fraction of the samples that are not test samples.
        test_split: test fraction of the samples.
        augment: transforms of training frames, with a method ``transform_sequences``.
    """

    provides: ClassVar[tuple[str, ...]] = ("classes", "class_names", "mels", "num_tokens", "vocab_size")

    root: str | None = None
    name: str = "asterisk"
    languages: tuple[str, ...] | None = None
    text_language: str | None = "en"
    tokenizer: str | None = None
    min_count: int = 1
    max_tokens: int = 64
    max_seconds: float = 20.0
    min_frames_per_token: int = 4
    mels: int = 40
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.15
    test_split: float = 0.25
    augment: Augmentation = Augmentation()

    def load(self, *, seed: int = 0) -> DataModule:
        """The data, split by ``seed`` between texts, in proportion by language."""
        if min(self.mels, self.max_tokens, self.min_frames_per_token) < 1 or self.max_seconds <= 0:
            raise LimbeckError(
                "mels, max_tokens and min_frames_per_token must be at least 1 and max_seconds above 0, got "
                f"{self.mels}, {self.max_tokens}, {self.min_frames_per_token} and {self.max_seconds}"
            )
        pairs, frames = self._read_clips()
        languages = sorted({pair.language for pair in pairs})
        classes = torch.tensor([languages.index(pair.language) for pair in pairs])
        groups = torch.tensor([pair.group for pair in pairs])
        # Split before the texts are encoded: the vocabularies are those of the training texts.
        everything = Split.from_images(InMemory(torch.zeros(len(pairs), 1)), classes, groups=groups)
        rest, test = stratified_split(everything, self.test_split, seed=seed, purpose=_TEST)
        train, validation = stratified_split(rest, self.val_split, seed=seed, purpose=_VALIDATION)
        training = [pairs[i] for i in train.indices.tolist()]
        encode, vocabulary = make_tokenizer(
            self.tokenizer, sorted({pair.text for pair in training}), min_count=self.min_count
        )
        characters = (_BLANK, *sorted({char for pair in training for char in to_characters(pair.transcript)}))
        store = SequenceStore(
            {
                "input": frames,
                "input_ids": [encode(pair.text)[: self.max_tokens] for pair in pairs],
                "tokens": [_to_tokens(pair.transcript, characters) for pair in pairs],
                "text": [torch.tensor([ord(char) for char in pair.text]) for pair in pairs],
            },
            masks={"input_ids": "attention_mask"},
        )
        split = Split.from_sequences(store, classes, groups=groups)
        return make_splits(
            self.name, languages, split.subset(train.indices), seed=seed, validation=split.subset(validation.indices),
            test=split.subset(test.indices), num_labeled=self.num_labeled, num_samples=self.num_samples,
            augment=self.augment, normalize=FrameNormalization.from_frames([frames[i] for i in train.indices.tolist()]),
            facts={
                "mels": self.mels, "num_tokens": len(characters), "vocab_size": len(vocabulary),
                "vocabulary": vocabulary,
            },
        )  # fmt: skip

    def list_files(self) -> list[SourceFile]:
        """Every clip with its language."""
        return [SourceFile(pair.path, "training", pair.language, "audio") for pair in self._find_pairs()]

    def _read_clips(self) -> tuple[list[_Pair], list[Tensor]]:
        """The pairs with their frames, without clips that are too long or too fast."""
        pairs, frames, all_pairs = list[_Pair](), list[Tensor](), self._find_pairs()
        for pair in all_pairs:
            samples, rate = read_wav(pair.path)
            if len(samples) > self.max_seconds * rate:
                continue
            mels = log_mel(samples, rate, mels=self.mels)
            if count_ctc_frames(to_characters(pair.transcript)) <= -(-len(mels) // self.min_frames_per_token):
                pairs.append(pair)
                frames.append(mels)
        if not pairs:
            raise LimbeckError(
                f"all clips are longer than max_seconds {self.max_seconds:g} or have fewer frames than "
                f"min_frames_per_token {self.min_frames_per_token}: change them"
            )
        warn_of_omitted_clips(len(all_pairs) - len(pairs), len(all_pairs))
        return pairs, frames

    def _find_pairs(self) -> list[_Pair]:
        """Clips with their texts, in the order of the table."""
        root = self._find_root()
        rows = _read_rows(root / _TABLE)
        available = sorted({row.language for row in rows})
        for setting, names in (("languages", self.languages or ()), ("text_language", (self.text_language,))):
            if unknown := [name for name in names if name is not None and name not in available]:
                raise LimbeckError(f"{setting}: {_TABLE} has the languages {', '.join(available)}, got {unknown[0]!r}")
        texts = {(row.key, row.language): row.text for row in rows}
        groups = _group_keys(texts)
        pairs = [
            _Pair(root / row.file, row.language, row.text, text, groups[row.key])
            for row in rows
            if row.file and (self.languages is None or row.language in self.languages)
            if (text := texts.get((row.key, self.text_language or row.language), ""))
        ]
        if not pairs:
            raise LimbeckError(f"{root / _TABLE} must have clips with a text in {self.text_language}, got none")
        return pairs

    def _find_root(self) -> Path:
        for folder in candidate_folders(self.root, self.name):
            if (folder / _TABLE).is_file():
                return folder
        raise DataNotFoundError(
            f"{_TABLE} with the columns {', '.join(_COLUMNS)} must be in data.root or in a folder {self.name!r} of "
            "$LIMBECK_DATA, got none: see docs/alignment.md"
        )


def _read_rows(path: Path) -> list[_Row]:
    rows = read_table(path, _COLUMNS)
    for number, row in enumerate(rows, 2):
        if not row["key"] or not row["language"]:
            raise LimbeckError(f"line {number} of {path} must have a key and a language: complete or remove it")
    return [_Row(**row) for row in rows]


def _group_keys(texts: Mapping[tuple[str, str], str]) -> dict[str, int]:
    """A number for each key, equal for keys with a text in common, in any language and directly or not.

    >>> _group_keys({("a", "en"): "Yes.", ("b", "en"): "yes", ("b", "fr"): "oui", ("c", "en"): "no"})
    {'a': 0, 'b': 0, 'c': 2}
    """
    keys = list(dict.fromkeys(key for key, _ in texts))
    parent = {key: key for key in keys}

    def find(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    first_key: dict[tuple[str, str], str] = {}
    for (key, language), text in texts.items():
        words = "".join(char for char in text.lower() if char.isalnum())
        if words:
            roots = sorted((find(key), find(first_key.setdefault((language, words), key))), key=keys.index)
            parent[roots[1]] = roots[0]
    return {key: keys.index(find(key)) for key in keys}


def _to_tokens(text: str, characters: Sequence[str]) -> Tensor:
    """The classes of the characters of a transcript; those that are no class are left out."""
    index = {char: i for i, char in enumerate(characters) if i}
    return torch.tensor([index[char] for char in to_characters(text) if char in index], dtype=torch.long)
