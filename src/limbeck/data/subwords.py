"""Vocabularies of subwords: learned from the training texts, or read from a file.

Byte pair encoding (Sennrich et al., 2016, https://arxiv.org/abs/1508.07909) by tokenizers, a unigram language model
(Kudo, 2018, https://arxiv.org/abs/1804.10959) by sentencepiece, or whole words. A piece that begins with ``▁`` (U+2581)
begins after a space, as in sentencepiece, so pieces are joined to text without rules.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.utils.io import require_regular_file
from limbeck.utils.model_folder import find_model_folder

__all__ = ["END", "SPECIAL_PIECES", "START", "SUBWORD_METHODS", "UNKNOWN", "Subwords", "join_pieces", "make_subwords",
           "normalize_text"]  # fmt: skip

SPACE: Final = "▁"
SPECIAL_PIECES: Final = ("</s>", "<s>", "<unk>")
"""Of a learned vocabulary: the end of a sentence, the start, and what is not in it."""
END, START, UNKNOWN = 0, 1, 2
SUBWORD_METHODS: Final = ("bpe", "unigram", "words")
_WORD: Final = re.compile(rf"{SPACE}?\w+|{SPACE}?[^\w{SPACE}]|{SPACE}")
_MAX_PIECE: Final = 24
_INSTALL: Final = "pip install 'limbeck[translation]'"


@final
@dataclass(frozen=True, slots=True)
class Subwords:
    """A vocabulary.

    Attributes:
        pieces: the text of each token; empty for tokens that are no text.
        encode: from texts to the token ids of each, without start and end.
        start_id: the token before the first of a target.
        end_id: the token that ends a sentence.
        special: by name, the ids of tokens that are no text, such as ``<2de>``.
    """

    pieces: tuple[str, ...]
    encode: Callable[[Sequence[str]], list[list[int]]]
    start_id: int
    end_id: int
    special: dict[str, int]


def normalize_text(text: str) -> str:
    """Unicode NFC with single spaces.

    >>> normalize_text("  a  dog. ")
    'a dog.'
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def join_pieces(ids: Iterable[int], pieces: Sequence[str]) -> str:
    """The text of tokens; ids beyond ``pieces`` have none.

    >>> join_pieces([3, 4, 5, 0], ["", "", "▁⁇", "▁a", "▁do", "g."])
    'a dog.'
    """
    text = "".join(pieces[i] for i in ids if 0 <= i < len(pieces))
    return text.replace(SPACE, " ").strip()


def make_subwords(method: str, texts: Sequence[str], size: int, tags: Sequence[str] = ()) -> Subwords:
    """A vocabulary learned from ``texts``, or read.

    Args:
        method: ``bpe``, ``unigram`` or ``words``; the path of a ``.json`` file of tokenizers or a ``.model`` file of
            sentencepiece; or a folder (or an installed package) with a tokenizer of transformers.
        texts: normalized training texts of all languages.
        size: of a learned vocabulary, at most.
        tags: further tokens that are no text.

    Raises:
        LimbeckError: a package is missing, a file cannot be read or lacks a token, or ``size`` is too small.
    """
    special = (*SPECIAL_PIECES, *tags)
    if method in SUBWORD_METHODS and size <= len(special):
        raise LimbeckError(f"vocab_size must be above {len(special)}, the number of special tokens, got {size}")
    if method == "bpe":
        return _from_tokenizers(_train_bpe(texts, size, special), special)
    if method == "unigram":
        return _from_sentencepiece(_train_unigram(texts, size, special), special)
    if method == "words":
        return _make_words(texts, size, special)
    return _read_subwords(method, special)


def _make_words(texts: Sequence[str], size: int, special: Sequence[str]) -> Subwords:
    counts = Counter(word for text in texts for word in _split_words(text))
    words = sorted(counts, key=lambda word: (-counts[word], word))[: size - len(special)]
    index = {word: i for i, word in enumerate(words, start=len(special))}

    def encode(batch: Sequence[str]) -> list[list[int]]:
        return [[index.get(word, UNKNOWN) for word in _split_words(text)] for text in batch]

    return _make(words, encode, special)


def _split_words(text: str) -> list[str]:
    """Words and punctuation marks, each with the space before it.

    >>> _split_words("a dog, b")
    ['▁a', '▁dog', ',', '▁b']
    """
    return _WORD.findall(SPACE + text.replace(" ", SPACE)) if text else []


def _make(
    pieces: Sequence[str], encode: Callable[[Sequence[str]], list[list[int]]], special: Sequence[str]
) -> Subwords:
    """A learned vocabulary: the special tokens, then ``pieces``."""
    texts = tuple("▁⁇" if i == UNKNOWN else "" for i in range(len(special)))
    return Subwords((*texts, *pieces), encode, START, END, {name: i for i, name in enumerate(special)})


def _import(package: str, method: str) -> Any:
    try:
        return __import__(package)
    except ImportError as error:
        raise LimbeckError(
            f"vocabulary: {method} needs {package}, which is not installed: {_INSTALL}, or set vocabulary: words"
        ) from error


