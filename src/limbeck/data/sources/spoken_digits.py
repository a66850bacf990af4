"""The Free Spoken Digit Dataset (Jackson et al., https://github.com/Jakobovski/free-spoken-digit-dataset)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError
from limbeck.data.augmentation import Augmentation
from limbeck.data.log_mel import log_mel, read_wav
from limbeck.data.module import DataModule, make_splits
from limbeck.data.normalization import FrameNormalization
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.sources.lookup import DataNotFoundError, candidate_folders
from limbeck.data.sources.source_file import SourceFile
from limbeck.data.split import Split

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
    mels: int = 40
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.15
    augment: Augmentation = Augmentation()

    def load(self, *, seed: int = 0) -> DataModule:
        """The data; clips are split by ``seed`` in proportion by digit."""
        clips = self._find_clips()
        if self.mels < 1:
            raise LimbeckError(f"mels must be at least 1, got {self.mels}")
        is_test = torch.tensor([self._is_test(speaker, take) for _, speaker, take, _ in clips])
        if bool(is_test.all()) or not bool(is_test.any()):
            names = sorted({speaker for _, speaker, _, _ in clips})
            raise LimbeckError(f"test_speakers must be some of {', '.join(names)}, got {', '.join(self.test_speakers)}")
        frames = [log_mel(*read_wav(path), mels=self.mels) for _, _, _, path in clips]
        tokens = [_to_tokens(digit) for digit, _, _, _ in clips]
        digits = torch.tensor([digit for digit, _, _, _ in clips])
        speakers = [speaker for _, speaker, _, _ in clips] if self.test_by == "speakers" else None
        store = SequenceStore({"input": frames, "target": tokens})
        everything = Split.from_sequences(store, digits, groups=speakers)
        training_frames = [frame for frame, test in zip(frames, is_test.tolist(), strict=True) if not test]
        return make_splits(
            "SpokenDigits", PHONEMES, everything.subset(~is_test), seed=seed, validation=self.val_split,
            test=everything.subset(is_test), num_labeled=self.num_labeled, num_samples=self.num_samples,
            augment=self.augment, normalize=FrameNormalization.from_frames(training_frames), facts={"mels": self.mels},
        )  # fmt: skip

    def list_files(self) -> list[SourceFile]:
        """Every clip with its digit, and its split where it is a test clip."""
        return [
            SourceFile(path, "test" if self._is_test(speaker, take) else "training", str(digit), "audio")
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

    def _is_test(self, speaker: str, take: int) -> bool:
        return take < _NUM_TEST_TAKES if self.test_by == "takes" else speaker in self.test_speakers


def _to_tokens(digit: int) -> Tensor:
    return torch.tensor([PHONEMES.index(phoneme) for phoneme in _PRONUNCIATIONS[digit].split()])
