"""Tables of transcripts, and what they are made of: characters, phonemes of a lexicon, or phonemes of espeak-ng."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Final

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import require_regular_file

__all__ = [
    "count_ctc_frames", "espeak_phonemes", "lexicon_phonemes", "read_lexicon", "read_table", "to_characters",
    "warn_of_omitted_clips",
]  # fmt: skip

_VARIANT: Final = re.compile(r"\(\d+\)$")
_STRESS: Final = str.maketrans("", "", "ˈˌ")
_ESPEAK_SECONDS: Final = 60


def read_table(path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a table with tabs in UTF-8, by column, as NFC without spaces around.

    Args:
        path: its first line has the names of the columns.
        columns: those it must have.
        optional: those it may have; a missing one is empty.

    Raises:
        LimbeckError: a column or a value is missing, there is no row, or ``file`` is not in the folder of the table.
    """
    try:
        with require_regular_file(path).open(encoding="utf-8-sig", newline="") as file:
            table = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, ValueError, csv.Error) as error:
        raise LimbeckError(f"{path} cannot be read ({error}): give a table with tabs in UTF-8") from error
    if not table or not set(columns) <= table[0].keys():
        got = ", ".join(map(str, table[0])) if table else "no row"
        raise LimbeckError(f"{path} must have the columns {', '.join(columns)} and at least one row, got {got}")
    names = [*columns, *(name for name in optional if name in table[0])]
    rows = []
    for number, entry in enumerate(table, 2):
        if any(entry[name] is None for name in names):
            raise LimbeckError(f"line {number} of {path} must have {', '.join(names)}: complete or remove it")
        row = {name: unicodedata.normalize("NFC", entry[name].strip()) for name in names}
        name = PurePosixPath(row.get("file", ""))
        if name.is_absolute() or ".." in name.parts:
            raise LimbeckError(f"line {number} of {path}: file must be in the folder of the table, got {row['file']!r}")
        rows.append({**dict.fromkeys(optional, ""), **row})
    return rows


def to_characters(text: str) -> str:
    """Letters with their marks, digits, apostrophes and single spaces, in lower case.

    >>> to_characters("It's 5 o'clock - now!")
    "it's 5 o'clock now"
    """
    kept = "".join(char if _is_kept(char) else " " for char in text.lower())
    return " ".join(kept.split())


def _is_kept(char: str) -> bool:
    # Vowel signs of Burmese or Hindi are marks, category M.
    return char.isalnum() or char == "'" or unicodedata.category(char).startswith("M")


def count_ctc_frames(tokens: Sequence[object]) -> int:
    """The frames that CTC needs for a transcript: one for each token, and a blank between equal ones.

    >>> count_ctc_frames("hello")
    6
    """
    return len(tokens) + sum(a == b for a, b in pairwise(tokens))


def warn_of_omitted_clips(num_omitted: int, num_clips: int) -> None:
    """Say how many clips are longer than ``max_seconds``, or too short for their transcript."""
    if num_omitted:
        warnings.warn(
            f"{num_omitted} of {num_clips} clips are longer than max_seconds or too short for their transcript "
            "(min_frames_per_token), and are left out",
            stacklevel=4,
        )


def read_lexicon(path: Path) -> dict[str, tuple[str, ...]]:
    """The first pronunciation of each word in lower case, without stress.

    Each line is a word and its phonemes, separated by spaces or tabs, as in the CMU Pronouncing Dictionary
    (http://www.speech.cs.cmu.edu/cgi-bin/cmudict) and in Kaldi. Further pronunciations, ``WORD(2)``, and comments,
    ``;;;`` or ``#``, are left out.

    Raises:
        LimbeckError: the file cannot be read, or a line has no phoneme.
    """
    lexicon: dict[str, tuple[str, ...]] = {}
    try:
        lines = require_regular_file(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise LimbeckError(f"the lexicon {path} cannot be read ({error}): give a text file in UTF-8") from error
    for number, line in enumerate(lines, 1):
        entry = line.partition(" #")[0].split()
        if not entry or entry[0].startswith((";;;", "#")):
            continue
        if len(entry) < 2:
            raise LimbeckError(f"line {number} of the lexicon {path} must be a word and its phonemes, got {line!r}")
        word = unicodedata.normalize("NFC", _VARIANT.sub("", entry[0]).lower())
        lexicon.setdefault(word, tuple(phoneme.rstrip("012") or phoneme for phoneme in entry[1:]))
    if not lexicon:
        raise LimbeckError(f"the lexicon {path} must have a word, got none")
    return lexicon


def lexicon_phonemes(text: str, lexicon: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """The phonemes of ``text``, and its words that are not in the lexicon.

    >>> lexicon_phonemes("Two, two eight", {"two": ("T", "UW")})
    (['T', 'UW', 'T', 'UW'], ['eight'])
    """
    words = to_characters(text).split()
    phonemes = [phoneme for word in words for phoneme in lexicon.get(word, ())]
    return phonemes, [word for word in words if word not in lexicon]


def espeak_phonemes(texts: Sequence[str], language: str) -> list[list[str]]:
    """The phonemes of each text in the International Phonetic Alphabet, without stress, by the program espeak-ng.

    Args:
        texts: texts.
        language: a voice of espeak-ng, such as ``en``, ``de`` or ``my``.

    Raises:
        LimbeckError: the program is not installed or has no such voice.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise LimbeckError(
            "units: phonemes needs a lexicon or the program espeak-ng, which is not installed: set data.lexicon, or "
            "install it (apt install espeak-ng, brew install espeak-ng)"
        )
    by_text: dict[str, list[str]] = {}
    for text in dict.fromkeys(texts):
        # A text of its own process, since espeak-ng writes one line for each clause. `--`: a text may begin with "-".
        command = [program, "-q", "--ipa", "--sep=_", "-v", language, "--", to_characters(text) or " "]
        try:
            result = subprocess.run(  # noqa: S603
                command, capture_output=True, encoding="utf-8", timeout=_ESPEAK_SECONDS, check=True
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            reason = (getattr(error, "stderr", None) or str(error)).strip()
            raise LimbeckError(
                f"espeak-ng gives no phonemes of {text[:40]!r} in {language!r} ({reason}): set data.language to a "
                "voice of `espeak-ng --voices`"
            ) from error
        by_text[text] = re.split(r"[_\s]+", result.stdout.translate(_STRESS).strip()) if result.stdout.strip() else []
    return [[phoneme for phoneme in by_text[text] if phoneme] for text in texts]
