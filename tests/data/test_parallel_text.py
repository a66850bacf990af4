"""Parallel texts: what is filtered, hidden and cut, the subwords, and the similarity of languages."""

from __future__ import annotations

import gzip
import re
import sys
import types
import warnings

import numpy as np
import pytest
import torch

from limbeck import LimbeckError
from limbeck.data import language_similarity
from limbeck.data.language_similarity import overlap, script_counts, similarity_matrix, uriel_similarity
from limbeck.data.sources import ParallelText
from limbeck.data.subwords import SPECIAL_PIECES, join_pieces, make_subwords, normalize_text

TEXTS = [
    "A dog, two dogs.",
    "Zwei Hunde laufen über den Hof!",
    "ငါ က မိန်းခလေး တစ် ယောက် ပါ တယ် ။",
    "It's 3 o'clock",
] * 20


def write(root, name, lines, *, packed=False):
    text = "\n".join(lines) + "\n"
    if packed:
        (root / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (root / name).write_text(text, encoding="utf-8")


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "train.de", [f"eins {i} zwei" for i in range(20)] + ["  ", "lang " * 40])
    write(tmp_path, "train.en", [f"one {i}  two" for i in range(20)] + ["empty", "long"])
    write(tmp_path, "train.fr", [f"un {i} deux" for i in range(10)], packed=True)
    write(tmp_path, "val.de", ["eins 3 zwei", "neu a", "neu b", "neu c"])
    write(tmp_path, "val.en", ["new", "one 4 two", "new b", "new c"])
    write(tmp_path, "val.fr", ["neuf a", "neuf b"])
    write(tmp_path, "test.de", ["anders " * 30, "anders b"])
    write(tmp_path, "test.en", ["other " * 30, "other b"])
    return tmp_path


def load(root, seed=0, **options):
    settings = {"pairs": ("de-en",), "root": str(root), "vocabulary": "words", "vocab_size": 80, "max_tokens": 16}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = ParallelText(**{**settings, **options}).load(seed=seed)
    return data, [str(warning.message) for warning in caught]


def text_of(data, ids):
    return join_pieces(ids.tolist(), data.facts["vocabulary"])


def test_sentences_of_training_are_removed_from_validation_and_counted(root):
    data, messages = load(root)
    assert messages == [
        "2 of the 4 validation pairs of de-en have a sentence that is also in the training files, and are left out",
        "1 of the 21 training pairs are longer than max_tokens, 16, and are left out",
    ]  # fmt: skip
    assert [len(data.train), len(data.validation), len(data.test)] == [20, 2, 2]
    assert data.class_names == ("de-en",)
    batch = next(data.validation_batches(batch_size=2))
    references = [
        row[:n].numpy().tobytes().decode() for row, n in zip(batch["reference"], batch["reference_length"], strict=True)
    ]
    assert references == ["new b", "new c"]
    end, start = data.facts["eos_token_id"], data.facts["decoder_start_token_id"]
    train = data.train.read_fields(torch.arange(1))
    assert text_of(data, train["input_ids"][0]) == "eins 0 zwei"
    assert text_of(data, train["target"][0]) == "one 0 two"
    assert train["target"][0, -1] == train["input_ids"][0, -1] == end != start
    # A long source of the test split is cut, its reference is not.
    test = data.test.unlock("test").read_fields(torch.arange(2))
    assert test["attention_mask"].sum(dim=1).tolist() == [16, 3]
    assert test["reference_length"].tolist() == [len(("other " * 30).strip()), len("other b")]


def test_some_pairs_keep_their_translation(root):
    options = {"num_samples": {"de-en": 15}, "num_labeled": {"de-en": 4}, "max_tokens": 64}
    data, _ = load(root, **options)
    assert (len(data.train), data.num_labeled) == (15, 4)
    fields = data.train.read_fields(torch.arange(len(data.train)))
    hidden = fields["target_length"] < 0
    assert int(hidden.sum()) == len(data.train) - 4
    assert bool((fields["target"][hidden] == -100).all())  # the translation itself is gone
    again, _ = load(root, **options)
    other, _ = load(root, seed=1, **options)
    assert data.fingerprint() == again.fingerprint() != other.fingerprint()
    dropped, _ = load(root, keep_unlabeled=False, **options)
    assert len(dropped.train) == dropped.num_labeled == 4


def test_several_pairs_and_targets(root):
    write(root, "train.de", [f"eins {i} zwei" for i in range(10)])
    write(root, "train.en", [f"one {i} two" for i in range(10)])
    data, _ = load(root, pairs=("de-en", "fr-de"), eval_pairs=("de-en",))
    fields = data.train.read_fields(torch.arange(len(data.train)))
    assert fields["pair"][:, 0].tolist() == [0] * 10 + [1] * 10
    first = fields["input_ids"][:, 0]
    assert len(set(first[:10].tolist())) == len(set(first[10:].tolist())) == 1  # <2en> and <2de>
    assert first[0] != first[10]
    assert data.facts["vocabulary"][int(first[0])] == ""
    assert data.facts["language_similarity"]["languages"] == ["de", "en", "fr"]
    counts = np.array(data.facts["subword_counts"])
    assert counts.shape == (data.facts["vocab_size"], 3)
    german = fields["input_ids"][:10][fields["attention_mask"][:10] == 1].tolist() + [
        token for row in fields["target"][10:].tolist() for token in row if token != -100
    ]
    assert counts[:, 0].tolist() == np.bincount(german, minlength=len(counts)).tolist()


