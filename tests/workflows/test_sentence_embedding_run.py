"""The recipes of sentence embeddings run their first steps with an encoder of random weights."""

from __future__ import annotations

import pytest
import torch

from limbeck.workflows import distill

WORDS = ["the", "card", "is", "lost", "rate", "today", "top", "up", "failed", "dog", "hund", "chien"]
OPTIONS = [
    "num_threads=1", "stages.0.epochs=null", "stages.0.steps=3", "training.batch_size=4",
    "training.optimizer.lr=0.001", "student.width=4", "student.embedding_dim=8",
]  # fmt: skip


@pytest.fixture
def encoder(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = tmp_path / "encoder"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = transformers.BertConfig(
        vocab_size=len(tokens), hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=70,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(tokens))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


def settings(encoder, root, cache):
    paths = [f"{key}={encoder}" for key in (
        "data.tokenizer", "teachers.teacher.path", "teachers.teacher.weights", "student.path",
    )]  # fmt: skip
    return [f"data.root={root}", f"cache.root={cache}", *paths, *OPTIONS]


def test_the_recipe_of_sentence_embeddings_runs_its_first_steps(encoder, tmp_path):
    rows = [("the card is lost", "lost"), ("rate today", "rate"), ("top up failed", "top")]
    for name in ("train", "test"):
        lines = "".join(f"{text} {WORDS[i % 4]},{label}\n" for i in range(8) for text, label in rows)
        (tmp_path / f"{name}.csv").write_text("text,label\n" + lines)
    (tmp_path / "more.txt").write_text("a dog\nthe dog is lost\n")
    options = [*settings(encoder, tmp_path, tmp_path / "cache"), "data.num_labeled=9",
               f"data.unlabeled=[{tmp_path / 'more.txt'}]"]  # fmt: skip
    record = distill("sentence_embeddings", options, run_dir=tmp_path / "run", callbacks=[])
    assert {name: model["steps"] for name, model in record["models"].items()} == {
        "teacher": None, "baseline": 3, "distilled": 3,
    }  # fmt: skip
    assert set(record["models"]["teacher"]["test"]["metrics"]) == {"r1", "nearest", "map"}
    assert record["cache"]["teacher"]["misses"] > 0
    assert record["export"]["onnx"]["label_agreement"] == 1.0
    assert (tmp_path / "run" / "report.html").exists()


def test_the_multilingual_recipe_runs_its_first_steps(encoder, tmp_path):
    texts = {"en": "the dog is", "de": "hund the is", "fr": "chien the is"}
    for name, offset in (("train", 0), ("val", 4), ("test_2016_flickr", 8)):
        for code, text in texts.items():
            lines = [f"{text} {WORDS[(offset + i) % 12]} {WORDS[(offset + 2 * i) % 12]}" for i in range(4)]
            (tmp_path / f"{name}.{code}").write_text("\n".join(lines) + "\n")
    options = [*settings(encoder, tmp_path, tmp_path / "cache"), "data.num_samples=4"]
    record = distill("multilingual_embeddings", options, run_dir=tmp_path / "run", callbacks=[])
    distilled = record["models"]["distilled"]
    assert distilled["steps"] == 3
    assert [row["class"] for row in distilled["test"]["per_class"]] == ["en", "de", "fr"]
