"""Texts with one class each, from CSV, TSV or JSON lines."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, final

import torch
from torch import Tensor

from limbeck.core.errors import LimbeckError, format_root_cause
from limbeck.data.labels import to_class_indices
from limbeck.data.module import DataModule, make_splits
from limbeck.data.sequence_store import SequenceStore
from limbeck.data.sources.lookup import DataNotFoundError, candidate_folders
from limbeck.data.split import Split
from limbeck.data.text_lines import count_tokens, read_text_lines
from limbeck.utils.io import parse_json, require_regular_file
from limbeck.utils.model_folder import find_model_folder

_SUFFIXES: Final = (".csv", ".tsv", ".jsonl")
_LABEL_COLUMNS: Final = ("label", "category", "class", "target")
_WORD: Final = re.compile(r"\w+|[^\w\s]")
_PADDING, _UNKNOWN = "[PAD]", "[UNK]"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TextFiles:
    """A folder with ``train``, ``test`` and optionally ``validation`` as ``.csv``, ``.tsv`` or ``.jsonl``.

    A CSV file and JSON lines have the columns ``text`` and ``label`` (or ``category``, ``class``, ``target``); a TSV
    file without that header has the text and the label.

    Args:
        root: the folder, or one that contains it as ``name``; ``None``: ``name`` in the usual folders.
        name: name of the data set, such as ``banking77``; ``None``: that of the folder.
        train_file: name of the training file, without its suffix.
        val_file: name of the validation file; ``None``: ``val_split`` of the training texts.
        test_file: name of the test file.
        tokenizer: folder of a tokenizer of transformers, or the name of an installed package that has one; ``None``:
            words and punctuation marks in lower case that occur ``min_count`` times in the training texts.
        max_tokens: longer texts are cut.
        min_count: see ``tokenizer``.
        num_labeled: number of labeled training texts, evenly by class; ``None``: all.
        num_samples: number of training texts; ``None``: all.
        val_split: validation fraction of the training texts.
        group_column: column with the group of a text (an author, a conversation), which is in one split only; ``None``:
            no groups.
        unlabeled: files of further training texts without a label, not in ``num_samples``: a path, or one within the
            usual folders, such as ``sst2/train.tsv``. A file that is neither CSV, TSV nor JSON lines (``.txt.gz``) has
            a text in each line. Labels in it are not read.
    """

    provides: ClassVar[tuple[str, ...]] = ("classes", "class_names", "vocab_size", "vocabulary", "token_counts")

    root: str | None = None
    name: str | None = None
    train_file: str = "train"
    val_file: str | None = None
    test_file: str = "test"
    tokenizer: str | None = None
    max_tokens: int = 64
    min_count: int = 2
    num_labeled: int | None = None
    num_samples: int | None = None
    val_split: float = 0.15
    group_column: str | None = None
    unlabeled: tuple[str, ...] = ()

    def load(self, *, seed: int = 0) -> DataModule:
        """The data, with the classes in alphabetical order."""
        if self.max_tokens < 1 or self.min_count < 1:
            raise LimbeckError(f"max_tokens and min_count must be at least 1, got {self.max_tokens}, {self.min_count}")
        root = self._find_root()
        names = {"training": self.train_file, "validation": self.val_file, "test": self.test_file}
        rows = {kind: _read_rows(root, name, self.group_column) for kind, name in names.items() if name is not None}
        training_labels, class_names = to_class_indices([label for _, label, _ in rows["training"]])
        assert class_names is not None
        unlabeled = [text for name in self.unlabeled for text in _read_unlabeled(self._find_unlabeled(name))]
        training_texts = [*(text for text, _, _ in rows["training"]), *unlabeled]
        encode, vocabulary = make_tokenizer(self.tokenizer, training_texts, min_count=self.min_count)
        splits, first_id = dict[str, Split](), 0
        for kind, samples in rows.items():
            ids = [encode(text)[: self.max_tokens] for text, _, _ in samples]
            labels = training_labels
            if kind != "training":
                labels, _ = to_class_indices([label for _, label, _ in samples], class_names)
            groups = None if self.group_column is None else [group for _, _, group in samples]
            splits[kind] = Split.from_sequences(_make_store(ids), labels, first_id=first_id, groups=groups)
            first_id += len(ids)
        further_ids = [encode(text)[: self.max_tokens] for text in unlabeled]
        training = splits["training"].sequences
        assert training is not None
        tokens = [*training.fields["input_ids"], *further_ids]
        facts = {
            "vocab_size": len(vocabulary), "vocabulary": vocabulary,
            "token_counts": count_tokens(tokens, len(vocabulary)),
        }  # fmt: skip
        return make_splits(
            self.name or root.resolve().name, class_names, splits["training"], seed=seed,
            validation=splits.get("validation", self.val_split), test=splits["test"], num_labeled=self.num_labeled,
            num_samples=self.num_samples, facts=facts,
            unlabeled=_make_store(further_ids) if further_ids else None,
        )  # fmt: skip

    def _find_root(self) -> Path:
        """The folder with the training file."""
        if self.root is None and self.name is None:
            raise LimbeckError(
                "data.root must be a folder of texts, or data.name that of one in $LIMBECK_DATA; set one"
            )
        folders = candidate_folders(self.root, *([self.name] if self.name else []))
        for folder in folders:
            if _find_file(folder, self.train_file) is not None:
                return folder
        where = ", ".join(str(folder.resolve()) for folder in folders) or "$LIMBECK_DATA"
        raise DataNotFoundError(f"{_describe_file(self.train_file)} must be in {where}, got none: set data.root")

    def _find_unlabeled(self, name: str) -> Path:
        """The file ``name`` of :attr:`unlabeled`."""
        roots = [] if self.root is None else [Path(self.root), Path(self.root).parent]
        folders = [Path(), *roots, *candidate_folders(None)]
        for folder in folders:
            if (path := folder / name).is_file():
                return path
        where = ", ".join(str(folder.resolve()) for folder in folders)
        raise DataNotFoundError(f"data.unlabeled: there is no file {name} in {where}: correct its path")


def _make_store(ids: Sequence[Tensor]) -> SequenceStore:
    return SequenceStore({"input_ids": ids}, masks={"input_ids": "attention_mask"})


def make_tokenizer(
    tokenizer: str | None, texts: Sequence[str], *, min_count: int
) -> tuple[Callable[[str], Tensor], list[str]]:
    """A function from a text to its token ids ``[tokens]``, at least one, and the tokens by id.

    Args:
        tokenizer: see :class:`TextFiles`.
        texts: training texts, of whose words a vocabulary is made without a tokenizer.
        min_count: see :class:`TextFiles`.

    Raises:
        LimbeckError: the tokenizer needs transformers, or is not found or damaged.
    """
    if tokenizer is None:
        counts = Counter(word for text in texts for word in _split_words(text))
        words = [_PADDING, _UNKNOWN, *sorted(word for word, n in counts.items() if n >= min_count)]
        index = {word: i for i, word in enumerate(words)}
        return lambda text: torch.tensor([index.get(word, 1) for word in _split_words(text)] or [1]), words
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise LimbeckError(
            f"tokenizer: {tokenizer} needs transformers, which is not installed: pip install 'limbeck[text]'"
        ) from error
    folder = find_model_folder(tokenizer)
    try:
        loaded: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises errors of any type
        raise LimbeckError(f"tokenizer: {folder} could not be loaded: {format_root_cause(error)}") from error
    ids = range(len(loaded))
    return lambda text: torch.tensor(loaded(text)["input_ids"] or [0]), loaded.convert_ids_to_tokens(ids)


def _split_words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _find_file(root: Path, name: str) -> Path | None:
    return next((path for suffix in _SUFFIXES if (path := root / f"{name}{suffix}").is_file()), None)


def _describe_file(name: str) -> str:
    return " or ".join(f"{name}{suffix}" for suffix in _SUFFIXES)


def _read_rows(root: Path, name: str, group_column: str | None) -> list[tuple[str, str, str]]:
    """Text, label and group of each row of the file ``name``."""
    path = _find_file(root, name)
    if path is None:
        raise LimbeckError(f"{root.resolve()} must have {_describe_file(name)}, got none")
    table = _read_file(path)
    label = next((column for column in _LABEL_COLUMNS if column in table[0]), None)
    if label is None or "text" not in table[0]:
        raise LimbeckError(f"{path} must have the columns text and label, got {', '.join(map(str, table[0]))}")
    columns = ["text", label] if group_column is None else ["text", label, group_column]
    incomplete = next((i for i, row in enumerate(table, 1) if any(row.get(name) is None for name in columns)), None)
    if incomplete is not None:
        raise LimbeckError(f"row {incomplete} of {path} must have {', '.join(columns)}: complete or remove it")
    return [(str(row["text"]), str(row[label]), str(row.get(group_column or label))) for row in table]


def _read_unlabeled(path: Path) -> list[str]:
    """The texts of a file, without empty ones."""
    if path.suffix not in _SUFFIXES:
        texts = read_text_lines(path)
    else:
        table = _read_file(path)
        if "text" not in table[0]:
            raise LimbeckError(f"{path} must have the column text, got {', '.join(map(str, table[0]))}")
        texts = [str(row.get("text") or "").strip() for row in table]
    if not any(texts):
        raise LimbeckError(f"{path} must have at least one text, got none")
    return [text for text in texts if text]


def _read_file(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV or TSV file, or of JSON lines, at least one."""
    try:
        with require_regular_file(path).open(encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                table = [parse_json(line) for line in file if line.strip()]
            else:
                table = _read_table(file, delimiter="," if path.suffix == ".csv" else "\t")
    except (OSError, ValueError, csv.Error) as error:
        raise LimbeckError(f"{path} cannot be read ({error}): give {path.suffix} in UTF-8") from error
    if not all(isinstance(row, dict) for row in table):
        raise LimbeckError(f"each line of {path} must be a JSON object with text and label")
    if not table:
        raise LimbeckError(f"{path} must have at least one text, got none")
    return table


def _read_table(file: Any, *, delimiter: str) -> list[dict[str, Any]]:
    is_csv = delimiter == ","
    reader = csv.reader(file) if is_csv else csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    rows = [row for row in reader if row]
    has_header = bool(rows) and "text" in rows[0]
    header = rows[0] if has_header else ["text", "label"]
    return [{name: row[i] if i < len(row) else None for i, name in enumerate(header)} for row in rows[has_header:]]
