"""Folders of clips: splits of the table, targets of characters or phonemes, and clips without a transcript."""

from __future__ import annotations

import shutil
import stat

import numpy as np
import pytest
import torch
from tests.data.test_spoken_digits import write_wav

from limbeck import LimbeckError
from limbeck.data import transcripts
from limbeck.data.sources import SpeechFolder
from limbeck.data.split import UNLABELED
from limbeck.tasks import SpeechCTC
from limbeck.testing import check_data_source

TEXTS = ("One two.", "two, three", "Three's company", "one", "two")
LEXICON = ";;; digits\nONE  W AH1 N\nONE(2)  HH W AH1 N\nTWO\tT UW1\nTHREE'S  TH R IY1 Z\nTHREE TH R IY1 # three\n"


def write_folder(folder, *, num_clips=40, more=(), header="file\ttext\tsplit\tspeaker", row="{file}\t{text}\t\ts{s}"):
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), [header]
    for number in range(num_clips):
        write_wav(folder / f"{number}.wav", rng.normal(size=3200 + 80 * number) * 0.1)
        rows.append(row.format(file=f"{number}.wav", text=TEXTS[number % 5], s=number % 8))
    (folder / "transcripts.tsv").write_text("\n".join([*rows, *more]) + "\n")
    return folder


def spell(data, split):
    fields = split.read_fields(torch.arange(len(split)))
    rows = zip(fields["target"].tolist(), fields["target_length"].tolist(), strict=True)
    between = "" if data.facts["word_separator"] is not None else " "
    return [between.join(data.class_names[token] for token in row[: max(0, n)]) for row, n in rows]


def test_targets_are_characters_and_no_speaker_is_in_two_splits(tmp_path):
    source = SpeechFolder(root=str(write_folder(tmp_path / "speech")), mels=8)
    data = check_data_source(source, skip={"labels"})
    assert data.class_names[0] == "-"
    assert data.class_names[data.facts["word_separator"]] == " "
    splits = (data.train, data.validation, data.test.unlock("test"))
    assert sum(map(len, splits)) == 40
    groups = [set(split.groups.tolist()) for split in splits]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 8
    assert set(spell(data, data.train)) == {"one two", "two three", "three's company", "one", "two"}
    assert len(source.list_files()) == 40


def test_the_table_gives_the_splits_and_clips_without_a_text_are_unlabeled(tmp_path):
    more = ["0.wav\t\t\t", "1.wav\t\ttrain\t", "2.wav\tone\tdev\t", "3.wav\ttwo\tVal\t", "4.wav\tthree\ttest\t"]
    folder = write_folder(tmp_path / "speech", more=more, row="{file}\t{text}\ttrain\t")
    data = SpeechFolder(root=str(folder), mels=8).load(seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (42, 2, 1)
    assert int((data.train.target == UNLABELED).sum()) == 2
    assert sorted(spell(data, data.validation)) == ["one", "two"]
    lengths = data.train.read_fields(torch.arange(42))["target_length"]
    assert int((lengths < 0).sum()) == 2


def test_a_character_that_training_lacks_is_an_error_of_every_network(tmp_path):
    folder = write_folder(tmp_path / "speech", more=["0.wav\tquite\ttest\t"], row="{file}\t{text}\ttrain\t")
    data = SpeechFolder(root=str(folder), mels=8).load(seed=0)
    assert "q" not in data.class_names
    assert data.class_names[-1] == "⁇"
    assert spell(data, data.test.unlock("test")) == ["⁇⁇⁇te"]
    assert not any("⁇" in text for text in spell(data, data.train))


def test_characters_of_single_words_are_characters(tmp_path):
    folder = tmp_path / "speech"
    write_folder(folder, row="{file}\tone\t\t")
    data = SpeechFolder(root=str(folder), mels=8).load(seed=0)
    task = SpeechCTC(classes=len(data.class_names), word_separator=data.facts["word_separator"])
    assert task.primary_metric.name == "cer"


def test_clips_without_a_speaker_are_no_group(tmp_path):
    more = [f"{i}.wav\tone\t\tanna" for i in range(4)]
    folder = write_folder(tmp_path / "speech", more=more, row="{file}\t{text}\t\t")
    data = SpeechFolder(root=str(folder), mels=8).load(seed=0)
    sizes = [len(split) for split in (data.train, data.validation, data.test)]
    assert sum(sizes) == 44
    assert min(sizes) >= 4


def test_clips_that_are_left_out_are_counted(tmp_path):
    folder = write_folder(tmp_path / "speech")
    with pytest.warns(UserWarning, match=r"15 of 40 clips are longer than max_seconds or too short"):
        data = SpeechFolder(root=str(folder), mels=8, max_seconds=0.64).load(seed=0)
    assert sum(map(len, (data.train, data.validation, data.test))) == 25


def test_phonemes_of_a_lexicon(tmp_path):
    folder = write_folder(tmp_path / "speech", num_clips=20)
    (folder / "words.txt").write_text(LEXICON + "COMPANY  K AH1 M P AH0 N IY0\n")
    data = SpeechFolder(root=str(folder), mels=8, units="phonemes", lexicon="words.txt").load(seed=0)
    assert data.facts["word_separator"] is None
    assert set(spell(data, data.train)) <= {
        "W AH N T UW", "T UW TH R IY", "TH R IY Z K AH M P AH N IY", "W AH N", "T UW",
    }  # fmt: skip
    (folder / "words.txt").write_text(LEXICON)
    with pytest.raises(LimbeckError, match=r"1 are not: company; add them"):
        SpeechFolder(root=str(folder), mels=8, units="phonemes", lexicon="words.txt").load(seed=0)


def write_program(folder, text):
    folder.mkdir()
    (folder / "espeak-ng").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "espeak-ng").chmod(stat.S_IRWXU)
    return str(folder)


