"""A folder of clips with a table of transcripts, as characters or phonemes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal, NamedTuple, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.audio_files import read_audio
from limbeck.data.augmentation import Augmentation
from limbeck.data.log_mel import log_mel
from limbeck.data.module import DataModule, make_splits
from limbeck.data.normalization import FrameNormalization
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.sources.lookup import DataNotFoundError, candidate_folders
from limbeck.data.sources.source_file import SourceFile
from limbeck.data.speed_perturbation import add_speeds, change_speed
from limbeck.data.split import UNLABELED, Split, stratified_split
from limbeck.data.transcripts import (
    count_ctc_frames,
    espeak_phonemes,
    lexicon_phonemes,
    read_lexicon,
    read_table,
    to_characters,
    warn_of_omitted_clips,
)

_TABLE: Final = "transcripts.tsv"
_BLANK, _UNKNOWN = "-", "⁇"
_SPLITS: Final = {
    "": "", "train": "training", "training": "training", "val": "validation", "dev": "validation",
    "validation": "validation", "test": "test",
}  # fmt: skip
_VOICE: Final = re.compile(r"[A-Za-z0-9-]+")
_VALIDATION, _TEST = 5, 6  # the purposes of `make_splits`
_MAX_NAMED: Final = 3


class _Clip(NamedTuple):
    """A row of the table; ``split`` is empty where it is drawn, ``text`` where the clip has no transcript."""

    path: Path
    text: str
    split: str
    speaker: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechFolder:
    """A folder with ``transcripts.tsv`` and the WAV or FLAC files that it names, for the task ``SpeechCTC``.

    The table has tabs and the columns ``file`` (in the folder) and ``text``, and optionally ``split`` (``train``,
    ``val`` or ``test``; empty: drawn at random) and ``speaker``. Clips without a text have no target, and are training
    clips. No speaker is in two splits. A warning counts the clips that are left out.

    The classes are the blank, the tokens of the training clips, and one for all other tokens, which no network learns:
    in validation and test they count as errors.

    Args:
        root: the folder, or one that contains it as ``name``; ``None``: ``name`` in the usual folders.
        name: name of the data set.
        units: the targets: ``characters`` (letters, digits, apostrophes and spaces, in lower case), or ``phonemes``.
        lexicon: for phonemes, a file (also one beside the table) with a word and its phonemes in each line, as the CMU
            Pronouncing Dictionary; ``None``: the phonemes are those of the program espeak-ng.
        language: for phonemes of espeak-ng, one of its voices.
        mels: number of mel bands; a frame is 10 ms.
        max_seconds: longer clips are left out.
        min_frames_per_token: clips with fewer frames for each token of their transcript are left out, since CTC with
            frames of this stride could not emit it.
        speeds: as in :class:`SpokenDigits`.
        num_labeled: number of training clips with a target; ``None``: all.
        num_samples: number of training clips; ``None``: all.
        val_split: validation fraction of the clips that are not test clips, where the table has no validation split.
        test_split: test fraction of the clips, where the table has no test split.
        augment: transforms of training frames, with a method ``transform_sequences``.
    """

    provides: ClassVar[tuple[str, ...]] = ("classes", "class_names", "mels", "word_separator")

    root: str | None = None
    name: str = "speech"
    units: Literal["characters", "phonemes"] = "characters"
    lexicon: str | None = None
    language: str = "en"
    mels: int = 40
    max_seconds: float = 20.0
    min_frames_per_token: int = 1
    speeds: tuple[float, ...] = (1.0,)
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.15
    test_split: float = 0.25
    augment: Augmentation = Augmentation()

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; splits that are not in the table are drawn by ``seed``."""
        self._check()
        clips, transcripts, recordings = self._read_clips()
        frames = [log_mel(samples, rate, mels=self.mels) for samples, rate in recordings]
        labels = torch.tensor([0 if tokens else UNLABELED for tokens in transcripts])
        # A clip without a speaker is a group of its own.
        speakers: list[str | int] = [clip.speaker or i for i, clip in enumerate(clips)]
        numbers = {speaker: i for i, speaker in enumerate(dict.fromkeys(speakers))}
        groups = [numbers[speaker] for speaker in speakers] if any(clip.speaker for clip in clips) else None
        split = Split.from_sequences(SequenceStore({"input": frames}), labels, groups=groups)
        train, validation, test = self._split(split, [clip.split for clip in clips], seed)
        tokens = {token for i in train.indices.tolist() for token in transcripts[i]}
        tokens |= {" "} if self.units == "characters" else set()
        names = (_BLANK, *sorted(tokens), _UNKNOWN)
        index = {token: number for number, token in enumerate(names) if 0 < number < len(names) - 1}
        targets = [torch.tensor([index.get(t, len(names) - 1) for t in row], dtype=torch.long) for row in transcripts]
        split = Split.from_sequences(SequenceStore({"input": frames, "target": targets}), labels, groups=groups)
        data = make_splits(
            self.name, names, split.subset(train.indices), seed=seed, validation=split.subset(validation.indices),
            test=split.subset(test.indices), num_labeled=self.num_labeled, num_samples=self.num_samples,
            augment=self.augment, normalize=FrameNormalization.from_frames([frames[i] for i in train.indices.tolist()]),
            facts={"mels": self.mels, "word_separator": index[" "] if self.units == "characters" else None},
        )  # fmt: skip
        return add_speeds(
            data, self.speeds, lambda i, speed: log_mel(*change_speed(*recordings[i], speed), mels=self.mels)
        )

    def list_files(self) -> list[SourceFile]:
        """Every clip with its split, where the table has it."""
        return [SourceFile(clip.path, clip.split or "training", None, "audio") for clip in self._find_clips()]

    def _read_clips(self) -> tuple[list[_Clip], list[list[str]], list[tuple[Tensor, int]]]:
        """Clips, their tokens and their samples, without those that are too long or too fast."""
        clips = self._find_clips()
        transcripts = self._to_tokens([clip.text for clip in clips])
        usable, recordings = list[int](), list[tuple[Tensor, int]]()
        for number, (clip, tokens) in enumerate(zip(clips, transcripts, strict=True)):
            if clip.split in ("validation", "test") and not tokens:
                raise LimbeckError(
                    f"a {clip.split} clip must have {self.units}, and {clip.text!r} of {clip.path} has none: correct "
                    "its text, or remove it"
                )
            recording, rate = read_audio(clip.path)
            seconds = len(recording) / rate
            needed = count_ctc_frames(tokens) * self.min_frames_per_token
            if seconds <= self.max_seconds and needed <= max(1, int(100 * seconds)):
                usable.append(number)
                recordings.append((recording, rate))
        if not usable:
            raise LimbeckError(
                f"all clips are longer than max_seconds {self.max_seconds:g} or have fewer frames than "
                f"min_frames_per_token {self.min_frames_per_token}: change them"
            )
        warn_of_omitted_clips(len(clips) - len(usable), len(clips))
        return [clips[i] for i in usable], [transcripts[i] for i in usable], recordings

    def _to_tokens(self, texts: Sequence[str]) -> list[list[str]]:
        """The characters or phonemes of each text; none of an empty one."""
        if self.units == "characters":
            return [list(to_characters(text)) for text in texts]
        if self.lexicon is None:
            return espeak_phonemes(texts, self.language)
        beside_table = self._find_root() / self.lexicon
        lexicon = read_lexicon(beside_table if beside_table.is_file() else Path(self.lexicon))
        pronunciations = [lexicon_phonemes(text, lexicon) for text in texts]
        missing = list(dict.fromkeys(word for _, words in pronunciations for word in words))
        if missing:
            named = ", ".join(missing[:_MAX_NAMED])
            raise LimbeckError(
                f"all words must be in the lexicon {self.lexicon}, and {len(missing)} are not: {named}"
                f"{', …' if len(missing) > _MAX_NAMED else ''}; add them, or set lexicon: null for espeak-ng"
            )
        return [phonemes for phonemes, _ in pronunciations]

    def _split(self, split: Split, names: Sequence[str], seed: int) -> tuple[Split, Split, Split]:
        """Training, validation and test clips; what the table does not assign is drawn."""
        masks = {name: torch.tensor([entry == name for entry in names]) for name in ("validation", "test")}
        train, held_out = split.subset(~masks["validation"] & ~masks["test"]), dict[str, Split]()
        for name, fraction, purpose in (("test", self.test_split, _TEST), ("validation", self.val_split, _VALIDATION)):
            if bool(masks[name].any()):
                held_out[name] = split.subset(masks[name])
            else:
                train, held_out[name] = stratified_split(train, fraction, seed=seed, purpose=purpose)
        return train, held_out["validation"], held_out["test"]

    def _find_clips(self) -> list[_Clip]:
        """The clips in the order of the table."""
        root = self._find_root()
        rows = read_table(root / _TABLE, ("file", "text"), optional=("split", "speaker"))
        for number, row in enumerate(rows, 2):
            if not row["file"] or row["split"].lower() not in _SPLITS:
                raise LimbeckError(
                    f"line {number} of {root / _TABLE} must have a file and as split train, val, test or nothing, got "
                    f"{row['file']!r} and {row['split']!r}: correct it"
                )
            if not row["text"] and _SPLITS[row["split"].lower()] in ("validation", "test"):
                raise LimbeckError(f"line {number} of {root / _TABLE}: a {row['split']} clip must have a text; add it")
        clips = [_Clip(root / row["file"], row["text"], _SPLITS[row["split"].lower()], row["speaker"]) for row in rows]
        splits: dict[str, str] = {}
        for clip in clips:
            other = splits.setdefault(clip.speaker, clip.split)
            if clip.speaker and other != clip.split and {other, clip.split} != {"", "training"}:
                raise LimbeckError(
                    f"a speaker of {root / _TABLE} must be in one split, and {clip.speaker!r} is in "
                    f"{other or 'none'} and {clip.split or 'none'}: correct them, or remove the column speaker"
                )
        return clips

    def _find_root(self) -> Path:
        for folder in candidate_folders(self.root, self.name):
            if (folder / _TABLE).is_file():
                return folder
        raise DataNotFoundError(
            f"{_TABLE} with the columns file and text must be in data.root or in a folder {self.name!r} of "
            "$LIMBECK_DATA, got none: see docs/speech.md"
        )

    def _check(self) -> None:
        if min(self.mels, self.min_frames_per_token) < 1 or self.max_seconds <= 0:
            raise LimbeckError(
                "mels and min_frames_per_token must be at least 1 and max_seconds above 0, got "
                f"{self.mels}, {self.min_frames_per_token} and {self.max_seconds}"
            )
        if self.units not in ("characters", "phonemes"):
            raise LimbeckError(f"units must be characters or phonemes, got {self.units!r}")
        if self.lexicon is not None and self.units != "phonemes":
            raise LimbeckError("lexicon needs units: phonemes; set it, or remove lexicon")
        if not _VOICE.fullmatch(self.language):
            raise LimbeckError(f"language must be a voice of espeak-ng, such as en or en-us, got {self.language!r}")