def _train_bpe(texts: Sequence[str], size: int, special: Sequence[str]) -> Any:
    tokenizers = _import("tokenizers", "bpe")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=SPECIAL_PIECES[UNKNOWN]))
    splits = [
        tokenizers.pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
        tokenizers.pre_tokenizers.Punctuation("isolated"),
    ]
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(splits)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), show_progress=False, max_token_length=_MAX_PIECE
    )
    tokenizer.train_from_iterator(iter(texts), trainer, length=len(texts))
    return tokenizer


def _from_tokenizers(tokenizer: Any, special: Sequence[str]) -> Subwords:
    ids = {name: tokenizer.token_to_id(name) for name in special}
    if missing := [name for name, index in ids.items() if index is None]:
        raise LimbeckError(f"the vocabulary must have the tokens {', '.join(missing)}, got none of that name: add them")
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    pieces = [""] * (1 + max(vocabulary.values()))
    for piece, index in vocabulary.items():
        pieces[index] = piece

    def encode(batch: Sequence[str]) -> list[list[int]]:
        return [item.ids for item in tokenizer.encode_batch(list(batch), add_special_tokens=False)]

    return _with_special(pieces, encode, ids)


def _with_special(
    pieces: list[str], encode: Callable[[Sequence[str]], list[list[int]]], ids: dict[str, int]
) -> Subwords:
    for name, index in ids.items():
        pieces[index] = "▁⁇" if name == SPECIAL_PIECES[UNKNOWN] else ""
    return Subwords(tuple(pieces), encode, ids[SPECIAL_PIECES[START]], ids[SPECIAL_PIECES[END]], ids)


def _train_unigram(texts: Sequence[str], size: int, special: Sequence[str]) -> Any:
    sentencepiece = _import("sentencepiece", "unigram")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, vocab_size=size, model_type="unigram", pad_id=-1,
            eos_id=END, bos_id=START, unk_id=UNKNOWN, eos_piece=SPECIAL_PIECES[END], bos_piece=SPECIAL_PIECES[START],
            unk_piece=SPECIAL_PIECES[UNKNOWN], control_symbols=list(special[len(SPECIAL_PIECES) :]),
            character_coverage=1.0, hard_vocab_limit=False, normalization_rule_name="identity", num_threads=1,
            minloglevel=2,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise LimbeckError(
            f"sentencepiece could not learn {size:,} pieces from {len(texts):,} texts ({format_root_cause(error)}): "
            "change vocab_size"
        ) from error
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def _from_sentencepiece(processor: Any, special: Sequence[str]) -> Subwords:
    ids = {name: processor.piece_to_id(name) for name in special}
    missing = [name for name, index in ids.items() if processor.id_to_piece(index) != name]
    if missing:
        raise LimbeckError(f"the vocabulary must have the tokens {', '.join(missing)}, got none of that name: add them")
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]

    def encode(batch: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = processor.encode(list(batch))
        return ids

    return _with_special(pieces, encode, ids)


def _read_subwords(path: str, special: Sequence[str]) -> Subwords:
    file = Path(path)
    if not file.is_file():
        return _read_transformers(path)
    if file.suffix not in (".json", ".model"):
        raise LimbeckError(
            f"vocabulary must be {', '.join(SUBWORD_METHODS)}, a .json file of tokenizers, a .model file of "
            f"sentencepiece, or a folder of transformers, got {path!r}"
        )
    try:
        require_regular_file(file)
        if file.suffix == ".json":
            return _from_tokenizers(_import("tokenizers", path).Tokenizer.from_file(str(file)), special)
        processor = _import("sentencepiece", path).SentencePieceProcessor(model_file=str(file))
        return _from_sentencepiece(processor, special)
    except LimbeckError:
        raise
    except Exception as error:  # both packages raise errors of any type
        raise LimbeckError(f"vocabulary {file} could not be read: {format_root_cause(error)}") from error


def _read_transformers(path: str) -> Subwords:
    """The tokenizer of a model, whose configuration has the token that begins a target."""
    try:
        from transformers import AutoConfig, AutoTokenizer
    except ImportError as error:
        raise LimbeckError(
            f"vocabulary must be {', '.join(SUBWORD_METHODS)}, a file, or a folder of transformers, which is not "
            f"installed, got {path!r}: {_INSTALL}"
        ) from error
    folder = find_model_folder(path)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises errors of any type
        raise LimbeckError(f"vocabulary {folder} could not be loaded: {format_root_cause(error)}") from error
    pieces = list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    if not any(piece.startswith(SPACE) for piece in pieces) or tokenizer.eos_token_id is None:
        raise LimbeckError(
            f"the tokenizer of {folder} must mark spaces by {SPACE} and have an end token: use one of sentencepiece, "
            "as NLLB, mBART, M2M100, Marian and T5 have"
        )
    for index in special.values():
        pieces[index] = ""
    start_id = getattr(config, "decoder_start_token_id", None)

    def encode(batch: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(batch), add_special_tokens=False)["input_ids"]
        return ids

    return Subwords(
        tuple(pieces), encode, tokenizer.eos_token_id if start_id is None else start_id, tokenizer.eos_token_id, special
    )
