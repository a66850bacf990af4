"""The recipe of translation on a small corpus: a teacher that translates, a cache, BLEU in the record."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limbeck.recipe import find_recipe, load_recipe
from limbeck.workflows import distill, study
from limbeck.workflows._job import provenance
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


def test_a_study_reads_records_without_the_vocabulary(tmp_path, monkeypatch):
    """Long lists are not in the record, and the task is built from it to compare variants."""
    pytest.importorskip("sacrebleu", reason="needs sacrebleu")
    monkeypatch.setattr(provenance, "_MAX_FACTS", 10)
    settings = [
        f"data.root={write_corpus(tmp_path)}", "data.vocabulary=words", "data.vocab_size=80", "task.max_tokens=6",
        "data.num_labeled={cs-en: 20}", "task.hypothesis_beams=1", "task.num_beams=1", "export.to=[]", "num_threads=1",
        "teachers.teacher={use: seq2seq_transformer, width: 8, depth: 1}", "study.variants={}", "cache=null",
        "student={use: seq2seq_transformer, width: 4, depth: 1}", "teacher_training.steps=2", "stages.0.steps=2",
        "training.batch_tokens=200",
    ]  # fmt: skip
    summary = study("multi30k", settings, seeds=2, output_dir=tmp_path / "study", callbacks=[])
    assert summary["results"]["variants"]["distilled"]["gain"]["num_seeds"] == 2


def test_the_recipe_of_nllb_runs_its_first_steps(tmp_path):
    pytest.importorskip("sacrebleu", reason="needs sacrebleu")
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'limbeck[text]'")
    torch.manual_seed(0)
    config = transformers.M2M100Config(
        vocab_size=100, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=64,
        decoder_start_token_id=2,
    )  # fmt: skip
    transformers.AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path / "nllb")
    settings = [
        f"data.root={write_corpus(tmp_path)}", f"teachers.teacher.path={tmp_path / 'nllb'}",
        f"teachers.teacher.weights={tmp_path / 'nllb'}", "task.max_tokens=8",
        "data.pairs=[cs-en, de-en, fr-en]", "data.eval_pairs=[cs-en]", "data.vocabulary=words", "data.vocab_size=80",
        "data.language_tokens={}", "data.max_tokens=16", "task.hypothesis_beams=2", "task.num_beams=1",
        "student={use: seq2seq_transformer, width: 4, depth: 1}", "stages.0.steps=3", "training.batch_tokens=200",
        "stages.0.objective.word.anchor=cs-en", "stages.0.objective.sequence.anchor=cs-en",
        "training.precision=32-true", "data.test_file=test_2016_flickr",
        "stages.0.objective.word.top_k=8", f"cache={{top_k: 8, root: {tmp_path / 'cache'}}}", "num_threads=1",
    ]  # fmt: skip
    record = distill("nllb_full", settings, run_dir=tmp_path / "run", callbacks=[])
    assert set(record["models"]["teacher"]["test"]["metrics"]) == {"bleu", "chrf", "nll"}
    assert record["export"]["onnx"]["max_abs_difference"] < 1e-4


def test_the_recipe_is_valid():
    check_variants(load_recipe(find_recipe("multi30k")))
