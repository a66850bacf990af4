"""Translations come with the sentence of the source language; sentences of training are in no other split."""

from __future__ import annotations

import gzip

import pytest
import torch

from limbeck import LimbeckError
from limbeck.data.sources import MultilingualSentences, TextFiles

LANGUAGES = {"en": "a dog number", "de": "ein hund nummer", "fr": "un chien numero"}


def write_files(root, *, train=6, held_out=3):
    for code, text in LANGUAGES.items():
        lines = "".join(f"{text} {i}\n" for i in range(train))
        with gzip.open(root / f"train.{code}.gz", "wt") as file:
            file.write(lines)
        for name, first in (("val", 10), ("test", 5)):  # the first test sentence is the last of training
            (root / f"{name}.{code}").write_text("".join(f"{text} {first + i}\n" for i in range(held_out)))


def words(data, ids, mask):
    vocabulary = data.facts["vocabulary"]
    return [" ".join(vocabulary[i] for i in row[keep.bool()].tolist()) for row, keep in zip(ids, mask, strict=True)]


def test_training_samples_are_translations_with_their_source(tmp_path):
    write_files(tmp_path)
    with pytest.warns(UserWarning, match="1 of the 3 test lines have a sentence that is also in the training files"):
        data = MultilingualSentences(root=str(tmp_path), languages=("de", "fr"), min_count=1).load(seed=0)
    assert data.class_names == ("en", "de", "fr")
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 9, 6)
    batch = data.train.read_fields(torch.arange(12))
    texts = words(data, batch["input_ids"], batch["attention_mask"])
    sources = words(data, batch["source_input_ids"], batch["source_attention_mask"])
    for text, source, language, meaning in zip(
        texts, sources, batch["target"].tolist(), batch["meaning"][:, 0].tolist(), strict=True
    ):
        assert text == f"{LANGUAGES[data.class_names[language]]} {meaning}"
        assert source == f"a dog number {meaning}"
    validation = next(data.validation_batches())
    assert "source_input_ids" not in validation
    assert sorted(validation["target"].tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    tokens = torch.cat([torch.tensor(data.facts["token_counts"])])
    assert int(tokens.sum()) == 6 * 3 * 4
    with pytest.warns(UserWarning, match="1 of the 3 test lines"):
        fewer = MultilingualSentences(root=str(tmp_path), languages=("de", "fr"), num_samples=2).load(seed=0)
    assert len(fewer.train) == 4
    assert len(set(fewer.train.read_fields(torch.arange(4))["meaning"].flatten().tolist())) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"languages": ("en",)}, "different codes without source_language"),
     ({"languages": ()}, "one or more different codes"), ({"num_samples": 7}, "num_samples must be from 1 to 6"),
     ({"languages": ("cs",)}, "train.cs must be a text file"), ({"root": None}, "data.root must be a folder of texts")],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(tmp_path, settings, message):
    write_files(tmp_path)
    with pytest.raises(LimbeckError, match=message):
        MultilingualSentences(**{"root": str(tmp_path), "languages": ("de",), **settings}).load(seed=0)


def test_files_of_other_lengths_and_damaged_ones_are_refused(tmp_path):
    write_files(tmp_path)
    (tmp_path / "val.de").write_text("one line\n")
    with pytest.raises(LimbeckError, match="must have equally many lines"):
        MultilingualSentences(root=str(tmp_path), languages=("de",)).load(seed=0)
    whole = (tmp_path / "train.de.gz").read_bytes()
    damaged = whole[:12] + bytes(255 - byte for byte in whole[12:20]) + whole[20:]
    for content in (b"not compressed", whole[:-9], damaged):
        (tmp_path / "train.de.gz").write_bytes(content)
        with pytest.raises(LimbeckError, match="cannot be read"):
            MultilingualSentences(root=str(tmp_path), languages=("de",)).load(seed=0)


def test_unlabeled_texts_are_further_training_texts(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        (tmp_path / "data" / f"{name}.csv").write_text("text,label\n" + "a b,x\nc d,y\n" * 10)
    with gzip.open(tmp_path / "more.en.gz", "wt") as file:
        file.write("e f g\n\nh\n")
    (tmp_path / "other.tsv").write_text("i j\t1\n")
    settings = {"root": str(tmp_path / "data"), "min_count": 1}
    data = TextFiles(**settings, unlabeled=("more.en.gz", "other.tsv"), num_labeled=4).load(seed=0)
    without = TextFiles(**settings, num_labeled=4).load(seed=0)
    assert len(data.train) == len(without.train) + 3
    assert data.num_labeled == 4
    batch = data.train.read_fields(torch.arange(len(data.train) - 3, len(data.train)))
    assert batch["target"].tolist() == [-100] * 3
    assert words(data, batch["input_ids"], batch["attention_mask"]) == ["e f g", "h", "i j"]
    assert len(set(data.train.sample_ids.tolist()) & set(data.validation.sample_ids.tolist())) == 0
    assert len(data.facts["token_counts"]) == data.facts["vocab_size"]
    with pytest.raises(LimbeckError, match=r"data.unlabeled: there is no file none.txt in"):
        TextFiles(**settings, unlabeled=("none.txt",)).load(seed=0)