@pytest.mark.parametrize("method", ["words", "bpe", "unigram"])
def test_subwords_are_joined_to_the_text_again(method):
    for package in {"bpe": ["tokenizers"], "unigram": ["sentencepiece"], "words": []}[method]:
        pytest.importorskip(package, reason=f"needs {package}")
    texts = [normalize_text(text) for text in TEXTS]
    subwords = make_subwords(method, texts, 130, ["<2en>"])
    ids = subwords.encode(texts)
    assert [join_pieces(row, subwords.pieces) for row in ids] == texts
    assert subwords.special == {**{name: i for i, name in enumerate(SPECIAL_PIECES)}, "<2en>": 3}
    assert len(subwords.pieces) <= 130
    assert make_subwords(method, texts, 130, ["<2en>"]).pieces == subwords.pieces
    unknown = subwords.encode(["Ω dog"])[0]
    assert "⁇" in join_pieces(unknown, subwords.pieces)


def test_vocabularies_are_read_from_files(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="needs tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"</s>": 0, "<s>": 1, "<unk>": 2, "▁a": 3}, "<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.save(str(tmp_path / "words.json"))
    subwords = make_subwords(str(tmp_path / "words.json"), [], 0)
    assert subwords.encode(["a b"]) == [[3, 2]]
    assert join_pieces([3, 2, 0], subwords.pieces) == "a ⁇"
    with pytest.raises(LimbeckError, match="must have the tokens <2en>, got none of that name"):
        make_subwords(str(tmp_path / "words.json"), [], 0, ["<2en>"])
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(LimbeckError, match=r"vocabulary .*broken\.json could not be read"):
        make_subwords(str(tmp_path / "broken.json"), [], 0)


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(LimbeckError, match=r"bpe needs tokenizers, which is not installed: pip install 'limbeck"):
        make_subwords("bpe", TEXTS, 100)


def test_similarity_by_script_and_subwords():
    assert script_counts(["Ab ж", "ф က"]) == {"LATIN": 2, "CYRILLIC": 2, "MYANMAR": 1}
    first, second = {"a": 3, "b": 1}, {"b": 2, "c": 2}
    p, q = np.array([0.75, 0.25, 0]), np.array([0, 0.5, 0.5])
    assert overlap(first, second) == pytest.approx(np.minimum(p, q).sum())
    assert similarity_matrix([first, second]) == [[1.0, 0.25], [0.25, 1.0]]
    assert overlap({}, first) == 0.0


def test_uriel_vectors_are_read_without_importing_lang2vec(tmp_path, monkeypatch):
    language_similarity._read_uriel.cache_clear()
    package = tmp_path / "lang2vec"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('needs pkg_resources')")
    (package / "data" / "letter_codes.json").write_text('{"my": "mya", "en": "eng"}')
    vectors = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]], np.float32)[:, :, None]
    np.savez(package / "data" / "feature_predictions.npz", langs=np.array(["mya", "eng", "rki"]), data=vectors)
    monkeypatch.syspath_prepend(tmp_path)
    matrix = uriel_similarity(["my", "en", "rk"])
    np.testing.assert_allclose(
        matrix, [[1, 0.5, 2 / 6**0.5], [0.5, 1, 2 / 6**0.5], [2 / 6**0.5, 2 / 6**0.5, 1]], atol=1e-6
    )
    with pytest.raises(LimbeckError, match="languages must be ISO 639 codes that URIEL has, got 'xx'"):
        uriel_similarity(["my", "xx"])
    language_similarity._read_uriel.cache_clear()
    (package / "data" / "feature_predictions.npz").write_bytes(b"no")
    with pytest.raises(LimbeckError, match="cannot be read"):
        uriel_similarity(["my"])
    language_similarity._read_uriel.cache_clear()


def test_without_lang2vec_there_is_no_typology(monkeypatch):
    monkeypatch.setattr(language_similarity, "find_spec", lambda _: None)
    assert uriel_similarity(["my"]) is None
    assert isinstance(sys.modules["limbeck"], types.ModuleType)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pairs": ("de",)}, "pairs must be written as SOURCE-TARGET, such as cs-en, got 'de'"),
     ({"pairs": ()}, "pairs must be one or more different language pairs"),
     ({"eval_pairs": ("fr-en",)}, "eval_pairs must name some of pairs, de-en, got 'fr-en'"),
     ({"num_labeled": {"de-en": 99}}, "num_labeled of de-en must be from 1 to 21, its training pairs, got 99"),
     ({"pairs": ("fr-en",)}, "must have equally many lines, got 10 and 22"),
     ({"pairs": ("de-cs",)}, r"train\.cs must be a text file"),
     ({"vocab_size": 3}, "vocab_size must be above 3"), ({"max_tokens": 2}, "max_tokens must be above the length"),
     ({"vocabulary": "nothing"}, "vocabulary must be bpe, unigram, words, a file|path must be a folder"),
     ({"language_tokens": {"de": "<de>"}}, "language_tokens must name a special token of the vocabulary for 'de'")],
)  # fmt: skip
def test_wrong_settings_are_refused(root, options, message):
    with pytest.raises(LimbeckError, match=message):
        load(root, **options)


def test_a_damaged_file_is_named(root):
    file = next(root.glob("*.gz"))
    whole = file.read_bytes()
    for content in (whole[:-9], whole[:12] + bytes(255 - byte for byte in whole[12:20]) + whole[20:]):
        file.write_bytes(content)
        with pytest.raises(LimbeckError, match=rf"{re.escape(file.name)} cannot be read"):
            load(root, pairs=("fr-en",))


def test_no_folder_and_no_files_are_named(tmp_path):
    with pytest.raises(LimbeckError, match=r"train\.de must be in .*, got none"):
        load(tmp_path)
    with pytest.raises(LimbeckError, match=r"data\.root must be a folder of texts"):
        ParallelText(pairs=("de-en",)).load()
