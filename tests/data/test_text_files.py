"""Texts from CSV, TSV and JSON lines become padded token ids with a mask."""

from __future__ import annotations

import json

import pytest
import torch

from limbeck import LimbeckError
from limbeck.data.sources import TextFiles
from limbeck.workflows import distill

CLASSES = {"card": "my card has not arrived", "rate": "what is the exchange rate today ?", "top": "top up failed"}


def write_texts(root, *, rows=12):
    samples = [(f"{text} {i % 4}", label) for i in range(rows) for label, text in CLASSES.items()]
    (root / "train.csv").write_text("text,category\n" + "".join(f'"{text}",{label}\n' for text, label in samples))
    (root / "test.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in samples[:9]))
    lines = [json.dumps({"text": text, "label": label}) for text, label in samples[9:18]]
    (root / "dev.jsonl").write_text("\n".join(lines))


def test_each_format_is_read_and_padded(tmp_path):
    write_texts(tmp_path)
    data = TextFiles(root=str(tmp_path), val_file="dev", num_labeled=6).load(seed=0)
    assert data.class_names == ("card", "rate", "top")
    assert (len(data.train), len(data.validation), len(data.test), data.num_labeled) == (36, 9, 9, 6)
    batch = next(data.validation_batches())
    assert batch.keys() == {"input_ids", "attention_mask", "target", "sample_id"}
    lengths = batch["attention_mask"].sum(dim=1)
    assert sorted(set(lengths.tolist())) == [4, 6, 8]
    assert (batch["input_ids"][0, lengths[0] :] == 0).all()
    vocabulary = data.facts["vocabulary"]
    words = [vocabulary[i] for i in batch["input_ids"][0, : lengths[0]].tolist()]
    assert " ".join(words) == f"my card has not arrived {words[-1]}"
    assert data.facts["vocab_size"] == len(vocabulary)


def test_rare_words_are_unknown_and_long_texts_cut(tmp_path):
    write_texts(tmp_path)
    (tmp_path / "test.tsv").write_text("my unheard card and so on\tcard\n")
    data = TextFiles(root=str(tmp_path), max_tokens=3).load(seed=0)
    ids = next(iter(data.test._split.read_fields(torch.tensor([0]))["input_ids"])).tolist()
    assert [data.facts["vocabulary"][i] for i in ids] == ["my", "[UNK]", "card"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [("test.tsv", None, "must have test.csv or test.tsv or test.jsonl, got none"),
     ("train.csv", "text,label\n", "at least one text"), ("train.csv", "text,intent\na,b\n", "columns text and label"),
     ("test.tsv", "a text\tother\n", "'other' is none of the classes card, rate, top"),
     ("dev.jsonl", "[1, 2]\n", "must be a JSON object"), ("dev.jsonl", "{\n", "cannot be read"),
     ("test.tsv", "no label\n", r"row 1 of .* must have text, label")],
)  # fmt: skip
def test_files_that_do_not_fit_are_one_sentence(tmp_path, file, content, message):
    write_texts(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(LimbeckError, match=message):
        TextFiles(root=str(tmp_path), val_file="dev").load(seed=0)


def test_texts_run_from_recipe_to_report(tmp_path):
    write_texts(tmp_path)
    settings = [
        f"data.root={tmp_path}", "data.tokenizer=null", "data.num_labeled=null", "teacher_training.freeze=[]",
        "teachers={teacher: {use: text_encoder, width: 8, depth: 1, num_heads: 2}}", "student.width=4",
        "teacher_training.epochs=1", "stages.0.epochs=1", "training.batch_size=8", f"cache.root={tmp_path / 'cache'}",
    ]  # fmt: skip
    record = distill("banking77", settings, run_dir=tmp_path / "run", callbacks=[])
    assert record["primary_metric"] == "macro_f1"
    assert "vocabulary" in record["data"]["facts"]
    assert record["models"]["distilled"]["test"]["num_samples"] == 9
    assert (tmp_path / "run" / "student.onnx").exists()
    assert record["cache"]["teacher"]["misses"] > 0


def test_a_named_data_set_is_found_in_the_usual_folders(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    write_texts(tmp_path / "mine")
    monkeypatch.setenv("LIMBECK_DATA", str(tmp_path))
    data = TextFiles(name="mine").load(seed=0)
    assert data.name == "mine"
    assert TextFiles(root=str(tmp_path), name="mine").load(seed=0).fingerprint() == data.fingerprint()
    with pytest.raises(LimbeckError, match=r"train.csv or train.tsv or train.jsonl must be in .*: set data.root"):
        TextFiles(name="absent", root=str(tmp_path)).load(seed=0)
    with pytest.raises(LimbeckError, match=r"data.root must be a folder of texts, or data.name"):
        TextFiles().load(seed=0)
