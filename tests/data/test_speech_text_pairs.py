"""Clips with texts of their key: the split is between texts, and the vocabularies are those of training texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.data.test_spoken_digits import write_wav

from limbeck import LimbeckError
from limbeck.data.sources import SpeechTextPairs
from limbeck.testing import check_data_source

WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett")


def write_pairs(folder, *, num_keys=20, seconds=0.4, more=()):
    """Texts of two words in English and French, of which some keys share one."""
    rng, rows = np.random.default_rng(0), ["key\tlanguage\tfile\ttext"]
    for language in ("en", "fr"):
        (folder / language).mkdir(parents=True)
        for number in range(num_keys):
            key = f"k{number:02}"
            write_wav(folder / language / f"{key}.wav", rng.normal(size=int(8000 * seconds) + 80 * number) * 0.1)
            first, second = WORDS[number % 10], WORDS[(number * 3 + number // 10) % 10]
            text = f"{first} {second}." if language == "en" else f"le {second} {first}"
            rows.append(f"{key}\t{language}\t{language}/{key}.wav\t{text}")
    (folder / "transcripts.tsv").write_text("\n".join([*rows, *more]) + "\n")
    return folder


def texts_of(split):
    fields = split.read_fields(torch.arange(len(split)))
    rows = zip(fields["text"].tolist(), fields["text_length"].tolist(), strict=True)
    return ["".join(map(chr, codes[:length])) for codes, length in rows], fields


def test_a_sample_is_a_clip_with_the_text_of_its_key(tmp_path):
    folder = write_pairs(tmp_path / "asterisk", more=["k99\ten\t\tonly a text", "k98\tfr\tfr/k00.wav\tsans anglais"])
    source = SpeechTextPairs(root=str(tmp_path), mels=8, min_frames_per_token=1)
    data = check_data_source(source, skip={"labels"})  # of 20 texts, validation has few
    assert data.class_names == ("en", "fr")
    assert len(data.train) + len(data.validation) + len(data.test) == 40
    texts, fields = texts_of(data.validation)
    assert all(text.endswith(".") for text in texts)  # English, also of French clips
    assert {0, 1} == set(data.validation.target.tolist())
    assert fields["input"].shape[2] == data.facts["mels"] == 8
    assert int(fields["tokens"].max()) < data.facts["num_tokens"]
    assert int(fields["input_ids"].max()) < data.facts["vocab_size"] == len(data.facts["vocabulary"])
    assert torch.equal(fields["attention_mask"].sum(dim=1), torch.tensor([len(text.split()) + 1 for text in texts]))
    own = SpeechTextPairs(root=str(folder), mels=8, min_frames_per_token=1, text_language=None, languages=("fr",)).load(
        seed=0
    )
    assert all(text.startswith("le ") for text in texts_of(own.validation)[0])
    assert len(source.list_files()) == 40


def test_no_text_is_in_two_splits(tmp_path):
    more = ["k30\ten\ten/k00.wav\tAlpha alpha!", "k30\tfr\tfr/k01.wav\tun autre texte"]
    data = SpeechTextPairs(root=str(write_pairs(tmp_path / "a", more=more)), mels=8).load(seed=1)
    splits = {"train": data.train, "validation": data.validation, "test": data.test.unlock("test")}
    words = {
        name: {"".join(filter(str.isalpha, text.lower())) for text in texts_of(split)[0]}
        for name, split in splits.items()
    }
    for name, texts in words.items():
        assert not texts & set().union(*(words[other] for other in words if other != name))


def test_vocabularies_are_those_of_the_training_texts(tmp_path):
    data = SpeechTextPairs(root=str(write_pairs(tmp_path / "a")), mels=8).load(seed=0)
    words = {word for text in texts_of(data.train)[0] for word in text.lower().replace(".", " .").split()}
    assert set(data.facts["vocabulary"]) == words | {"[PAD]", "[UNK]"}


def test_clips_that_are_too_long_or_too_fast_are_left_out(tmp_path):
    folder = write_pairs(tmp_path / "a")
    assert sizes(folder) == 40
    assert 0 < sizes(folder, max_seconds=0.5) < 40
    # "le india golf" needs 13 frames of CTC; a clip of 0.4 s has 41 frames of 10 ms.
    assert 0 < sizes(folder, min_frames_per_token=4) < 40
    with pytest.raises(LimbeckError, match=r"all clips are longer than max_seconds 0\.1"):
        sizes(folder, max_seconds=0.1)


def sizes(folder, **settings):
    data = SpeechTextPairs(**{"root": str(folder), "mels": 8, "min_frames_per_token": 1, **settings}).load(seed=0)
    return len(data.train) + len(data.validation) + len(data.test)


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ("k1\ten\t../k1.wav\ttext", {}, "file must be in the folder of the table, got '../k1.wav'"),
        ("k1\ten\t/etc/k1.wav\ttext", {}, "line 42 of .* file must be in the folder"),
        ("\ten\ten/k01.wav\ttext", {}, "line 42 of .* must have a key and a language"),
        ("k1\ten", {}, "line 42 of .* must have key, language, file, text"),
        ("", {"languages": ("de",)}, "languages: transcripts.tsv has the languages en, fr, got 'de'"),
        ("", {"text_language": "de"}, "text_language: transcripts.tsv has the languages en, fr, got 'de'"),
        ("", {"mels": 0}, "mels, max_tokens and min_frames_per_token must be at least 1"),
    ],
)
def test_errors_are_one_sentence(tmp_path, row, settings, message):
    folder = write_pairs(tmp_path / "a", more=[row] if row else [])
    with pytest.raises(LimbeckError, match=message):
        SpeechTextPairs(**{"root": str(folder), "mels": 8, **settings}).load(seed=0)


def test_a_missing_or_damaged_table_is_one_sentence(tmp_path):
    with pytest.raises(LimbeckError, match=r"transcripts\.tsv with the columns key, language, file, text must be in"):
        SpeechTextPairs(root=str(tmp_path)).load(seed=0)
    (tmp_path / "transcripts.tsv").write_text("key\ttext\na\tb\n")
    with pytest.raises(LimbeckError, match="must have the columns key, language, file, text and at least one row"):
        SpeechTextPairs(root=str(tmp_path)).load(seed=0)
    (tmp_path / "transcripts.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(LimbeckError, match="cannot be read"):
        SpeechTextPairs(root=str(tmp_path)).load(seed=0)
