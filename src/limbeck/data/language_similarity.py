"""How similar languages are: by typology (URIEL), by script, and by shared subwords.

URIEL (Littell et al., EACL 2017, https://aclanthology.org/E17-2002) has the syntax, phonology and sounds of 7,970
languages. Its vectors are read from the files of the installed package lang2vec, which is not imported. All values are
in 0..1, and 1 for a language with itself.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.core.errors import LimbeckError
from limbeck.utils.io import parse_json

__all__ = ["overlap", "script_counts", "similarity_matrix", "uriel_similarity"]

_INSTALL = "pip install --no-deps lang2vec"
_FEATURES = "feature_predictions.npz"
"""All features of each language, those that are unknown predicted from its neighbors."""


def script_counts(texts: Iterable[str]) -> Counter[str]:
    """How many letters and marks of each script there are, by the first word of their Unicode names.

    >>> script_counts(["dub, ဗ"])
    Counter({'LATIN': 3, 'MYANMAR': 1})
    """
    counts: Counter[str] = Counter()
    for character, count in Counter(character for text in texts for character in text).items():
        if unicodedata.category(character)[0] in "LM":
            counts[unicodedata.name(character, "UNKNOWN").split(" ")[0]] += count
    return counts


def overlap(first: Mapping[Any, float], second: Mapping[Any, float]) -> float:
    """Σ min(p, q) of two distributions, given as counts; 0 where one is empty.

    >>> overlap({"a": 1, "b": 3}, {"b": 1, "c": 1})
    0.5
    """
    totals = sum(first.values()), sum(second.values())
    if not all(totals):
        return 0.0
    return float(sum(min(count / totals[0], second.get(key, 0) / totals[1]) for key, count in first.items()))


def similarity_matrix(counts: Sequence[Mapping[Any, float]]) -> list[list[float]]:
    """:func:`overlap` of each pair of ``counts``; 1 on the diagonal."""
    return [[1.0 if a is b else round(overlap(a, b), 6) for b in counts] for a in counts]


def uriel_similarity(languages: Sequence[str]) -> list[list[float]] | None:
    """The cosine of the URIEL vectors of each pair of languages; ``None`` where lang2vec is not installed.

    Args:
        languages: ISO 639-1 or 639-3 codes, such as ``my`` or ``rki``.

    Raises:
        LimbeckError: URIEL has no language of that code, or the files of lang2vec cannot be read.
    """
    if find_spec("lang2vec") is None:
        return None
    codes, rows, data = _read_uriel()
    vectors = []
    for language in languages:
        code = codes.get(language, language)
        if code not in rows:
            raise LimbeckError(f"languages must be ISO 639 codes that URIEL has, got {language!r}: correct the pairs")
        vectors.append(data[rows[code]])
    matrix = np.stack(vectors).astype(np.float64)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    cosines = np.clip(matrix @ matrix.T, 0.0, 1.0)
    return [[1.0 if i == j else round(float(value), 6) for j, value in enumerate(row)] for i, row in enumerate(cosines)]


@lru_cache(maxsize=1)
def _read_uriel() -> tuple[dict[str, str], dict[str, int], NDArray[np.float32]]:
    """Three-letter codes by two-letter codes, row by code, and the features ``[languages, features]``."""
    spec = find_spec("lang2vec")
    folder = Path(next(iter((spec and spec.submodule_search_locations) or ["."]))) / "data"
    try:
        codes = parse_json((folder / "letter_codes.json").read_bytes())
        with np.load(folder / _FEATURES, allow_pickle=False) as file:
            languages, data = file["langs"], file["data"][:, :, 0]
        if data.ndim != 2 or len(data) != len(languages):
            raise ValueError("the shapes differ")
    except (OSError, ValueError, KeyError, IndexError, json.JSONDecodeError) as error:
        raise LimbeckError(f"the files of lang2vec in {folder} cannot be read ({error}): {_INSTALL}") from error
    # Rakhine has no two-letter code; corpora call it rk.
    return {**codes, "rk": "rki"}, {str(name): row for row, name in enumerate(languages)}, data
