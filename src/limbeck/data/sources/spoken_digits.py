"""The Free Spoken Digit Dataset (Jackson et al., https://github.com/Jakobovski/free-spoken-digit-dataset)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal, final

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
from limbeck.data.split import UNLABELED, Split

_FILE: Final = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
_NUM_TEST_TAKES: Final = 5
# The first pronunciation of each digit in the CMU Pronouncing Dictionary, without stress.
_PRONUNCIATIONS: Final = (
    "Z IH R OW", "W AH N", "T UW", "TH R IY", "F AO R", "F AY V", "S IH K S", "S EH V AH N", "EY T", "N AY N",
)  # fmt: skip
PHONEMES: Final = ("-", *sorted({phoneme for word in _PRONUNCIATIONS for phoneme in word.split()}))
"""The classes: the CTC blank, then the phonemes of the digits in ARPAbet."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenDigits:
    """Recordings of the ten digits at 8 kHz as log-mel frames, with their phonemes.

    Args:
        root: folder with ``0_george_0.wav`` …, or one that contains it as ``fsdd`` or ``recordings``; ``None``: the
            usual folders.
        test_by: ``takes``: the official test split, takes 0 to 4 of each speaker; ``speakers``: the speakers in
            ``test_speakers``. Then training, validation and test have different speakers.
        test_speakers: for ``test_by: speakers``.
        val_speakers: speakers of the validation split, with ``test_by: speakers``; empty: ``val_takes`` or
            ``val_split``.
        val_takes: validate on takes 0 to 4 of the speakers that are not test speakers, with ``test_by: speakers``.
        labeled_speakers: speakers whose training clips have a target; empty: all.
        speeds: speeds at which each training clip is a sample, for instance 0.9, 1 and 1.1
            (:func:`~limbeck.data.speed_perturbation.add_speeds`).
        mels: number of mel bands; a frame is 10 ms.
        num_labeled: number of training clips with a target, evenly by digit; ``None``: all.
        num_samples: number of training clips; ``None``: all.
        val_split: validation fraction of the clips that are not test clips; of their speakers with ``test_by:
            speakers``.
        augment: transforms of training frames, with a method ``transform_sequences``.
    """

    provides: ClassVar[tuple[str, ...]] = ("classes", "class_names", "mels")

    root: str | None = None
    test_by: Literal["takes", "speakers"] = "takes"
    test_speakers: tuple[str, ...] = ("theo",)
    val_speakers: tuple[str, ...] = ()
    val_takes: bool = False
    labeled_speakers: tuple[str, ...] = ()
    speeds: tuple[float, ...] = (1.0,)
    mels: int = 40
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.15
    augment: Augmentation = Augmentation()

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; clips are split by ``seed`` in proportion by digit."""
        clips = self._find_clips()
        self._check(sorted({speaker for _, speaker, _, _ in clips}))
        splits = [self._split_of(speaker, take) for _, speaker, take, _ in clips]
        is_test, is_validation = (torch.tensor([split == name for split in splits]) for name in ("test", "validation"))
        digits = torch.tensor([digit for digit, _, _, _ in clips])
        if self.labeled_speakers:
            hidden = torch.tensor([speaker not in self.labeled_speakers for _, speaker, _, _ in clips])
            digits = digits.masked_fill(hidden & ~is_test & ~is_validation, UNLABELED)
        recordings = [read_audio(path) for _, _, _, path in clips]
        frames = [log_mel(samples, rate, mels=self.mels) for samples, rate in recordings]
        tokens = [_to_tokens(digit) for digit, _, _, _ in clips]
        by_speaker = self.test_by == "speakers" and not self.val_takes
        speakers = [speaker for _, speaker, _, _ in clips] if by_speaker else None
        everything = Split.from_sequences(SequenceStore({"input": frames, "target": tokens}), digits, groups=speakers)
        training_frames = [frame for frame, test in zip(frames, is_test.tolist(), strict=True) if not test]
        validation = everything.subset(is_validation) if bool(is_validation.any()) else self.val_split
        data = make_splits(
            "SpokenDigits", PHONEMES, everything.subset(~is_test & ~is_validation), seed=seed, validation=validation,
            test=everything.subset(is_test), num_labeled=self.num_labeled, num_samples=self.num_samples,
            augment=self.augment, normalize=FrameNormalization.from_frames(training_frames), facts={"mels": self.mels},
        )  # fmt: skip
        return add_speeds(
            data, self.speeds, lambda i, speed: log_mel(*change_speed(*recordings[i], speed), mels=self.mels)
        )

    def list_files(self) -> list[SourceFile]:
        """Every clip with its digit, and its split where it is a test clip."""
        return [
            SourceFile(path, self._split_of(speaker, take), str(digit), "audio")
            for digit, speaker, take, path in self._find_clips()
        ]

    def _find_clips(self) -> list[tuple[int, str, int, Path]]:
        """Digit, speaker, take and file of each clip, in the order of file names."""
        for folder in candidate_folders(self.root, "fsdd", "recordings"):
            matches = [(_FILE.fullmatch(path.name), path) for path in sorted(folder.glob("*.wav"))]
            clips = [(int(m[1]), str(m[2]), int(m[3]), path) for m, path in matches if m is not None]
            if clips:
                return clips
        raise DataNotFoundError(
            "the spoken digits were not found: clone https://github.com/Jakobovski/free-spoken-digit-dataset, and set "
            "data.root to its folder"
        )

    def _split_of(self, speaker: str, take: int) -> str:
        """The split of a clip; ``training`` too where the validation split is taken from it by ``val_split``."""
        if self.test_by == "takes":
            return "test" if take < _NUM_TEST_TAKES else "training"
        if speaker in self.test_speakers:
            return "test"
        is_validation = speaker in self.val_speakers or (self.val_takes and take < _NUM_TEST_TAKES)
        return "validation" if is_validation else "training"

    def _check(self, names: Sequence[str]) -> None:
        if self.mels < 1:
            raise LimbeckError(f"mels must be at least 1, got {self.mels}")
        if self.test_by == "takes" and (self.val_speakers or self.val_takes):
            raise LimbeckError("val_speakers and val_takes need test_by: speakers; set it, or use val_split")
        if self.val_speakers and self.val_takes:
            raise LimbeckError(f"val_takes must be false with val_speakers, got {', '.join(self.val_speakers)}")
        roles = {"test_speakers": self.test_speakers if self.test_by == "speakers" else (),
                 "val_speakers": self.val_speakers, "labeled_speakers": self.labeled_speakers}  # fmt: skip
        for key, speakers in roles.items():
            if not set(speakers) <= set(names):
                raise LimbeckError(f"{key} must be some of {', '.join(names)}, got {', '.join(speakers)}")
        held_out = {*roles["test_speakers"], *self.val_speakers}
        if len(held_out) < len(self.val_speakers) + len(roles["test_speakers"]) or held_out >= set(names):
            raise LimbeckError(
                f"test_speakers and val_speakers must be different ones of {', '.join(names)}, and leave one to train "
                f"on, got {', '.join(roles['test_speakers'])} and {', '.join(self.val_speakers)}"
            )
        if self.labeled_speakers and set(self.labeled_speakers) <= held_out:
            raise LimbeckError(f"labeled_speakers must have a training speaker, got {', '.join(self.labeled_speakers)}")


def _to_tokens(digit: int) -> Tensor:
    return torch.tensor([PHONEMES.index(phoneme) for phoneme in _PRONUNCIATIONS[digit].split()])
