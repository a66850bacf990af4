"""The recipe of translation on a small corpus: a teacher that translates, a cache, BLEU in the record."""

from __future__ import annotations

import numpy as np
import pytest

from limbeck.recipe import find_recipe, load_recipe
from limbeck.workflows import distill
from limbeck.workflows.study.variants import check_variants

WORDS = (("a", "the"), ("big", "old", "red", "calm"), ("cat", "dog", "man", "horse"), ("sees", "finds"), ("me", "you"))


def write_corpus(root):
    """Sentences of five words; the other languages are English with other letters or another order."""
    for split, count, seed in (("train", 60, 0), ("val", 6, 1), ("test_2016_flickr", 6, 2)):
        generator = np.random.default_rng(seed)
        english = [" ".join(generator.choice(kind) for kind in WORDS) + f" {split} ." for _ in range(count)]
        reverse = [" ".join(word[::-1] for word in line.split()) for line in english]
        texts = {"en": english, "cs": reverse, "de": [line.upper() for line in english], "fr": english}
        for language, lines in texts.items():
            (root / f"{split}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def test_the_recipe_runs_its_first_steps(tmp_path):
    pytest.importorskip("sacrebleu", reason="needs sacrebleu")
    settings = [
        f"data.root={write_corpus(tmp_path)}", "data.vocabulary=words", "data.vocab_size=80", "study=null",
        "data.num_labeled={cs-en: 20}", "task.max_tokens=10", "task.hypothesis_beams=2",
        "teachers.teacher={use: seq2seq_transformer, width: 8, depth: 1}",
        "student={use: seq2seq_transformer, width: 4, depth: 1}", "teacher_training.steps=2", "stages.0.steps=4",
        "training.batch_tokens=200", f"cache={{top_k: 8, root: {tmp_path / 'cache'}}}", "export.to=[onnx]",
        "num_threads=1",
    ]  # fmt: skip
    record = distill("multi30k", settings, run_dir=tmp_path / "run", callbacks=[])
    model = record["models"]["distilled"]
    assert set(model["test"]["metrics"]) == {"bleu", "chrf", "nll"}
    assert model["test"]["num_samples"] == 6
    assert model["test"]["details"]["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a")
    assert [row["class"] for row in model["test"]["per_class"]][:1] == ["cs-en"]
    assert record["export"]["onnx"]["max_abs_difference"] < 1e-4
    cache = record["cache"]["teacher"]
    assert 0 < cache["misses"] <= cache["num_outputs"]  # once each, whatever the padding of their batch
    assert cache["hits"] >= cache["misses"]  # the second query of each step


def test_the_recipe_is_valid():
    check_variants(load_recipe(find_recipe("multi30k")))