def test_the_output_of_espeak_is_read_by_phoneme(tmp_path, monkeypatch):
    """espeak-ng 1.51 writes a line for each clause, phonemes with `_` between them, and stress marks."""
    monkeypatch.setenv("PATH", write_program(tmp_path / "a", "printf 'z_ˈiə_ɹ_əʊ w_ˈɒ_n\\np_l_ˈiː_z\\n'"))
    expected = ["z", "iə", "ɹ", "əʊ", "w", "ɒ", "n", "p", "l", "iː", "z"]
    assert transcripts.espeak_phonemes(["zero one, please", "zero one, please"], "en") == [expected] * 2
    program = write_program(tmp_path / "b", "echo 'Error: The specified espeak-ng voice does not exist.' >&2; exit 1")
    monkeypatch.setenv("PATH", program)
    with pytest.raises(LimbeckError, match=r"no phonemes of 'a' in 'xx' \(Error: The specified espeak-ng voice"):
        transcripts.espeak_phonemes(["a"], "xx")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LimbeckError, match=r"espeak-ng, which is not installed: set data.lexicon"):
        transcripts.espeak_phonemes(["a"], "en")


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="the program espeak-ng is not installed")
def test_espeak_gives_phonemes():
    one, empty = transcripts.espeak_phonemes(["one!", ""], "en")
    assert one[0] == "w"
    assert one[-1] == "n"
    assert not empty


def test_letters_with_marks_are_kept():
    assert transcripts.to_characters("Ça  va? မြန်မာ") == "ça va မြန်မာ"


@pytest.mark.parametrize(
    ("more", "settings", "message"),
    [
        (["0.wav\tone\tvalid\t"], {}, r"line 42 .* must have a file and as split train, val, test"),
        (["\tone\t\t"], {}, r"line 42 .* must have a file"),
        (["0.wav\t\ttest\t"], {}, r"a test clip must have a text"),
        (["../0.wav\tone\t\t"], {}, r"file must be in the folder of the table"),
        (["0.wav\t?!\ttest\tben"], {}, r"a test clip must have characters, and '\?!' of .*0.wav has none"),
        (["0.wav\tone\ttest\ts1"], {}, r"must be in one split, and 's1' is in none and test: correct them"),
        (["a\0b.wav\tone\t\t"], {}, r"cannot be read"),
        (["9.mp3\tone\t\t"], {}, "soundfile|cannot be read"),
        ([], {"units": "words"}, "units must be characters or phonemes, got 'words'"),
        ([], {"lexicon": "words.txt"}, "lexicon needs units: phonemes"),
        ([], {"units": "phonemes", "lexicon": "words.txt"}, "words.txt cannot be read"),
        ([], {"units": "phonemes", "language": "../en"}, "language must be a voice of espeak-ng"),
        ([], {"mels": 0}, "mels and min_frames_per_token must be at least 1"),
        ([], {"max_seconds": 0.01}, "all clips are longer than max_seconds"),
    ],
)
def test_errors_are_one_sentence(tmp_path, more, settings, message):
    folder = write_folder(tmp_path / "speech", more=more)
    with pytest.raises(LimbeckError, match=message):
        SpeechFolder(root=str(folder), **{"mels": 8, **settings}).load(seed=0)


def test_a_damaged_lexicon_is_one_sentence(tmp_path):
    path = tmp_path / "words.txt"
    for content, message in (("ONE\n", "must be a word and its phonemes"), ("# nothing\n", "must have a word")):
        path.write_text(content)
        with pytest.raises(LimbeckError, match=message):
            transcripts.read_lexicon(path)


def test_a_folder_without_a_table_is_one_sentence(tmp_path):
    with pytest.raises(LimbeckError, match=r"transcripts.tsv with the columns file and text must be in data.root"):
        SpeechFolder(root=str(tmp_path)).load(seed=0)
